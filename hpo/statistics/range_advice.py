r"""Which range of each hyperparameter holds a good value for the next task?

1. Per past task a Gaussian process on its runs, the kernel shared by all tasks, gives s posterior draws of its losses.
2. A draw's profile $g(v)$ of parameter j is the smallest normalised regret over configurations with $x_j = v$ (0 at the
   best, 1 at the median of the space); its *good set* is $\{v : g(v) \le tolerance\}$. Where few runs leave it open,
   the draws differ.
3. The advised region is the smallest one that meets the good sets of enough tasks.

How much is enough. With r of T tasks missed and a region held in place by e tasks (its two ends, its choices), a new
task is missed with an expected probability of at most about $(r + e) / (T + 1)$: leave one of T + 1 exchangeable tasks
out, and it is missed only if it is one of those r + e (Calafiore and Campi, The Scenario Approach to Robust Control
Design, 2006). So 90% take $T - r \ge 0.9 (T + 1) + 1$ for an interval, which needs 19 tasks. With fewer the region
meets all tasks and promises $1 - e / (T + 1)$. As the smallest of many regions is chosen with the data in hand, it
grows until leaving out each task in turn misses no more than 10% either.

A task of which the draws disagree counts by the share of its draws that are met. History is not a random sample of
configurations (a tuner chose them): the fitted surfaces are compared over a quasi-random design of the whole space.

Notation: t tasks, s draws, v values of one parameter, r regions, m points, d parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats.qmc import Sobol

from hpo.arrays import Array, Mask
from hpo.priors.portfolio import PastTask, fit_shared_kernel
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.posterior_draws import Features, PosteriorDraws

SHARE = 0.9  # of new tasks for which a region is to hold a good value
TOLERANCE = 0.05  # normalised regret of a good value
DRAWS = 16  # of each task
VALUES = 33  # of a number, at most: one every 1/32 of the range
DESIGN = 2048  # quasi-random points: a power of two
REFERENCE = 512  # of them, on which a draw's median is taken
ANCHORS = 16  # good configurations that are moved along a parameter
NEIGHBOURS = 8  # good configurations that are near a value already
LEAST_CUT = 0.1  # of a range: an end stays where less would be saved, for the best may be right there (heuristic)
EXHAUSTIVE_CHOICES = 10  # up to so many, every set of choices is considered
STRICTNESS = (1.0, 0.5, 0.25, 0.1, 0.0)  # parts of the tolerance, for regions that are to hold together
BOXED = 64  # good configurations that are moved into the box of all regions


class Coordinates(Protocol):
    """The points of a search space: what `hpo.spaces.encoding.Encoding` says of them."""

    @property
    def names(self) -> list[str]:
        """The parameters (d)."""

    @property
    def categorical(self) -> Mask:
        """Which hold a choice, (d,)."""

    @property
    def grid(self) -> list[Array | None]:
        """Per parameter every coordinate, or None for a continuous one."""

    def uniform(self, cube: Array) -> Array:
        """The points at quantiles (m, d)."""

    def canonical(self, points: Array) -> Array:
        """The points (m, d) with inactive parameters at rest."""

    def active(self, points: Array) -> Mask:
        """Which parameters matter, (m, d)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskRuns:
    """The finished runs of one past task."""

    name: str
    X: Array  # (n, d) canonical points
    losses: Array  # (n,) raw, finite, smaller is better
    uses: Mask  # (d,) the parameters that some of its runs had


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterAdvice:
    """The advised region of one parameter."""

    name: str
    values: Array  # (v,) coordinates that were compared
    inside: Mask  # (v,) those of the region
    kept: float  # share of the range, in the scale of the coordinates
    promise: float  # expected probability that a new task has a good value inside, at least; 0: nothing is promised
    tasks: tuple[str, ...]  # t, those with runs of it
    hits: Array  # (t,) share of a task's draws with a good value in the region that the other tasks advise
    good: Array  # (t, v) share of a task's draws in which a value is good

    @property
    def indifference(self) -> float:
        """The share of the range that is good for a task, in the mean."""
        return float(self.good.mean())

    @property
    def hit_rate(self) -> float:
        """The share of tasks hit, each left out of its own advice."""
        return float(self.hits.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class RangeAdvice:
    """The advised regions, and whether they hold together."""

    parameters: tuple[ParameterAdvice, ...]  # those that some task has used
    tasks: tuple[str, ...]  # t
    joint_hits: (
        Array  # (t,) share of a task's draws with a good configuration inside all regions that the others advise
    )


def range_advice(
    tasks: Sequence[TaskRuns],
    space: Coordinates,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    together: bool = False,
) -> RangeAdvice:
    """The smallest region of each parameter that holds a good value for a new task like these, t >= 1, n_t >= 1.

    together: take only what is better still for a good value, and so advise larger regions, until 90% of the tasks have
    a good configuration inside all of them at once, or nothing but the best counts.
    """
    rng = np.random.default_rng(seed)
    past = [_standardised(task) for task in tasks]
    kernel = fit_shared_kernel(past, space.categorical, rng)
    features = Features.draw(kernel, _choices(space, past), rng)
    design = space.uniform(_quasi_random(len(space.names), rng))
    surfaces = [_Surface.of(PosteriorDraws.of(features, task.X, task.y, DRAWS, rng), design) for task in past]
    profiles = [_profile(tasks, surfaces, space, j) for j in range(len(space.names))]
    for strictness in STRICTNESS if together else STRICTNESS[:1]:
        advice = _advice(tasks, surfaces, space, profiles, tolerance=tolerance, strictness=strictness)
        if advice.joint_hits.mean() >= SHARE:
            break
    return advice


def _profile(tasks: Sequence[TaskRuns], surfaces: Sequence[_Surface], space: Coordinates, j: int) -> _Profile:
    values = _values(space.grid[j])
    members = [t for t, task in enumerate(tasks) if task.uses[j] and len(values) > 1]
    regrets = [surfaces[t].regrets(space, j, values) for t in members]
    return _Profile(values=values, members=members, regrets=np.array(regrets))


def _advice(
    tasks: Sequence[TaskRuns],
    surfaces: Sequence[_Surface],
    space: Coordinates,
    profiles: Sequence[_Profile],
    *,
    tolerance: float,
    strictness: float,
) -> RangeAdvice:
    found: list[ParameterAdvice] = []
    boxes = [[np.ones(len(profile.values), dtype=bool) for profile in profiles] for _ in tasks]
    for j, profile in enumerate(profiles):
        if not profile.members:
            continue
        good = profile.regrets <= tolerance * strictness
        regions = _regions(good, is_choice=bool(space.categorical[j]))
        chosen, others = _choose(regions)
        for t, row in zip(profile.members, others, strict=True):
            boxes[t][j] = regions.inside[row]
        found.append(
            ParameterAdvice(
                name=space.names[j],
                values=profile.values,
                inside=regions.inside[chosen],
                kept=float(regions.sizes[chosen]),
                promise=_promise(regions, chosen, len(profile.members)),
                tasks=tuple(tasks[t].name for t in profile.members),
                hits=_met(profile.regrets <= tolerance, regions.inside[others]),
                good=(profile.regrets <= tolerance).mean(axis=1),
            )
        )
    values = [profile.values for profile in profiles]
    joint = [surface.hit_by_box(space, values, box, tolerance) for surface, box in zip(surfaces, boxes, strict=True)]
    return RangeAdvice(
        parameters=tuple(found), tasks=tuple(task.name for task in tasks), joint_hits=np.array(joint, dtype=np.float64)
    )


def _met(good: Mask, inside: Mask) -> Array:
    """The share of each task's draws with a good value in a region of its own. good: (t, s, v), inside: (t, v)."""
    met: Array = (good & inside[:, None, :]).any(axis=2).mean(axis=1)
    return met


# The surfaces of the tasks --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Surface:
    """What one task's losses may look like: its draws, and where they were looked at first."""

    draws: PosteriorDraws
    candidates: Array  # (m, d) its own runs and the design, the best by their mean first
    design: Array  # (m, d)
    best: Array  # (s,) the smallest loss of a draw
    span: Array  # (s,) from there to the median

    @classmethod
    def of(cls, draws: PosteriorDraws, design: Array) -> _Surface:
        candidates = np.vstack([draws.X, design])
        order = np.argsort(draws.mean(candidates), kind="stable")
        candidates = candidates[order]
        reference = draws.at(design[:REFERENCE])
        first = draws.at(candidates[: ANCHORS + BOXED])
        best = np.minimum(reference.min(axis=0), first.min(axis=0))
        span = np.maximum(np.median(reference, axis=0) - best, 1e-12)
        return cls(draws=draws, candidates=candidates, design=design, best=best, span=span)

    def regrets(self, space: Coordinates, j: int, values: Array) -> Array:
        """Per draw the smallest normalised regret at values (v,) of parameter j: shape (s, v).

        Against the best that was found along the parameter: where it is in use under a condition, given that.
        """
        points = self._along(space, j, values)
        losses = self.draws.at(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:2], -1)
        profile = losses.min(axis=1)
        regrets: Array = ((profile - profile.min(axis=0)) / self.span).T
        return regrets

    def _along(self, space: Coordinates, j: int, values: Array) -> Array:
        """Configurations that may be good, for every value of parameter j: shape (v, m, d)."""
        users = self.candidates[space.active(self.candidates)[:, j]]
        nearest = np.abs(users[:, j, None] - values).argmin(axis=1)
        rows = np.empty((len(values), ANCHORS + NEIGHBOURS), dtype=np.intp)
        anchors = np.arange(ANCHORS) % len(users)
        for place in range(len(values)):
            near = np.flatnonzero(nearest == place)[:NEIGHBOURS]
            rows[place, :ANCHORS] = anchors
            rows[place, ANCHORS:] = np.resize(near, NEIGHBOURS) if len(near) else 0
        points = users[rows]
        points[:, :, j] = values[:, None]
        return space.canonical(points.reshape(-1, points.shape[-1])).reshape(points.shape)

    def hit_by_box(self, space: Coordinates, values: Sequence[Array], box: Sequence[Mask], tolerance: float) -> float:
        """The share of draws with a good configuration inside the box of regions, one for each parameter."""
        moved = np.vstack([self.candidates[:BOXED], self.design[:REFERENCE]])
        for j, (coordinates, inside) in enumerate(zip(values, box, strict=True)):
            allowed = coordinates[inside]
            if space.categorical[j]:
                is_out = ~(moved[:, j, None] == allowed).any(axis=1)
                moved[:, j] = np.where(is_out, np.resize(allowed, len(moved)), moved[:, j])
            elif space.grid[j] is None:
                moved[:BOXED, j] = np.clip(moved[:BOXED, j], allowed.min(), allowed.max())
                moved[BOXED:, j] = allowed.min() + moved[BOXED:, j] * (allowed.max() - allowed.min())
            else:
                moved[:, j] = allowed[np.abs(moved[:, j, None] - allowed).argmin(axis=1)]
        smallest = self.draws.at(space.canonical(moved)).min(axis=0)
        return float(np.mean(smallest - np.minimum(self.best, smallest) <= tolerance * self.span))


