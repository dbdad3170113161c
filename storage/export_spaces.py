"""In which space the trials of a family lie: the family's own, wider and looser where trials were drawn otherwise.

Trials that were defined by running may have other ranges than the study's first one had, and may lack a parameter
without a condition that says so. What is written must hold them all.

Notation: n trials, d parameters.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from storage.distributions import ParameterSet, distribution_of, fields_of
from storage.families import Space
from storage.importers.recorded.space import CONFIG_COLUMN, Condition, Parameter, possible
from storage.importers.spaces import merged

SAFE_INTEGER = 2**53


@dataclass(kw_only=True)
class Looseness:
    """What trials do that their space does not allow, by parameter."""

    absent: set[str] = field(default_factory=set)  # there is no value although it is active
    present: set[str] = field(default_factory=set)  # there is one although it is inactive


def widened(space: Space, sets: Iterable[ParameterSet]) -> tuple[Parameter, ...]:
    """The parameters of a space, so that they hold what these sets were drawn from; parents before their children."""
    distributions = {name: _distribution(name, fields) for name, fields in space.items()}
    for parameter_set in sets:
        for name, other in parameter_set.by_name.items():
            known = distributions.get(name)
            if known != other:
                one = {} if known is None else {name: fields_of(known)}
                distributions[name] = _distribution(name, merged(one, {name: fields_of(other)})[name])
    conditions = {name: _condition(fields.get("when")) for name, fields in space.items()}
    columns: set[str] = {CONFIG_COLUMN, ""}
    parameters: dict[str, Parameter] = {}
    for name, distribution in distributions.items():
        column = name
        while column in columns or (column != name and column in distributions):
            column += "_"
        columns.add(column)
        parameters[name] = Parameter(
            name=name,
            distribution=distribution,
            condition=_kept(conditions.get(name), distributions),
            as_json=isinstance(distribution, CategoricalDistribution) and not _are_alike(distribution.choices),
            column=column,
        )
    return _parents_first(parameters)


def note_looseness(parameters: tuple[Parameter, ...], internal: NDArray[np.float64], looseness: Looseness) -> None:
    """Note what configurations do that their space does not allow. internal: shape (n, d), NaN where absent."""
    place = {parameter.name: axis for axis, parameter in enumerate(parameters)}
    active: dict[str, NDArray[np.bool_]] = {}
    for parameter in parameters:
        there = ~np.isnan(internal[:, place[parameter.name]])
        matters = np.full(len(there), True)
        if (condition := parameter.condition) is not None:
            parent = parameters[place[condition.parent]]
            allowed = [float(parent.distribution.to_internal_repr(value)) for value in condition.values]
            matters = active[parent.name] & np.isin(internal[:, place[parent.name]], allowed)
        if (matters & ~there).any():
            looseness.absent.add(parameter.name)
        if (there & ~matters).any():
            looseness.present.add(parameter.name)
        active[parameter.name] = there


def loosened(parameters: tuple[Parameter, ...], looseness: Looseness) -> tuple[Parameter, ...]:
    """The parameters, each with a condition only if all trials keep to it, and optional where one lacks it."""
    return tuple(
        replace(
            parameter,
            condition=None if parameter.name in looseness.present else parameter.condition,
            optional=parameter.name in looseness.absent | looseness.present,
        )
        for parameter in parameters
    )


# How it is done


def _distribution(name: str, fields: Mapping[str, Any]) -> BaseDistribution:
    with warnings.catch_warnings():  # Optuna's advice about choices that are not scalars
        warnings.simplefilter("ignore")
        return distribution_of(name, fields)


def _condition(when: Mapping[str, Any] | None) -> Condition | None:
    if not when:
        return None
    ((parent, values),) = when.items()
    return Condition(parent=parent, values=tuple(values) if isinstance(values, list | tuple) else (values,))


def _kept(condition: Condition | None, distributions: Mapping[str, BaseDistribution]) -> Condition | None:
    """The condition with what the parent can be; None where that is nothing."""
    if condition is None or condition.parent not in distributions:
        return None
    values = []
    for value in condition.values:
        with suppress(ValueError):
            values.append(possible(distributions[condition.parent], value))
    return replace(condition, values=tuple(values)) if values else None


def _are_alike(choices: Iterable[Any]) -> bool:
    """Whether a column of one type tells the choices apart and from an empty place."""
    kinds = {type(choice) for choice in choices}
    if kinds in ({str}, {bool}):
        return True
    return kinds <= {int, float} and all(math.isfinite(number) and abs(number) <= SAFE_INTEGER for number in choices)


def _parents_first(parameters: Mapping[str, Parameter]) -> tuple[Parameter, ...]:
    order: dict[str, Parameter] = {}

    def visit(name: str) -> None:
        if name not in order:
            condition = parameters[name].condition
            if condition is not None:
                visit(condition.parent)
            order[name] = parameters[name]

    for name in parameters:
        visit(name)
    return tuple(order.values())
