"""What is searched over: parameters by name, and when each of them matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.errors import SpaceError
from storage.distributions import distribution_of, fields_of
from storage.studies import SPACE_ATTRIBUTE

if TYPE_CHECKING:
    from optuna import Study, Trial


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A parameter matters only where its parent has one of these values."""

    parent: str
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Distributions by name, parents before their children, with the conditions under which a parameter is active."""

    distributions: dict[str, BaseDistribution]
    conditions: dict[str, Condition]
    likely: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # (low, high) or choices: a hope, not a bound

    @classmethod
    def from_json(cls, parameters: Mapping[str, Mapping[str, Any]]) -> SearchSpace:
        """The space as in a study file: `{"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}}`.

        Raises SpaceError where a condition names no parameter, asks for an impossible value, or is circular, and where
        likely values are not in the range.
        """
        distributions = {name: _distribution(name, fields) for name, fields in parameters.items()}
        conditions = {
            name: _condition(name, fields["when"]) for name, fields in parameters.items() if fields.get("when")
        }
        for name, condition in conditions.items():
            _check_condition(name, condition, distributions)
        order = _parents_first(list(distributions), conditions)
        likely = {name: _likely(name, distributions[name], parameters[name].get("likely")) for name in order}
        return cls(
            distributions={name: distributions[name] for name in order},
            conditions=conditions,
            likely={name: values for name, values in likely.items() if values is not None},
        )

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The inverse of `from_json`."""
        return {name: self._fields(name) for name in self.distributions}

    def is_active(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether `name` matters in a configuration whose parents are already in `params`."""
        condition = self.conditions.get(name)
        return condition is None or (condition.parent in params and params[condition.parent] in condition.values)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Ask an Optuna trial for every active parameter, define-by-run."""
        params: dict[str, Any] = {}
        for name, distribution in self.distributions.items():
            if self.is_active(name, params):
                params[name] = _suggest(trial, name, distribution)
        return params

    def _fields(self, name: str) -> dict[str, Any]:
        fields, condition = fields_of(self.distributions[name]), self.conditions.get(name)
        if condition is not None:
            fields["when"] = {condition.parent: list(condition.values)}
        if name in self.likely:
            fields["likely"] = list(self.likely[name])
        return fields


def declared_space(study: Study) -> SearchSpace | None:
    """The space that a study was launched with; None for a plain define-by-run study."""
    parameters = study._storage.get_study_system_attrs(study._study_id).get(SPACE_ATTRIBUTE)
    return None if parameters is None else SearchSpace.from_json(parameters)


def _distribution(name: str, fields: Mapping[str, Any]) -> BaseDistribution:
    try:
        return distribution_of(name, fields)
    except ValueError as error:
        raise SpaceError(str(error)) from error


def likely_values(distribution: BaseDistribution, given: Sequence[Any]) -> tuple[Any, ...]:
    """Where good values are likely, as `likely` says: (low, high), or some of the choices. Raises ValueError."""
    shown = f"likely = [{', '.join(map(str, given))}]"
    if isinstance(distribution, CategoricalDistribution):
        if not given:
            raise ValueError("likely names no choice; name some, or drop it")
        places = [_place(choice, distribution.choices) for choice in given]
        for choice, place in zip(given, places, strict=True):
            if place is None:
                raise ValueError(f"{shown}: {choice!r} is no choice; it is {describe(distribution)}")
        return tuple(distribution.choices[place] for place in sorted({place for place in places if place is not None}))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = int if isinstance(distribution, IntDistribution) else float
    if len(given) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in given):
        raise ValueError(f"{shown} needs two numbers, the ends of an interval, as in [{distribution.low:g}, …]")
    if kind is int and any(end != int(end) for end in given):
        raise ValueError(f"{shown}: the ends must be whole numbers")
    low, high = kind(given[0]), kind(given[1])
    if low > high or (low == high and kind is float):
        raise ValueError(f"{shown}: the lower end comes first, and the upper one is greater")
    if not distribution.low <= low <= high <= distribution.high:
        raise ValueError(f"{shown} is not within the range {describe(distribution)}")
    return low, high


def _likely(name: str, distribution: BaseDistribution, given: Sequence[Any] | None) -> tuple[Any, ...] | None:
    try:
        return None if given is None else likely_values(distribution, given)
    except ValueError as error:
        raise SpaceError(f"space.{name}: {error}") from error


def _place(value: Any, choices: Sequence[Any]) -> int | None:
    """The index of the choice that the value is; true is not 1."""
    same = (
        place
        for place, choice in enumerate(choices)
        if choice == value and isinstance(choice, bool) == isinstance(value, bool)
    )
    return next(same, None)


def _condition(name: str, when: Mapping[str, Any]) -> Condition:
    if len(when) != 1:
        raise SpaceError(f"space.{name}.when: name exactly one parent, as in `when: {{optimizer: [sgd]}}`")
    ((parent, values),) = when.items()
    return Condition(parent=parent, values=tuple(values) if isinstance(values, list | tuple) else (values,))


def _check_condition(name: str, condition: Condition, distributions: Mapping[str, BaseDistribution]) -> None:
    parent = distributions.get(condition.parent)
    if parent is None:
        known = ", ".join(other for other in distributions if other != name) or "none"
        raise SpaceError(
            f"space.{name}.when: there is no parameter {condition.parent!r} in the space (it has: {known})"
        )
    for value in condition.values:
        if not _can_be(parent, value):
            raise SpaceError(f"space.{name}.when: {condition.parent} is never {value!r}; it is {describe(parent)}")


def _can_be(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return distribution._contains(distribution.to_internal_repr(value))


def describe(distribution: BaseDistribution) -> str:
    """A distribution as a person would write it: `1e-05 … 0.1 (log)` or `one of sgd, adam`."""
    if isinstance(distribution, CategoricalDistribution):
        return "one of " + ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = "" if distribution.step in (None, 1) else f" in steps of {distribution.step:g}"
    return f"{distribution.low:g} … {distribution.high:g}{' (log)' if distribution.log else ''}{step}"


def _parents_first(names: list[str], conditions: Mapping[str, Condition]) -> list[str]:
    """The names with every parent before its children, otherwise in the order given."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise SpaceError(f"space.{name}.when: the conditions go round in a circle: {' -> '.join((*path, name))}")
        if name not in order:
            if name in conditions:
                visit(conditions[name].parent, (*path, name))
            order.append(name)

    for name in names:
        visit(name, ())
    return order


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, IntDistribution)
    return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
