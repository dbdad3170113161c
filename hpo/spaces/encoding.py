"""How configurations become points, and points become configurations.

A number becomes its place in the current range, 0 to 1, on a log scale where the range has one. The map is affine in
absolute (or log) units, so a past value outside the range is a point outside [0, 1]: it informs, and is never proposed.
A choice becomes its index. A parameter that a configuration does not have is NaN until `canonical` puts it to rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.arrays import Array, Mask
from hpo.spaces.space import Condition, SearchSpace

Configuration: TypeAlias = Mapping[str, Any]
Numeric: TypeAlias = FloatDistribution | IntDistribution

MOST_GRID_POINTS = 100_000  # an integer with more values is treated as continuous

RESTING_NUMBER = 0.5  # an inactive number rests at the middle of its range
RESTING_CHOICE = -1.0  # an inactive choice is a choice of its own

_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The points of a search space."""

    space: SearchSpace

    @cached_property
    def names(self) -> list[str]:
        """The parameters in the order of the columns, parents before children."""
        return list(self.space.distributions)

    @cached_property
    def categorical(self) -> Mask:
        """Which columns hold a choice, shape (d,)."""
        distributions = self.space.distributions.values()
        return np.array([isinstance(of, CategoricalDistribution) for of in distributions], dtype=bool)

    @cached_property
    def grid(self) -> list[Array | None]:
        """Per column the points that exist; None for a continuous parameter."""
        return [grid_of(distribution) for distribution in self.space.distributions.values()]

    @cached_property
    def size(self) -> float:
        """How many combinations exist, at most; infinite with a continuous parameter."""
        return float(np.prod([np.inf if points is None else float(len(points)) for points in self.grid]))

    def encode(self, configurations: Sequence[Configuration]) -> Array:
        """Configurations as canonical points, shape (n, d)."""
        return self.canonical(self.raw(configurations))

    def raw(self, configurations: Sequence[Configuration]) -> Array:
        """Configurations as points in absolute place, shape (n, d): not clipped, NaN where a parameter is absent."""
        columns = [
            _encoded(distribution, [params.get(name, _ABSENT) for params in configurations])
            for name, distribution in self.space.distributions.items()
        ]
        return np.array(columns, dtype=np.float64).reshape(len(columns), len(configurations)).T

    def decode(self, point: Array) -> dict[str, Any]:
        """The configuration at a point (d,), with its active parameters only."""
        active = self.active(point[None, :])[0]
        distributions = self.space.distributions.items()
        return {
            name: decode_value(distribution, coordinate)
            for (name, distribution), coordinate, is_active in zip(distributions, point, active, strict=True)
            if is_active
        }

    def project(self, points: Array) -> Array:
        """The nearest points (m, d) that exist in the current space, with inactive parameters at rest."""
        distributions = enumerate(self.space.distributions.values())
        columns = [project(distribution, points[:, j]) for j, distribution in distributions]
        return self.canonical(np.stack(columns, axis=1) if columns else points)

    def canonical(self, points: Array) -> Array:
        """The points (m, d) with absent and inactive parameters at rest: one point for each configuration."""
        known = np.where(np.isnan(points), self.resting, points)
        return np.where(self.active(known), known, self.resting)

    def active(self, points: Array) -> Mask:
        """Which parameters matter at the points (m, d): shape (m, d)."""
        active = np.ones(points.shape, dtype=bool)
        for j, name in enumerate(self.names):
            condition = self.space.conditions.get(name)
            if condition is not None and condition.parent in self.space.distributions:
                active[:, j] = active[:, self.names.index(condition.parent)] & self._holds(condition, points)
        return active

    @cached_property
    def resting(self) -> Array:
        """Where inactive parameters are put, shape (d,)."""
        return np.where(self.categorical, RESTING_CHOICE, RESTING_NUMBER)

    def uniform(self, cube: Array) -> Array:
        """The points (m, d) at quantiles `cube` (m, d) in [0, 1): choices are equally likely."""
        points = cube.copy()
        for j, choices in enumerate(self.grid):
            if self.categorical[j] and choices is not None:
                points[:, j] = np.floor(cube[:, j] * len(choices))
        return self.project(points)

    def moderate(self, count: int, rng: np.random.Generator) -> Array:
        """Points (count, d) in the middle half of every range, with any choice: for parameters nobody knows yet."""
        cube = rng.random((count, len(self.names)))
        return self.uniform(np.where(self.categorical, cube, 0.25 + 0.5 * cube))

    def every_point(self) -> Array:
        """All points of a space of finite `size`, each once: shape (m, d)."""
        axes = [points for points in self.grid if points is not None]
        mesh = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
        return np.unique(self.canonical(mesh), axis=0)

    def _holds(self, condition: Condition, points: Array) -> Mask:
        parent = self.space.distributions[condition.parent]
        allowed = np.array([encode_value(parent, value) for value in condition.values])
        column = points[:, self.names.index(condition.parent)]
        holds: Mask = np.isclose(column[:, None], allowed[None, :]).any(axis=1)
        return holds


