"""How past runs are renamed, scaled and sorted into tasks while they are imported: the mapping file.

rename: {learning_rate: lr, "optimizer.name": optimizer}    # parameters and metrics
scale:  {lr: 0.001, val_acc: 0.01}                           # multiplied; by the new names
replace: {lr: {auto: 0.001, none: null}}                     # values, by the new names; null: as if it had none
drop:   [run_dir, "hydra.*"]                                 # parameters, by the old or the new name; globs
metric: val_acc                                              # by the new name
direction: maximize
value: best                                                  # or last: which value of a curve counts
task: "{experiment}/{param:model}"                           # also {tag:team}, {folder}, {run_name}
space: {lr: {type: float, low: 1e-5, high: 0.1, log: true}}  # instead of a guess
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import yaml

from storage.distributions import distribution_of
from storage.errors import ImportFailedError
from storage.importers.inference import ABSENT, Fields, repair

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases are expanded: a few lines of them can stand for billions
MAX_DEPTH = 50

WORDS_IN_TASKS = ("experiment", "folder", "run_name", "file", "study")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

Keys = tuple[str | int, ...]


class MappingError(ImportFailedError):
    """A mapping says something impossible; `keys` is where."""

    def __init__(self, keys: Keys, problem: str) -> None:
        super().__init__(f"{'.'.join(map(str, keys))}: {problem}" if keys else problem)
        self.keys = keys


@dataclass(frozen=True, kw_only=True)
class RunMapping:
    """What is done to each run. Raises MappingError where it says something impossible."""

    rename: Mapping[str, str] = field(default_factory=dict)  # old name to new name
    scale: Mapping[str, float] = field(default_factory=dict)  # by the new name
    replace: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)  # by the new name: old value to new value
    drop: tuple[str, ...] = ()  # globs
    metric: str | None = None  # by the new name
    direction: str | None = None  # minimize or maximize
    value: str | None = None  # last or best; None: as the reader finds right
    task: str | None = None  # a template
    space: Mapping[str, Fields] = field(default_factory=dict)  # in the words of a study file

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(cls, content: "RunMapping | Mapping[str, Any] | None") -> "RunMapping":
        """A mapping as it is, or from the content of a mapping file. Raises MappingError."""
        if isinstance(content, RunMapping):
            return content
        return _from_content({} if content is None else content)

    def params(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A run's parameters under their new names, scaled or replaced, without those that are dropped.

        Raises ValueError where two of them get one name, or where one that is scaled is no number.
        """
        if not (self.rename or self.scale or self.replace or self.drop):
            return dict(raw)
        found: dict[str, Any] = {}
        for old, value in raw.items():
            name = self.rename.get(old, old)
            if self.drops(old) or self.drops(name):
                continue
            if name in found and found[name] is not ABSENT and value is not ABSENT:
                raise ValueError(f"two parameters are called {name!r} after renaming: {old!r} is one of them")
            if name not in found or value is not ABSENT:
                found[name] = self._fitted(name, value)
        return found

    def metric_name(self, old: str) -> str:
        """The new name of a metric."""
        return self.rename.get(old, old)

    def old_names(self, metric: str) -> list[str]:
        """Under which names a metric may have been logged, the most likely one first."""
        renamed = [old for old, new in self.rename.items() if new == metric]
        return renamed if metric in self.rename else [*renamed, metric]

    def factor(self, metric: str) -> float:
        """What the values of a metric, by its new name, are multiplied with."""
        return self.scale.get(metric, 1.0)

    def _fitted(self, name: str, value: Any) -> Any:
        """A value replaced or scaled: what stands for another one is as it should be."""
        if name in self.replace:
            known, word = self._replacements[name], repair(value)
            if (isinstance(word, bool), word) in known:
                return known[isinstance(word, bool), word]
        return self._scaled(name, value) if name in self.scale else value

    @cached_property
    def _replacements(self) -> dict[str, dict[tuple[bool, Any], Any]]:
        """By name and old value, as `repair` has it: True is not 1."""
        return {
            name: {
                (isinstance(word := repair(old), bool), word): ABSENT if new is None else new
                for old, new in values.items()
            }
            for name, values in self.replace.items()
        }

    def _scaled(self, name: str, value: Any) -> Any:
        number = repair(value)
        if number is ABSENT or number is None:
            return number
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"cannot be scaled: {name} = {str(value)[:80]!r} is no number")
        return scaled(number, self.scale[name])

    def drops(self, name: str) -> bool:
        """Whether a parameter of that name is not wanted."""
        if name not in self._dropped:
            self._dropped[name] = any(fnmatchcase(name, glob) for glob in self.drop)
        return self._dropped[name]

    @cached_property
    def _dropped(self) -> dict[str, bool]:
        return {}


