"""Into which ranges is a hyperparameter divided, over all that tasks searched, and where in it does a value lie?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.arrays import Array
from hpo.spaces.encoding import Encoding, decode_value, encode_value
from hpo.spaces.space import Condition, SearchSpace

RANGES = 4  # of a number, at most
CURVE_POINTS = 25  # of a number's curve


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """One parameter; what tasks searched differently is one axis from the lowest to the highest value."""

    name: str
    distribution: BaseDistribution
    labels: tuple[str, ...]  # of its ranges or choices, as a person writes them
    bounds: tuple[tuple[Any, Any], ...]  # lowest and highest value of each range; a choice twice
    edges: Array | None  # (r + 1,) a range goes from its edge up to the next; None for choices

    @property
    def choices(self) -> int:
        """How many choices there are, 0 for a number."""
        return len(self.labels) if self.edges is None else 0

    def ranges_of(self, values: Array) -> NDArray[np.int16]:
        """The range of each internal value (n,); -1 where it is in none, or NaN."""
        if self.edges is None:
            return np.where(np.isnan(values), -1, np.nan_to_num(values)).astype(np.int16)
        found = np.full(len(values), -1, dtype=np.int16)
        for edge in self.edges[:-1]:
            found += values >= edge
        found[~(values < self.edges[-1])] = -1
        return found

    def coordinates(self, values: Array) -> Array:
        """Internal values (n,) as `hpo.spaces.encoding` places them: 0 to 1 along the range, a choice as its index."""
        if isinstance(self.distribution, CategoricalDistribution):
            return values
        number = self.distribution
        assert isinstance(number, FloatDistribution | IntDistribution)
        low, high = float(number.low), float(number.high)
        start, end = encode_value(number, low), encode_value(number, high)
        if number.log:
            low, high, values = np.log(low), np.log(high), np.log(np.maximum(values, np.finfo(float).tiny))
        placed: Array = start + (values - low) * ((end - start) / (high - low) if high > low else 1.0)
        return placed

    def ranges_at(self, coordinates: Array) -> NDArray[np.int16]:
        """The range at each coordinate (n,) of the axis; -1 for NaN."""
        if self.edges is None:
            return self.ranges_of(coordinates)
        inner = self.coordinates(self.edges[1:-1])
        found = (coordinates[:, None] >= inner).sum(axis=1).astype(np.int16)
        return np.where(np.isnan(coordinates), np.int16(-1), found)

    def curve(self) -> tuple[list[Any], Array]:
        """The values along the axis that a curve goes through, and their coordinates."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices), np.arange(len(self.labels), dtype=np.float64)
        number = self.distribution
        values = dict.fromkeys(decode_value(number, place) for place in np.linspace(0.0, 1.0, CURVE_POINTS).tolist())
        return list(values), np.array([encode_value(number, value) for value in values])


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """The parameters that some spaces have between them, d of them."""

    axes: tuple[Axis, ...]
    encoding: Encoding  # of them all, with the conditions that are known

    @classmethod
    def of(cls, spaces: Sequence[Mapping[str, BaseDistribution]], conditions: Mapping[str, Condition]) -> Axes:
        """The axes of spaces, in the order in which they name them.

        A name that is a number here and a choice there is two axes.
        """
        keys = dict.fromkeys(key for space in spaces for key in (_key(name, of) for name, of in space.items()))
        axes = [_axis(name, [space[name] for space in spaces if _has(space, name, kind)]) for name, kind in keys]
        distributions = {_unique(axis.name, place, axes): axis.distribution for place, axis in enumerate(axes)}
        known = {name: when for name, when in conditions.items() if {name, when.parent} <= distributions.keys()}
        space = SearchSpace.from_json(SearchSpace(distributions=distributions, conditions=known).to_json())
        order = {name: place for place, name in enumerate(distributions)}
        return cls(
            axes=tuple(axes[order[name]] for name in space.distributions),  # parents before their children
            encoding=Encoding(space=space),
        )

    def values(self, names: Sequence[str], distributions: Sequence[BaseDistribution], internal: Array) -> Array:
        """Internal values (n, ·) of a space of these parameters in terms of the axes: (n, d), NaN where absent."""
        keys = [_key(axis.name, axis.distribution) for axis in self.axes]
        places = [keys.index(_key(name, of)) for name, of in zip(names, distributions, strict=True)]
        wanted = [self.axes[place].distribution for place in places]
        changes = [
            isinstance(of, CategoricalDistribution) and of != axis
            for of, axis in zip(distributions, wanted, strict=True)
        ]
        if places == list(range(len(keys))) and not any(changes):
            return internal
        found = np.full((len(internal), len(keys)), np.nan)
        for column, (place, of) in enumerate(zip(places, distributions, strict=True)):
            found[:, place] = _translated(internal[:, column], of, self.axes[place].distribution)
        return found

    def ranges(self, values: Array) -> NDArray[np.int16]:
        """The range of each internal value (n, d), -1 where inactive."""
        return np.stack([axis.ranges_of(values[:, j]) for j, axis in enumerate(self.axes)], axis=1)

    def coordinates(self, values: Array) -> Array:
        """The coordinate of each internal value (n, d), NaN where inactive."""
        return np.stack([axis.coordinates(values[:, j]) for j, axis in enumerate(self.axes)], axis=1)

    def design(self, cube: Array) -> tuple[Array, NDArray[np.int16]]:
        """Configurations at quantiles (m, d) of the space: coordinates, NaN where inactive, and ranges, (m, d) each."""
        points = self.encoding.uniform(cube)
        points = np.where(self.encoding.active(points), points, np.nan)
        placed = [axis.ranges_at(points[:, j]) for j, axis in enumerate(self.axes)]
        return points, np.stack(placed, axis=1)