def _quasi_random(d: int, rng: np.random.Generator) -> Array:
    """A Sobol sequence in the unit cube, shifted at random: shape (m, d)."""
    cube: Array = (Sobol(d, scramble=False).random(DESIGN) + rng.random(d)) % 1.0
    return cube


@dataclass(frozen=True, kw_only=True, eq=False)
class _Profile:
    """How one parameter matters to the tasks that use it."""

    values: Array  # (v,)
    members: Sequence[int]  # the t tasks that use it
    regrets: Array  # (t, s, v) the smallest normalised regret at each value


def _standardised(task: TaskRuns) -> PastTask:
    scale = LossScale.of(task.losses)
    return PastTask(X=task.X, y=scale.standardise(task.losses), weight=1.0, scale=scale)


def _choices(space: Coordinates, past: Sequence[PastTask]) -> list[Array]:
    """Per categorical parameter every coordinate that a point may have, at rest or not."""
    resting = space.canonical(np.full((1, len(space.names)), np.nan))[0]
    columns = [(j, grid) for j, grid in enumerate(space.grid) if space.categorical[j] and grid is not None]
    return [np.unique(np.concatenate([grid, resting[[j]], *(task.X[:, j] for task in past)])) for j, grid in columns]


def _values(grid: Array | None) -> Array:
    """The coordinates at which a parameter is looked at."""
    evenly = np.linspace(0.0, 1.0, VALUES)
    if grid is None:
        return evenly
    return grid if len(grid) <= VALUES else np.unique(grid[np.abs(grid[:, None] - evenly).argmin(axis=0)])


