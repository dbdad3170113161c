"""A finite list of configurations, where nothing else may be tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hpo.arrays import Array
from hpo.encoding import Encoding
from hpo.errors import SpaceError
from hpo.space import describe

Configuration: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The list, as points of a space. Some may be the same point, where the space has not all their parameters."""

    configurations: Sequence[Configuration]
    points: Array  # (k, d)

    @classmethod
    def of(cls, configurations: Sequence[Configuration], encoding: Encoding, *, complete: bool) -> Candidates:
        """Raises SpaceError where a configuration is not in the space, or, if `complete`, lacks what is active in it.

        complete: whether the space is known with its conditions; else a parameter may be missing for a good reason.
        """
        for place, configuration in enumerate(configurations):
            _check(place, configuration, encoding, complete=complete)
        return cls(configurations=configurations, points=encoding.encode(configurations))

    def at(self, point: Array, names: Sequence[str]) -> dict[str, Any]:
        """The parameters `names`, as far as it has them, of the first configuration at a point: its very values."""
        place = int(np.flatnonzero((self.points == point).all(axis=1))[0])
        configuration = self.configurations[place]
        return {name: configuration[name] for name in names if name in configuration}


def agreeing(configurations: Sequence[Configuration], given: Configuration, name: str) -> list[Configuration]:
    """Those that have a parameter, and agree with what is given of the others."""
    return [
        configuration
        for configuration in configurations
        if name in configuration and all(configuration.get(other) == value for other, value in given.items())
    ]


def _check(place: int, configuration: Configuration, encoding: Encoding, *, complete: bool) -> None:
    space, where = encoding.space, f"candidates[{place}] = {dict(configuration)}"
    for name, distribution in space.distributions.items():
        if name not in configuration:
            if complete and space.is_active(name, configuration):
                raise SpaceError(f"{where} has no {name}; it is {describe(distribution)}")
            continue
        value = configuration[name]
        try:
            is_possible = distribution._contains(distribution.to_internal_repr(value))
        except (ValueError, TypeError):
            is_possible = False
        if not is_possible:
            raise SpaceError(f"{where}: {name} is never {value!r}; it is {describe(distribution)}")