def _key(name: str, distribution: BaseDistribution) -> tuple[str, bool]:
    return name, isinstance(distribution, CategoricalDistribution)


def _has(space: Mapping[str, BaseDistribution], name: str, is_choice: bool) -> bool:
    return name in space and isinstance(space[name], CategoricalDistribution) == is_choice


def _unique(name: str, place: int, axes: Sequence[Axis]) -> str:
    return name if all(axis.name != name for axis in axes[:place]) else f"{name} ({axes[place].distribution!r})"


def _translated(values: Array, of: BaseDistribution, wanted: BaseDistribution) -> Array:
    if not isinstance(of, CategoricalDistribution) or of == wanted:
        return values
    assert isinstance(wanted, CategoricalDistribution)
    known = [repr(choice) for choice in wanted.choices]
    place = np.array([known.index(repr(choice)) for choice in of.choices], dtype=np.float64)
    translated: Array = np.where(np.isnan(values), np.nan, place[np.nan_to_num(values).astype(np.intp)])
    return translated


# What an axis is divided into


def _axis(name: str, distributions: Sequence[BaseDistribution]) -> Axis:
    if isinstance(distributions[0], CategoricalDistribution):
        return _choices(name, [of for of in distributions if isinstance(of, CategoricalDistribution)])
    numbers = [of for of in distributions if isinstance(of, FloatDistribution | IntDistribution)]
    low, high = min(of.low for of in numbers), max(of.high for of in numbers)
    is_log = any(of.log for of in numbers) and low > 0
    if all(isinstance(of, IntDistribution) for of in numbers):
        return _integers(name, int(low), int(high), log=is_log)
    edges = _edges(float(low), float(high), log=is_log)
    pairs = list(pairwise(edges))
    return Axis(
        name=name,
        distribution=FloatDistribution(low, high, log=is_log),
        labels=tuple(_label(a, b) for a, b in pairs),
        bounds=tuple(pairs),
        edges=np.array([*edges[:-1], np.nextafter(edges[-1], np.inf)]),
    )


def _choices(name: str, distributions: Iterable[CategoricalDistribution]) -> Axis:
    values = tuple({repr(choice): choice for of in distributions for choice in of.choices}.values())
    return Axis(
        name=name,
        distribution=CategoricalDistribution(values),
        labels=tuple(map(str, values)),
        bounds=tuple((value, value) for value in values),
        edges=None,
    )


def _integers(name: str, low: int, high: int, *, log: bool) -> Axis:
    starts = sorted({*(int(np.ceil(edge)) for edge in _edges(low, high + 1, log=log)[1:-1]), low, high + 1})
    pairs = [(a, b - 1) for a, b in pairwise(starts)]
    return Axis(
        name=name,
        distribution=IntDistribution(low, high, log=log),
        labels=tuple(f"{a}" if a == b else f"{a} … {b}" for a, b in pairs),
        bounds=tuple(pairs),
        edges=np.array(starts) - 0.5,
    )


def _edges(low: float, high: float, *, log: bool) -> list[float]:
    """The ends of at most `RANGES` equally wide ranges, on a log scale where there is one."""
    if low == high:
        return [low, high]
    edges = np.geomspace(low, high, RANGES + 1) if log else np.linspace(low, high, RANGES + 1)
    return [low, *edges[1:-1].tolist(), high]


def _label(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} … {high:.3g}"
