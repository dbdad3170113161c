"""What `space.json` says about a recorded table: the metric, the direction and the parameters."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from storage.distributions import distribution_of, fields_of
from storage.errors import ImportFailedError

SPACE_FILE = "space.json"
MOST_PARAMETERS = 1_000
MOST_BYTES = 64 * 2**20
PROVENANCE = ("source", "licence", "measured", "resource")  # fields that say where a table comes from
DIRECTIONS = ("minimize", "maximize")
CONFIG_COLUMN = "config"  # the column of configs.parquet that is no parameter
LONGEST_NAME = 500  # characters; a database's index does not take names of any length


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A parameter matters only where its parent has one of these values."""

    parent: str
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a recorded table."""

    name: str
    distribution: BaseDistribution
    condition: Condition | None = None
    optional: bool = False  # may be absent although no condition says so: it was defined by running
    as_json: bool = False  # its choices are of several types: they are kept as JSON text
    column: str  # of configs.parquet
    factor: float = 1.0  # what the recorded values are multiplied with

    @property
    def words(self) -> dict[str, Any]:
        """The parameter in the words of a study file."""
        fields = fields_of(self.distribution)
        if self.condition is not None:
            fields["when"] = {self.condition.parent: list(self.condition.values)}
        return fields

    def to_json(self) -> dict[str, Any]:
        """The parameter as in `space.json`."""
        fields = {"name": self.name, **fields_of(self.distribution)}
        if self.condition is not None:
            fields["when"] = {"parent": self.condition.parent, "in": list(self.condition.values)}
        if self.optional:
            fields["optional"] = True
        if self.as_json:
            fields["written"] = "json"
        if self.column != self.name:
            fields["column"] = self.column
        return fields


@dataclass(frozen=True, kw_only=True)
class RecordedSpace:
    """The description of a recorded table."""

    name: str
    metric: str
    direction: str  # minimize or maximize
    parameters: tuple[Parameter, ...]  # parents before their children
    qualified_tasks: bool = False  # the column `task` has whole names; else they begin with the table's
    factor: float = 1.0  # what the recorded values of the metric are multiplied with
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, dict[str, Any]]:
        """The space in the words of a study file."""
        return {parameter.name: parameter.words for parameter in self.parameters}

    def to_json(self) -> dict[str, Any]:
        """The content of `space.json`."""
        return {
            "name": self.name,
            "metric": self.metric,
            "direction": self.direction,
            "resource": None,
            **self.provenance,
            "qualified_tasks": self.qualified_tasks,
            "parameters": [parameter.to_json() for parameter in self.parameters],
        }


def read_space(folder: Path) -> RecordedSpace:
    """The description in a folder. Raises ImportFailedError, which says what in it is wrong."""
    path = folder / SPACE_FILE
    content = _content(path)
    name, metric, direction = (content.get(key) for key in ("name", "metric", "direction"))
    if not name or not is_name(name):
        raise ImportFailedError(f"{path}: `name` must be text of at most {LONGEST_NAME} characters, it is {name!r}.")
    if metric is not None and not is_name(metric):
        raise ImportFailedError(f"{path}: `metric` must be text of at most {LONGEST_NAME} characters, not {metric!r}.")
    if direction not in DIRECTIONS:
        raise ImportFailedError(f"{path}: `direction` must be minimize or maximize, it is {direction!r}.")
    return RecordedSpace(
        name=name,
        metric=metric or "value",
        direction=direction,
        parameters=_parents_first(path, _parameters(path, content)),
        qualified_tasks=content.get("qualified_tasks") is True,
        provenance={key: content[key] for key in PROVENANCE if content.get(key) is not None},
    )


def is_name(name: Any) -> bool:
    """Whether a database can keep it as a name."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and "\0" not in name and _is_unicode(name)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def choice_index(choices: Sequence[Any], value: Any) -> int | None:
    """The index of a value among the choices: True is not 1, but 1 is 1.0; text may stand for a choice."""
    for index, choice in enumerate(choices):
        if isinstance(choice, bool) == isinstance(value, bool) and (choice == value or _are_nan(choice, value)):
            return index
    texts = [index for index, choice in enumerate(choices) if str(value) in (str(choice), json.dumps(choice))]
    return texts[0] if len(texts) == 1 else None


# How it is done