def scaled(number: float, factor: float) -> float:
    """The product, without digits that only the binary system sees; an integer stays one under a whole factor."""
    if factor == 1.0:
        return number
    product = float(f"{number * factor:.15g}")
    is_whole = isinstance(number, int) and float(factor).is_integer() and math.isfinite(product)
    return int(product) if is_whole else product


def task_name(
    template: str,
    words: Mapping[str, str],
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """The name of a run's task: a template with what is in braces replaced.

    words: what the reader knows, such as `experiment`; params: old and new names both do.
    Raises ValueError where the run has no such thing.
    """

    def replaced(match: re.Match[str]) -> str:
        kind, _, name = match[1].partition(":")
        if kind == "param":
            found = (params or {}).get(name, ABSENT)
        elif kind == "tag":
            found = (tags or {}).get(name, ABSENT)
        else:
            found = words.get(kind, ABSENT)
        if found is ABSENT:
            raise ValueError(f"the task cannot be told: the run has no {kind}{f' {name!r}' if name else ''}")
        return str(found)

    return _PLACEHOLDER.sub(replaced, template)


def check_template(template: str) -> None:
    """Raises ImportFailedError where a template asks for what no run has."""
    _check_template(template, ())


def _check_template(template: str, keys: Keys) -> None:
    for content in _PLACEHOLDER.findall(template):
        kind, colon, name = content.partition(":")
        if not ((kind in ("param", "tag") and name) or (kind in WORDS_IN_TASKS and not colon)):
            known = ", ".join(f"{{{word}}}" for word in WORDS_IN_TASKS)
            raise MappingError(
                keys, f"{template!r} is no task: {{{content}}} is unknown; use {{param:NAME}}, {{tag:NAME}} or {known}"
            )
    if not template.strip() or set(_PLACEHOLDER.sub("", template)) & set("{}"):
        raise MappingError(keys, f"{template!r} is no task: it is empty, or a brace has no partner")


# Content


def _from_content(content: Any) -> RunMapping:
    known = [each.name for each in fields(RunMapping)]
    if not isinstance(content, Mapping):
        raise MappingError((), f"it must be keys with values; the keys are {', '.join(known)}")
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            raise MappingError((str(key),), f"unknown; {hint}")
    given = {key: value for key, value in content.items() if value is not None}
    for key in ("rename", "scale", "replace", "space"):
        if not isinstance(given.get(key, {}), Mapping):
            raise MappingError((key,), "it must be names with values, as in `{learning_rate: ...}`")
    if "drop" in given:
        drop = given["drop"]
        given["drop"] = (drop,) if isinstance(drop, str) else tuple(drop) if isinstance(drop, list | tuple) else drop
    return RunMapping(**given)


def _check(mapping: RunMapping) -> None:
    for old, new in mapping.rename.items():
        if not isinstance(old, str) or not isinstance(new, str) or not new:
            raise MappingError(("rename", str(old)), f"{new!r} is no name; quote names that look like something else")
    for name, factor in mapping.scale.items():
        _check_factor(name, factor, mapping.rename)
    for name, values in mapping.replace.items():
        _check_replacements(name, values, mapping.rename)
    if not isinstance(mapping.drop, tuple) or not all(isinstance(glob, str) for glob in mapping.drop):
        raise MappingError(("drop",), "it must be a list of names, with * for any characters")
    for key, allowed in (("direction", ("minimize", "maximize")), ("value", ("last", "best"))):
        given = getattr(mapping, key)
        if given is not None and given not in allowed:
            raise MappingError((key,), f"{given!r} is unknown; use {allowed[0]} or {allowed[1]}")
    for key in ("metric", "task"):
        given = getattr(mapping, key)
        if given is not None and (not isinstance(given, str) or not given):
            raise MappingError((key,), f"{given!r} is no text; quote it")
    if mapping.task is not None:
        _check_template(mapping.task, ("task",))
    for name, parameter in mapping.space.items():
        _check_parameter(str(name), parameter, mapping.space)


def _check_factor(name: Any, factor: Any, rename: Mapping[str, str]) -> None:
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not isinstance(name, str) or not is_number or not math.isfinite(factor) or factor <= 0:
        raise MappingError(("scale", str(name)), f"{factor!r} is no factor; it must be a positive number")
    if rename.get(name, name) != name and name not in rename.values():
        raise MappingError(("scale", name), f"it is renamed to {rename[name]!r}; scale it under that name")


def _check_replacements(name: Any, values: Any, rename: Mapping[str, str]) -> None:
    keys = ("replace", str(name))
    if not isinstance(name, str) or not isinstance(values, Mapping):
        raise MappingError(keys, "it must be old values with new ones, as in `lr: {auto: 0.001}`")
    for old, new in values.items():
        if new is not None and not isinstance(new, bool | int | float | str):
            raise MappingError((*keys, str(old)), f"{new!r} is no value of a parameter; null stands for none")
    if rename.get(name, name) != name and name not in rename.values():
        raise MappingError(keys, f"it is renamed to {rename[name]!r}; replace its values under that name")


def _check_parameter(name: str, parameter: Any, space: Mapping[str, Any]) -> None:
    keys = ("space", name)
    if not isinstance(parameter, Mapping):
        raise MappingError(keys, "it must be fields, as in `{type: float, low: 0.0, high: 1.0}`")
    known = ("type", "low", "high", "log", "step", "choices", "when")
    for key in parameter:
        if key not in known:
            raise MappingError((*keys, str(key)), f"unknown; the fields are {', '.join(known)}")
    try:
        distribution_of(name, parameter)
    except KeyError as error:
        raise MappingError(keys, f"{error.args[0]} is missing") from error
    except (ValueError, TypeError) as error:
        raise MappingError(keys, str(error).removeprefix(f"space.{name}.")) from error
    when = parameter.get("when") or {}
    if not isinstance(when, Mapping) or len(when) > 1 or any(parent not in space or parent == name for parent in when):
        raise MappingError((*keys, "when"), "name one other parameter of this space, as in `{optimizer: [sgd]}`")


# The file


class PlainLoader(yaml.SafeLoader):
    """SafeLoader that reads `1e-5` as the number it looks like (YAML 1.2), not as the text it is in YAML 1.1."""


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def load_mapping(path: Path) -> RunMapping:
    """The mapping in a file. Raises ImportFailedError, with the line, where there is none or something is wrong."""
    content, lines = load_yaml(path)
    try:
        return _from_content({} if content is None else content)
    except MappingError as error:
        above = (error.keys[:depth] for depth in range(len(error.keys), 0, -1))
        at = next((lines[keys] for keys in above if keys in lines), 1)
        raise ImportFailedError(f"{path}:{at}: {error}") from error


def load_yaml(path: Path, plain: type[PlainLoader] = PlainLoader) -> tuple[Any, dict[Keys, int]]:
    """The content of a YAML file, and the line (from 1) of each key. No tag makes an object of anything but YAML's own.

    plain: how values become Python's.
    Raises ImportFailedError when the file cannot be read, is too large, is no plain YAML, or names a key twice.
    """
    loader = None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImportFailedError(f"{path}: {path.stat().st_size:,} bytes are too many (at most {MAX_BYTES:,})")
        loader = plain(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines: dict[Keys, int] = {}
        if node is None:
            return None, lines
        _check_size(path, node)
        _collect_lines(path, node, (), lines)
        return loader.construct_document(node), lines
    except FileNotFoundError as error:
        raise ImportFailedError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ImportFailedError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ImportFailedError(f"{path}{_yaml_reason(error)}") from error
    except (ValueError, RecursionError, OverflowError) as error:  # a date of month 13, brackets 10,000 deep
        if isinstance(error, ImportFailedError):
            raise
        raise ImportFailedError(f"{path}: this is not valid YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _check_size(path: Path, root: yaml.Node) -> None:
    sizes: dict[int, int] = {}

    def fail(node: yaml.Node, problem: str) -> NoReturn:
        raise ImportFailedError(f"{path}:{node.start_mark.line + 1}: {problem}")

    def size(node: yaml.Node, above: tuple[int, ...]) -> int:
        if id(node) in above:
            fail(node, "an alias refers to itself")
        if len(above) > MAX_DEPTH:
            fail(node, f"nested too deeply (at most {MAX_DEPTH} levels)")
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(size(child, (*above, id(node))) for child in _children(node))
        return sizes[id(node)]

    total = size(root, ())
    if total > MAX_NODES:
        raise ImportFailedError(f"{path}: {total:,} values once its aliases are expanded (at most {MAX_NODES:,})")


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _collect_lines(file: Path, node: yaml.Node, path: Keys, lines: dict[Keys, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below, line = (*path, str(key.value)), key.start_mark.line + 1
            if below in lines:
                name = ".".join(map(str, below))
                raise ImportFailedError(f"{file}:{line}: {name} stands twice (first on line {lines[below]})")
            lines[below] = line
            _collect_lines(file, value, below, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(file, value, (*path, index), lines)


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    where = f":{mark.line + 1}" if mark is not None else ""
    if isinstance(error, yaml.constructor.ConstructorError) and "tag" in problem:
        return f"{where}: {problem.splitlines()[0]}: only plain values are read"
    return f"{where}: this is not valid YAML: {problem}"
