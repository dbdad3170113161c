"""When does a parameter matter, where nobody has said so? Seen from which trials asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from hpo.spaces.space import Condition


def inferred_conditions(
    configurations: Sequence[Mapping[str, Any]], distributions: Mapping[str, BaseDistribution]
) -> dict[str, Condition]:
    """The conditions that complete configurations agree with, each in the order in which its parameters were asked for.

    A parameter depends on a choice if it was there with some of its values and never with others, and if that explains
    each of its absences. A value that was not seen yet is one with which it may be there. Without a condition a model
    would vary what is not asked for, and take it for another configuration.
    """
    conditions = {
        name: condition
        for name in distributions
        if (condition := _condition(name, configurations, distributions)) is not None
    }
    return {name: condition for name, condition in conditions.items() if not _is_circular(name, conditions)}


def _condition(
    name: str, configurations: Sequence[Mapping[str, Any]], distributions: Mapping[str, BaseDistribution]
) -> Condition | None:
    there = [configuration for configuration in configurations if name in configuration]
    absent = [configuration for configuration in configurations if name not in configuration]
    if not there or not absent:
        return None
    for parent in there[0]:
        if parent == name:
            return None  # those after it were asked for later
        distribution = distributions.get(parent)
        if not isinstance(distribution, CategoricalDistribution):
            continue
        if not all(parent in configuration for configuration in configurations):
            continue
        with_it = {configuration[parent] for configuration in there}
        without = {configuration[parent] for configuration in absent}
        if with_it.isdisjoint(without):
            return Condition(
                parent=parent, values=tuple(choice for choice in distribution.choices if choice not in without)
            )
    return None


def _is_circular(name: str, conditions: Mapping[str, Condition]) -> bool:
    seen = {name}
    while name in conditions:
        name = conditions[name].parent
        if name in seen:
            return True
        seen.add(name)
    return False
