"""How a study file takes advice: soft, as `likely`, or hard, as narrower ranges. Comments and layout stay."""

from __future__ import annotations

import difflib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.errors import SettingsError, SpecError
from hpo.spaces.space import SearchSpace, describe
from hpo.studies.study_file import load_spec
from hpo.studies.yaml_lines import compose

TOLERANCE = 1e-4  # relative, between a value and how it is written
_PLAIN = re.compile(r"[A-Za-z_][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class AdvisedFile:
    """A study file as it would be."""

    path: Path
    text: str
    changed: dict[str, tuple[Any, ...]]  # by parameter: (low, high), or choices
    left: dict[str, str]  # by parameter: why it stays as it is
    diff: tuple[str, ...]  # lines that go (-), come (+), and stay around them

    def write(self) -> None:
        """Overwrite the file."""
        try:
            self.path.write_text(self.text, encoding="utf-8", newline="")
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be written: {error.strerror}") from error


class AdvisedRegion(Protocol):
    """What is advised for one parameter."""

    @property
    def name(self) -> str:
        """The parameter."""
        ...

    @property
    def distribution(self) -> BaseDistribution:
        """The whole range."""
        ...

    @property
    def likely(self) -> tuple[Any, ...]:
        """(low, high), or choices."""
        ...

    @property
    def hardly_matters(self) -> bool:
        """Whether nearly every value is good for nearly every task."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Edit:
    """A stretch of the text and what comes in its place."""

    start: int
    end: int
    text: str


def advised_file(path: Path, regions: Sequence[AdvisedRegion], *, hard: bool) -> AdvisedFile:
    """The study file with the advice in it; nothing is written yet. Raises SpecError and SettingsError."""
    spec = load_spec(path)
    with path.open(encoding="utf-8", newline="") as file:
        original = file.read()
    text = original.replace("\r\n", "\n")
    nodes = _parameter_nodes(path, text)
    space = spec.search_space()
    changed: dict[str, tuple[Any, ...]] = {}
    left = dict.fromkeys(space.distributions, "the past has not searched it")
    for region in regions:
        if region.name in space.distributions:
            reason, values = _fitted(region, space.distributions[region.name], hard=hard)
            reason, values = (reason, values) if values is None else _written_out(region.name, nodes, values, hard=hard)
            if values is None:
                left[region.name] = reason
            else:
                changed[region.name] = values
                del left[region.name]
    edits = [
        edit
        for name, values in changed.items()
        for edit in _edits(path, text, nodes[name], name, values, likely=space.likely.get(name, values), hard=hard)
    ]
    new = text
    for edit in sorted(edits, key=lambda edit: -edit.start):
        new = new[: edit.start] + edit.text + new[edit.end :]
    _check(path, new, changed, hard=hard)
    lines = difflib.unified_diff(text.splitlines(), new.splitlines(), lineterm="", n=3)
    diff = tuple("…" if line.startswith("@@") else line for line in lines if not line.startswith(("---", "+++")))
    written = new.replace("\n", "\r\n") if "\r\n" in original else new
    return AdvisedFile(path=path, text=written, changed=changed, left=left, diff=diff)


def _fitted(region: AdvisedRegion, distribution: BaseDistribution, *, hard: bool) -> tuple[str, tuple[Any, ...] | None]:
    """The advice within the range of the file, or why there is none."""
    if region.hardly_matters:
        return "nearly every value of it was good for nearly every task", None
    if type(region.distribution) is not type(distribution):
        return f"it is {describe(distribution)} here and was {describe(region.distribution)}", None
    if isinstance(distribution, CategoricalDistribution):
        choices = tuple(choice for choice in distribution.choices if choice in region.likely)
        if not choices:
            return "none of the advised choices is here", None
        return ("nothing can be left out", None) if len(choices) == len(distribution.choices) else ("", choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = max(region.likely[0], distribution.low), min(region.likely[1], distribution.high)
    if hard and distribution.step is not None and not distribution.log:
        low = distribution.low + distribution.step * math.floor(
            (low - distribution.low) / distribution.step + TOLERANCE
        )
        high = distribution.low + distribution.step * math.ceil(
            (high - distribution.low) / distribution.step - TOLERANCE
        )
    if low > high or (low == high and (hard or isinstance(distribution, FloatDistribution))):
        shown = f"{region.likely[0]:.6g} … {region.likely[1]:.6g}"
        return (f"the advice is {shown}: a range of one value is a fixed argument" if low == high else
                f"the advice, {shown}, lies outside of its range {describe(distribution)}"), None  # fmt: skip
    is_everything = low <= distribution.low and high >= distribution.high
    return ("nothing can be left out", None) if is_everything else ("", (low, high))


def _written_out(
    name: str, nodes: Mapping[str, yaml.MappingNode], values: tuple[Any, ...], *, hard: bool
) -> tuple[str, tuple[Any, ...] | None]:
    """The advice where its place stands in the file; `type: optimizer` stands for parameters that do not."""
    if name not in nodes:
        return f"it comes with `{name.partition('.')[0]}`; write its range into the file to have it changed", None
    if hard and not {"choices", "low"} & {key.value for key, _ in nodes[name].value}:
        return "its choices are the usual ones; write them into the file to have them changed", None
    return "", values


def _parameter_nodes(path: Path, text: str) -> dict[str, yaml.MappingNode]:
    root = compose(text)
    assert isinstance(root, yaml.MappingNode)  # it was a study file a moment ago
    space = next((value for key, value in root.value if key.value == "space"), None)
    if not isinstance(space, yaml.MappingNode):
        raise SettingsError(
            f"{path} has no `space` of its own, its recipe brings it; `hpo init` writes a file that has one"
        )
    return {key.value: value for key, value in space.value if isinstance(value, yaml.MappingNode)}


def _edits(
    path: Path,
    text: str,
    node: yaml.MappingNode,
    name: str,
    values: Sequence[Any],
    *,
    likely: Sequence[Any],
    hard: bool,
) -> Iterator[_Edit]:
    fields = {key.value: value for key, value in node.value}
    if hard:
        if "choices" in fields:
            yield _replace(path, name, fields["choices"], _flow(values))
            kept: Sequence[Any] = [value for value in likely if value in values] or values
        else:
            yield _replace(path, name, fields["low"], _written(values[0]))
            yield _replace(path, name, fields["high"], _written(values[1]))
            both = max(likely[0], values[0]), min(likely[1], values[1])
            kept = both if both[0] < both[1] else values
        if "likely" in fields:
            yield _replace(path, name, fields["likely"], _flow(kept))
    elif "likely" in fields:
        yield _replace(path, name, fields["likely"], _flow(values))
    elif node.flow_style:
        end = node.value[-1][1].end_mark.index
        yield _Edit(start=end, end=end, text=f", likely: {_flow(values)}")
    else:
        first = node.value[0][0].start_mark
        after = fields.get("high") or fields.get("choices") or fields["type"]
        indent = " " * first.column
        if isinstance(after, yaml.SequenceNode) and not after.flow_style:
            yield _Edit(start=first.index, end=first.index, text=f"likely: {_flow(values)}\n{indent}")
        else:
            end = text.find("\n", after.end_mark.index)
            end = len(text) if end < 0 else end
            yield _Edit(start=end, end=end, text=f"\n{indent}likely: {_flow(values)}")


def _replace(path: Path, name: str, node: yaml.Node, text: str) -> _Edit:
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        line = node.start_mark.line + 1
        raise SettingsError(
            f"{path}:{line}: space.{name}: write this list on one line, as in [a, b], to have it changed"
        )
    return _Edit(start=node.start_mark.index, end=node.end_mark.index, text=text)


def _flow(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(_written, values))}]"


def _written(value: Any) -> str:
    """A value as this YAML reads it again, text without quotes where that is the same."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        node = compose(value)
        if node is not None and node.tag == "tag:yaml.org,2002:str":
            return value
    if isinstance(value, float) and math.isclose(value, float(f"{value:.6g}"), rel_tol=1e-12):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)  # which is YAML, too


def _check(path: Path, text: str, changed: dict[str, tuple[Any, ...]], *, hard: bool) -> None:
    """Raises SettingsError where the new text does not say what it should: better no file than a wrong one."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(text, encoding="utf-8")
        try:
            space = load_spec(copy).search_space()
        except SpecError as error:
            reason = str(error).replace(str(copy), str(path))
            raise SettingsError(f"the advice does not fit this file, which stays as it is:\n{reason}") from error
    wrong = [name for name, values in changed.items() if not _says(space, name, values, hard=hard)]
    if wrong:
        raise SettingsError(f"{path}: space.{wrong[0]} is written in a way that cannot be changed; change it by hand")


def _says(space: SearchSpace, name: str, values: Sequence[Any], *, hard: bool) -> bool:
    distribution = space.distributions[name]
    found: Sequence[Any]
    if not hard:
        found = space.likely.get(name, ())
    elif isinstance(distribution, CategoricalDistribution):
        found = distribution.choices
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        found = (distribution.low, distribution.high)
    return len(found) == len(values) and all(map(_is_same, found, values))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE)
    return type(one) is type(other) and bool(one == other)