def encode_value(distribution: BaseDistribution, value: Any) -> float:
    """The coordinate of a value: its place in the range, or the index of its choice (NaN where that is not there)."""
    return float(_encoded(distribution, [value])[0])


def _encoded(distribution: BaseDistribution, values: Sequence[Any]) -> Array:
    """The coordinates of values (n), NaN where one is absent: shape (n,)."""
    if isinstance(distribution, CategoricalDistribution):
        return np.array([_place(distribution, value) for value in values], dtype=np.float64)
    numeric = _numeric(distribution)
    low, high = _edges(numeric)
    numbers = np.array([np.nan if value is _ABSENT else float(value) for value in values], dtype=np.float64)
    coordinates: Array = (_scaled(numeric, numbers) - low) / (high - low)
    return coordinates


def _place(distribution: CategoricalDistribution, choice: Any) -> float:
    try:
        return float(distribution.to_internal_repr(choice))
    except ValueError:
        return float("nan")


def decode_value(distribution: BaseDistribution, coordinate: float) -> Any:
    """The value at a coordinate, within the range and on its steps."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(coordinate)]
    numeric = _numeric(distribution)
    value = float(_values(numeric, np.array([coordinate]))[0])
    return round(value) if isinstance(numeric, IntDistribution) else value


def project(distribution: BaseDistribution, coordinates: Array) -> Array:
    """The nearest coordinates that exist."""
    if isinstance(distribution, CategoricalDistribution):
        return np.clip(np.round(coordinates), 0, len(distribution.choices) - 1)
    numeric = _numeric(distribution)
    if numeric.step is None and not numeric.single():
        return np.clip(coordinates, 0.0, 1.0)
    low, high = _edges(numeric)
    projected: Array = (_scaled(numeric, _values(numeric, coordinates)) - low) / (high - low)
    return projected


def grid_of(distribution: BaseDistribution) -> Array | None:
    """Every coordinate that exists; None where there is no end of them."""
    if isinstance(distribution, CategoricalDistribution):
        return np.arange(len(distribution.choices), dtype=np.float64)
    numeric = _numeric(distribution)
    if numeric.single():
        return np.array([encode_value(numeric, numeric.low)])
    if numeric.step is None:
        return None
    count = round((numeric.high - numeric.low) / numeric.step) + 1
    if count > MOST_GRID_POINTS:
        return None
    values = numeric.low + numeric.step * np.arange(count)
    low, high = _edges(numeric)
    grid: Array = (_scaled(numeric, values) - low) / (high - low)
    return grid


def union(distributions: Iterable[Mapping[str, BaseDistribution]]) -> SearchSpace:
    """Every parameter in sight, without conditions; the last distribution of a name wins."""
    merged: dict[str, BaseDistribution] = {}
    for mapping in distributions:
        merged.update(mapping)
    return SearchSpace(distributions=dict(sorted(merged.items())), conditions={})


def _numeric(distribution: BaseDistribution) -> Numeric:
    assert isinstance(distribution, FloatDistribution | IntDistribution), distribution
    return distribution


def _scaled(distribution: Numeric, values: Any) -> Any:
    return np.log(np.maximum(values, np.finfo(float).tiny)) if distribution.log else values


def _edges(distribution: Numeric) -> tuple[float, float]:
    """The ends of the range in scaled units, half a step further out, so that every step is equally wide."""
    half = 0.5 * distribution.step if distribution.step is not None else 0.0
    low, high = _scaled(distribution, distribution.low - half), _scaled(distribution, distribution.high + half)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _values(distribution: Numeric, coordinates: Array) -> Array:
    low, high = _edges(distribution)
    values = low + np.clip(coordinates, 0.0, 1.0) * (high - low)
    values = np.exp(values) if distribution.log else values
    if distribution.step is not None:
        values = distribution.low + distribution.step * np.round((values - distribution.low) / distribution.step)
    return np.clip(values, distribution.low, distribution.high)