# The smallest region ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Regions:
    """All regions that may be advised."""

    inside: Mask  # (r, v)
    sizes: Array  # (r,) share of the range
    met: Array  # (t, r) share of a task's draws with a good value inside
    ends: NDArray[np.intp]  # (r,) how many tasks hold it in place
    merit: Array  # (r,) the greater of regions of one size is preferred: how good its values are in the mean


def _regions(good: Mask, *, is_choice: bool) -> _Regions:
    """good: (t, s, v)."""
    v = good.shape[-1]
    if is_choice:
        inside = _sets_of_choices(good) if v > EXHAUSTIVE_CHOICES else _every_set(v)
        sizes, ends = inside.mean(axis=1), inside.sum(axis=1)
    else:
        low, high = np.triu_indices(v)
        cuts = np.stack([low, v - 1 - high]) / (v - 1)
        is_worth_it = ((cuts == 0.0) | (cuts >= LEAST_CUT)).all(axis=0)
        low, high = low[is_worth_it], high[is_worth_it]
        places = np.arange(v)
        inside = (places >= low[:, None]) & (places <= high[:, None])
        sizes = np.maximum(high - low, 1) / (v - 1) if v == VALUES else (high - low + 1) / v
        ends = np.asarray((low > 0).astype(np.intp) + (high < v - 1))
    met = (good.astype(np.float32) @ inside.T.astype(np.float32) > 0).mean(axis=1, dtype=np.float64)
    merit = (inside @ good.mean(axis=(0, 1))) / inside.sum(axis=1)
    is_everything = inside.all(axis=1)
    return _Regions(inside=inside, sizes=sizes, met=met, ends=np.where(is_everything, 0, ends), merit=merit)


