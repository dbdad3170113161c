"""Reading a YAML file safely, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hpo.errors import SpecError

if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader
else:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast

Path_ = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # as written, and after aliases are expanded: a few lines of them can stand for billions


class _Loader(SafeLoader):
    """SafeLoader that reads `1e-5` as the number it looks like (YAML 1.2), not as the text it is in YAML 1.1.

    It gives up at more values than a study file has: each takes time. source: what the text is called in errors.
    """

    def __init__(self, text: str, source: str = "study") -> None:
        super().__init__(text)
        self._source, self._nodes = source, 0

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: bool | tuple[bool, bool]) -> str:
        """The tag of a node, which is counted. Raises SpecError."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SpecError(f"{self._source}: more than {MAX_NODES:,} values are too many for a study file")
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return tag


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> tuple[Any, dict[Path_, int]]:
    """The content of a YAML file, and the line (from 1) at which each key path stands.

    Raises SpecError when the file cannot be read, is too large, is no YAML, or names a key twice.
    """
    return parse_yaml(_read_text(path), str(path))


def parse_yaml(text: str, source: str) -> tuple[Any, dict[Path_, int]]:
    """As `read_yaml`, of a text. source: what it is called in errors."""
    if len(text) > MAX_BYTES:
        raise SpecError(f"{source}: {len(text):,} characters are too many for a study file (at most {MAX_BYTES:,})")
    try:
        loader = _Loader(text, source)
        try:
            node: yaml.Node | None = loader.get_single_node()
            if node is None:
                raise SpecError(f"{source}: the file is empty; `hpo init` writes an example")
            _check_aliases(source, node)
            lines: dict[Path_, int] = {}
            _collect_lines(source, node, (), lines)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise SpecError(f"{source}: this is not valid YAML: {_yaml_reason(error)}") from error
    except RecursionError as error:
        raise SpecError(f"{source}: nested too deeply") from error
    except SpecError:
        raise
    except ValueError as error:  # what looks like a date, and is none
        raise SpecError(f"{source}: this is not valid YAML: {error}") from error


def check_size(content: Any, source: str) -> None:
    """Refuse plain data that no study file holds: to check each value takes time. Raises SpecError."""
    waiting, count = [content], 0
    while waiting:
        count += 1
        if count > MAX_NODES:
            raise SpecError(f"{source}: more than {MAX_NODES:,} values are too many for a study file")
        node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list | tuple):
            waiting += node


def compose(text: str) -> yaml.Node | None:
    """The nodes of a text that `read_yaml` takes, which know where they stand in it."""
    loader = _Loader(text)
    try:
        found: yaml.Node | None = loader.get_single_node()
        return found
    finally:
        loader.dispose()


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(
                f"{path}: {path.stat().st_size:,} bytes is too large for a study file (at most {MAX_BYTES:,})"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such file; `hpo init {path}` writes an example") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error


def _check_aliases(path: str, root: yaml.Node) -> None:
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: tuple[int, ...]) -> int:
        if id(node) in above:
            raise SpecError(f"{path}: an alias refers to itself (line {node.start_mark.line + 1})")
        if id(node) not in sizes:
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in node.value for child in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(size(child, (*above, id(node))) for child in children)
        return sizes[id(node)]

    total = size(root, ())
    if total > MAX_NODES:
        raise SpecError(f"{path}: {total:,} values once its aliases are expanded (at most {MAX_NODES:,})")


def _collect_lines(file: str, node: yaml.Node, path: Path_, lines: dict[Path_, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            if below in lines:
                name = ".".join(map(str, below))
                raise SpecError(f"{file}:{key.start_mark.line + 1}: {name} stands twice (first on line {lines[below]})")
            lines[below] = key.start_mark.line + 1
            _collect_lines(file, value, below, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(file, value, (*path, index), lines)


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else problem
