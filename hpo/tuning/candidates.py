"""A finite list of configurations, where nothing else may be tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from hpo.arrays import Array, keys
from hpo.errors import SpaceError
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import describe

Configuration: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The list, as points of a space. Some may be the same point, where the space has not all their parameters."""

    configurations: Sequence[Configuration]
    points: Array  # (k, d)

    @classmethod
    def of(cls, configurations: Sequence[Configuration], encoding: Encoding, *, complete: bool) -> Candidates:
        """Raises SpaceError where a value is of the wrong kind, and, if `complete`, not in the space or missing.

        complete: whether the space is known with its conditions; else a range is only what was asked for last, and a
        parameter may be missing for a good reason.
        """
        checked = [_checked(place, each, encoding, complete=complete) for place, each in enumerate(configurations)]
        return cls(configurations=checked, points=encoding.encode(checked))

    def at(self, point: Array, names: Sequence[str]) -> dict[str, Any]:
        """The parameters `names`, as far as it has them, of the first configuration at a point: its very values."""
        place = int(np.flatnonzero((self.points == point).all(axis=1))[0])
        configuration = self.configurations[place]
        return {name: configuration[name] for name in names if name in configuration}

    def are_all_among(self, tried: Array) -> bool:
        """Whether none is left: all are among the points tried (n, d)."""
        return set(keys(self.points)) <= set(keys(tried))


def plain_value(value: Any) -> Any:
    """The value as Python has it, where it is one of NumPy's."""
    return value.item() if isinstance(value, np.generic) else value


def agreeing(configurations: Sequence[Configuration], given: Configuration, name: str) -> list[Configuration]:
    """Those that have a parameter, and agree with what is given of the others; else all that have it."""
    having = [configuration for configuration in configurations if name in configuration]
    agree = [each for each in having if all(each.get(other) == value for other, value in given.items())]
    return agree or having


def _checked(place: int, configuration: Configuration, encoding: Encoding, *, complete: bool) -> dict[str, Any]:
    space, where = encoding.space, f"candidates[{place}] = {dict(configuration)}"
    checked = dict(configuration)
    for name, distribution in space.distributions.items():
        if name not in configuration:
            if complete and space.is_active(name, configuration):
                raise SpaceError(f"{where} has no {name}; it is {describe(distribution)}")
            continue
        value = configuration[name]
        if not _is_of_its_kind(value, distribution) or (complete and not _is_in(value, distribution)):
            raise SpaceError(f"{where}: {name} is never {value!r}; it is {describe(distribution)}")
        if _is_in(value, distribution):
            checked[name] = distribution.to_external_repr(distribution.to_internal_repr(value))
    return checked


def _is_of_its_kind(value: Any, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return True
    return isinstance(value, Real | Integral) and not isinstance(value, bool)


def _is_in(value: Any, distribution: BaseDistribution) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