def _content(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ImportFailedError(f"{path} is larger than {MOST_BYTES // 2**20} MiB.")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ImportFailedError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ImportFailedError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ImportFailedError(f"{path} must be an object with name, metric, direction and parameters.")
    return content


def _parameters(path: Path, content: Mapping[str, Any]) -> dict[str, Parameter]:
    described = content.get("parameters")
    if not isinstance(described, list) or not all(isinstance(fields, dict) for fields in described):
        raise ImportFailedError(f"{path}: `parameters` must be a list of objects with name, type and range or choices.")
    if len(described) > MOST_PARAMETERS:
        raise ImportFailedError(f"{path}: {len(described):,} parameters are more than {MOST_PARAMETERS:,}.")
    for fields in described:
        name = fields.get("name")
        column = fields.get("column", name)
        if not is_name(name) or not isinstance(column, str) or column == CONFIG_COLUMN:
            raise ImportFailedError(f"{path}: {name!r} is no name of a parameter.")
    for key in ("name", "column"):
        for given, times in Counter(fields.get(key, fields["name"]) for fields in described).items():
            if times > 1:
                raise ImportFailedError(f"{path}: the {key} {given!r} is there {times} times.")
    distributions = {fields["name"]: _distribution(path, fields) for fields in described}
    return {
        fields["name"]: Parameter(
            name=fields["name"],
            distribution=distributions[fields["name"]],
            condition=_condition(path, fields, distributions),
            optional=fields.get("optional") is True,
            as_json=fields.get("written") == "json",
            column=fields.get("column", fields["name"]),
        )
        for fields in described
    }


def _distribution(path: Path, fields: Mapping[str, Any]) -> BaseDistribution:
    name = str(fields["name"])
    try:
        _check_bounds(fields)
        with warnings.catch_warnings():  # Optuna's advice about steps and about choices that are not scalars
            warnings.simplefilter("ignore")
            return distribution_of(name, fields)
    except KeyError as error:
        raise ImportFailedError(f"{path}: {name} has no {error.args[0]!r}.") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ImportFailedError(f"{path}: {name}: {error}") from error


def _check_bounds(fields: Mapping[str, Any]) -> None:
    if fields.get("type") == "categorical":
        if not isinstance(fields["choices"], list):
            raise ValueError("choices must be a list")
        return
    for key in ("low", "high", "step"):
        bound = fields.get("step") if key == "step" else fields[key]
        if key == "step" and bound is None:
            continue
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ValueError(f"{key} must be a finite number, it is {bound!r}")
        if fields.get("type") == "int" and bound != int(bound):
            raise ValueError(f"{key} must be a whole number, it is {bound!r}")


def _condition(
    path: Path, fields: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> Condition | None:
    name, when = fields["name"], fields.get("when")
    if when is None:
        return None
    if not isinstance(when, dict) or not isinstance(when.get("parent"), str) or "in" not in when:
        raise ImportFailedError(
            f'{path}: {name}: `when` must be like {{"parent": "optimizer", "in": ["sgd"]}}, it is {when!r}.'
        )
    parent, values = when["parent"], when["in"] if isinstance(when["in"], list) else [when["in"]]
    if parent not in distributions:
        raise ImportFailedError(f"{path}: {name}: there is no parameter {parent!r}, on which it depends.")
    if not values:
        raise ImportFailedError(f"{path}: {name}: name at least one value of {parent!r} under which it is active.")
    try:
        return Condition(parent=parent, values=tuple(possible(distributions[parent], value) for value in values))
    except ValueError as error:
        raise ImportFailedError(f"{path}: {name}: {parent!r}, on which it depends, is never {error}.") from error


def possible(distribution: BaseDistribution, value: Any) -> Any:
    """A value as the distribution has it. Raises ValueError where it cannot be."""
    if isinstance(distribution, CategoricalDistribution):
        index = choice_index(distribution.choices, value)
        if index is None:
            raise ValueError(repr(value))
        return distribution.choices[index]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not distribution.low <= value <= distribution.high:
        raise ValueError(repr(value))
    return value


def _parents_first(path: Path, parameters: Mapping[str, Parameter]) -> tuple[Parameter, ...]:
    """The parameters with every parent before its children, otherwise in the order given."""
    order: dict[str, Parameter] = {}
    for parameter in parameters.values():
        chain = [parameter]
        while (condition := chain[-1].condition) is not None and condition.parent not in order:
            chain.append(parameters[condition.parent])
            if chain[-1] in chain[:-1]:
                circle = " -> ".join(link.name for link in chain)
                raise ImportFailedError(f"{path}: the conditions go round in a circle: {circle}.")
        order.update({link.name: link for link in reversed(chain)})
    return tuple(order.values())


def _are_nan(one: Any, other: Any) -> bool:
    return isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