def _every_set(v: int) -> Mask:
    sets = [places for size in range(1, v + 1) for places in combinations(range(v), size)]
    inside = np.zeros((len(sets), v), dtype=bool)
    for row, places in enumerate(sets):
        inside[row, list(places)] = True
    return inside


def _sets_of_choices(good: Mask) -> Mask:
    """Sets that grow by the choice that is good for most tasks as yet without a good one (greedy set cover)."""
    t, s, v = good.shape
    open_draws, inside = np.ones((t, s), dtype=bool), np.zeros((v, v), dtype=bool)
    chosen: list[int] = []
    for row in range(v):
        gain = (good & open_draws[:, :, None]).mean(axis=(0, 1)) + 1e-6 * good.mean(axis=(0, 1))
        gain[chosen] = -1.0
        chosen.append(int(np.argmax(gain)))
        open_draws &= ~good[:, :, chosen[-1]]
        inside[row, chosen] = True
    return inside


def _choose(regions: _Regions) -> tuple[int, NDArray[np.intp]]:
    """The row of the advised region, and for each task the row of what the other tasks advise."""
    t = len(regions.met)
    for spare in np.arange(0.0, t + 1.0):
        chosen = _smallest(regions, regions.met.sum(axis=0), _counted(regions.met), t, spare)
        others = np.array(
            [
                _smallest(
                    regions,
                    regions.met.sum(axis=0) - regions.met[left_out],
                    _counted(regions.met) - (regions.met[left_out] >= SHARE),
                    t - 1,
                    spare,
                )
                for left_out in range(t)
            ],
            dtype=np.intp,
        )
        missed = t - regions.met[np.arange(t), others].sum()
        if missed <= (1.0 - SHARE) * (t + 1) or not _can_grow(t, spare):
            break
    return chosen, others


def _counted(met: Array) -> NDArray[np.intp]:
    return np.asarray((met >= SHARE).sum(axis=0))


def _can_grow(t: int, spare: float) -> bool:
    return SHARE * (t + 1) + 1.0 + spare < t


def _smallest(regions: _Regions, total: Array, counted: NDArray[np.intp], t: int, spare: float) -> int:
    """The row of the smallest region that meets enough of t tasks; all of them where they are few.

    total: (r,) tasks met, by the share of their draws; counted: (r,) tasks of which nearly all draws are met.
    """
    if t == 0:
        return int(np.argmax(regions.sizes))
    is_enough = total >= min(SHARE * (t + 1) + 1.0 + spare, t) - 1e-9 if _can_grow(t, 0.0) else counted >= t
    order = np.lexsort((-regions.merit, -np.round(total, 6), np.round(regions.sizes, 9), ~is_enough))
    return int(order[0])


def _promise(regions: _Regions, chosen: int, t: int) -> float:
    """The expected probability that a new task has a good value inside."""
    ends = float(regions.ends[chosen])
    if ends == 0.0:
        return 1.0
    bound = 1.0 - (ends + float(t - regions.met[:, chosen].sum())) / (t + 1)
    return max(0.0, min(SHARE, bound) if _can_grow(t, 0.0) else bound)
