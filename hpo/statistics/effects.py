"""What is each range of each hyperparameter worth: in the mean task, and in the next one?

Outcomes of different tasks are never mixed raw: each is put on its task's scale, standard deviations above the median
of the task, where higher is better. Two answers stand side by side:

- *went along with*: the mean outcome of the runs in a range. A tuner, not chance, chose the configurations, so where it
  came late, having found good values of everything else, looks good.
- *adjusted*: how much better a range is than the whole of the space, were the other parameters spread evenly over it.
  It comes from a fitted surface (`hpo.statistics.additive_surface`) and adjusts for where the other parameters were.

Each is estimated per task, then over tasks by random effects (`hpo.statistics.random_effects`). Of fewer tasks than
`FEWEST_TASKS` it can only be said what was true in them.

Notation: n runs, t tasks, d parameters, c cells (ranges of parameters, or pairs of ranges), p columns of the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from hpo.arrays import Array, Mask
from hpo.statistics.additive_surface import AdditiveSurface, Basis, Measurements, Moments
from hpo.statistics.calibration import Calibration, calibrate
from hpo.statistics.random_effects import FEWEST_TASKS, LEVEL, random_effects

CLIPPED = 5.0  # standard deviations: a diverged run counts as very bad, not as infinitely bad
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
ADJUSTED_TASKS = 256  # that a surface is fitted to, at most: the latest
ADJUSTED_RUNS = 2000  # of each of them, at most, spread over its time
WORK = 2e9  # multiplications that one pass over the tasks may cost
DRAWS = 2000  # for the probability of being best


class Points(Protocol):
    """Coordinates of n runs: an array, or what works them out for those that are asked for."""

    def __getitem__(self, rows: NDArray[np.intp], /) -> Array:
        """Of some runs, (·, d)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """Finished runs of tasks with common parameters; those of a task stand together."""

    tasks: NDArray[np.intp]  # (n,) ascending, each of 0 ... t - 1
    outcomes: Array  # (n,) on one scale, higher is better; NaN for a failed run
    ranges: NDArray[np.int16]  # (n, d) which range each value is in, -1 for none: then it is inactive
    points: Points  # (n, d) coordinates, a choice as its index, NaN where inactive
    sizes: tuple[int, ...]  # d, how many ranges each parameter has
    choices: tuple[int, ...]  # d, how many choices, 0 for a number

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return int(self.tasks[-1]) + 1 if len(self.tasks) else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """What c cells are worth; NaN where that cannot be said."""

    tasks: Array  # (c,) with an estimate
    mean: Array  # (c,) over those tasks
    interval: Array  # (c, 2) 95% for the mean: of all tasks like these, or, with fewer than three, of just these
    tau: Array  # (c,) how much the tasks' true effects differ, a standard deviation
    prediction: Array  # (c, 2) 95% for the effect in a new task
    deviation: Array  # (c,) of the effect in a new task; with fewer than three tasks, of the mean
    of_tasks: Array  # (t, c) what each task says
    errors: Array  # (t, c) standard errors of that
    calibration: Calibration


def on_task_scales(tasks: NDArray[np.intp], outcomes: Array, *, higher_is_better: Mask | bool) -> Array:
    """Outcomes (n,) as robust standard deviations above the median of their task, higher is better, clipped.

    tasks: (n,) ascending from 0. NaN stays NaN, and so becomes each outcome of a task without two different ones: it
    says nothing. The spread is the median absolute deviation, or the standard deviation where over half are equal.
    """
    known = np.isfinite(outcomes)
    t = int(tasks[-1]) + 1 if len(tasks) else 0
    values, of = outcomes[known], tasks[known]
    centre = _medians(of, values, t)
    apart = values - centre[of]
    spread = MAD_TO_DEVIATION * _medians(of, np.abs(apart), t)
    counts = np.maximum(np.bincount(of, minlength=t), 1)
    level = np.bincount(of, apart, minlength=t) / counts
    deviation = np.sqrt(np.bincount(of, (apart - level[of]) ** 2, minlength=t) / counts)
    spread = np.where(spread > 0, spread, np.where(deviation > 0, deviation, np.nan))
    sign = np.where(np.broadcast_to(higher_is_better, outcomes.shape), 1.0, -1.0)
    scaled = np.full(len(outcomes), np.nan)
    scaled[known] = np.clip(sign[known] * apart / spread[of], -CLIPPED, CLIPPED)
    return scaled


def _medians(tasks: NDArray[np.intp], values: Array, t: int) -> Array:
    """The median of each task's values, NaN for none; tasks (n,) ascending."""
    counts = np.bincount(tasks, minlength=t)
    starts = np.cumsum(counts) - counts
    widest = int(counts.max(initial=0))
    if t * widest <= 4 * len(values):  # tasks of similar sizes: sorting rows is many times faster
        rows = np.full((t, widest), np.inf)
        rows[tasks, np.arange(len(values)) - starts[tasks]] = values
        rows.sort(axis=1)
        ordered, starts = np.append(rows.ravel(), np.nan), np.arange(t) * widest
    else:
        ordered = np.append(values[np.lexsort((values, tasks))], np.nan)
    low = np.where(counts > 0, starts + (counts - 1) // 2, len(ordered) - 1)
    high = np.where(counts > 0, starts + counts // 2, len(ordered) - 1)
    medians: Array = (ordered[low] + ordered[high]) / 2.0
    return medians


# What went along with a range


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """How the runs are spread over c cells, and how they came out."""

    runs: Array  # (c,) that gave a value
    failed: Array  # (c,) that gave none
    tasks: Array  # (c,) with a run that gave a value
    deviation: Array  # (c,) standard deviation of the outcomes; NaN for fewer than two


def range_counts(runs: Runs) -> tuple[Counts, Estimates]:
    """The ranges of all parameters, one parameter after the other: what is in them, and what it was worth."""
    return _joined([_looked(runs, runs.ranges[:, j], size) for j, size in enumerate(runs.sizes)], runs)


def pair_counts(runs: Runs, pairs: Sequence[tuple[int, int]]) -> tuple[Counts, Estimates]:
    """As `range_counts`, for the cells of pairs of parameters: row by row the ranges of the second one."""
    return _joined([_looked(runs, _both(runs, i, j), runs.sizes[i] * runs.sizes[j]) for i, j in pairs], runs)


def _both(runs: Runs, i: int, j: int) -> NDArray[np.intp]:
    first, second = runs.ranges[:, i].astype(np.intp), runs.ranges[:, j].astype(np.intp)
    return np.where((first < 0) | (second < 0), -1, first * runs.sizes[j] + second)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Look:
    count: Array  # (t, r) runs with a value
    failed: Array  # (r,)
    total: Array  # (t, r)
    square: Array  # (t, r)


def _looked(runs: Runs, ranges: NDArray[Any], size: int) -> _Look:
    inside = ranges >= 0
    known = inside & np.isfinite(runs.outcomes)
    place = runs.tasks[known] * size + ranges[known]
    outcomes, length = runs.outcomes[known], runs.count * size
    shape = runs.count, size
    return _Look(
        count=np.bincount(place, minlength=length).reshape(shape).astype(np.float64),
        failed=np.bincount(ranges[inside & ~known], minlength=size).astype(np.float64),
        total=np.bincount(place, outcomes, minlength=length).reshape(shape).astype(np.float64),
        square=np.bincount(place, outcomes**2, minlength=length).reshape(shape).astype(np.float64),
    )


def _joined(looks: Sequence[_Look], runs: Runs) -> tuple[Counts, Estimates]:
    count = np.concatenate([look.count for look in looks], axis=1)
    total = np.concatenate([look.total for look in looks], axis=1)
    square = np.concatenate([look.square for look in looks], axis=1)
    n, sums, squares = count.sum(0), total.sum(0), square.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = total / np.where(count > 0, count, np.nan)
        deviation = np.sqrt(np.maximum(squares - sums**2 / n, 0.0) / np.where(n > 1, n - 1, np.nan))
    counts = Counts(
        runs=n, failed=np.concatenate([look.failed for look in looks]), tasks=(count > 0).sum(0), deviation=deviation
    )
    variances = np.concatenate([_variances(look) for look in looks], axis=1)
    measured = Measurements(
        estimates=means, variances=variances, shared=np.zeros(len(n)), plausible=np.full(len(n), np.inf)
    )
    freedom = np.concatenate([np.full(look.count.shape[1], max(_freedom(look).sum(), 1.0)) for look in looks])
    return counts, _estimates(measured, freedom=freedom)


def _variances(look: _Look) -> Array:
    """Of the task's mean in each range (t, r): from the variance within ranges, and as one run more that of all."""
    n = look.count.sum(1)
    within = (look.square - look.total**2 / np.maximum(look.count, 1)).sum(1)
    overall = (look.square.sum(1) - look.total.sum(1) ** 2 / np.maximum(n, 1)) / np.maximum(n - 1, 1)
    pooled = np.where(n > 1, (np.maximum(within, 0.0) + overall) / np.maximum(_freedom(look), 1.0), np.nan)
    variances: Array = pooled[:, None] / np.where(look.count > 0, look.count, np.nan)
    return variances


def _freedom(look: _Look) -> Array:
    """The degrees of freedom of a task's variance (t,)."""
    return np.where(look.count.sum(1) > 1, (look.count - (look.count > 0)).sum(1) + 1.0, 0.0)


# Adjusted for where the other parameters were


@dataclass(frozen=True, kw_only=True, eq=False)
class Adjustment:
    """A surface fitted to the latest tasks, and a design of the space over which it is averaged."""

    surface: AdditiveSurface
    moments: Moments  # of the tasks that were looked at
    looked_at: NDArray[np.intp]  # those tasks
    points: Array  # (m, d) of the design
    ranges: NDArray[np.int16]  # (m, d)
    rows: Array  # (m, p) of the basis
    sizes: tuple[int, ...]
    unit: float  # standard deviation of the outcomes: the surface is of outcomes in this unit
    freedom: float

    @classmethod
    def of(cls, runs: Runs, points: Array, ranges: NDArray[np.int16]) -> Adjustment | None:
        """Fitted to runs; the design has m points (m, d) and their ranges. None where no two outcomes differ."""
        basis = Basis.of(runs.choices)
        known = np.flatnonzero(np.isfinite(runs.outcomes))
        looked_at = np.unique(runs.tasks[known])[-_affordable(basis.size) :]
        if not len(looked_at):
            return None
        known = known[runs.tasks[known] >= looked_at[0]]
        known = _thinned(known, runs.tasks[known])
        place = np.searchsorted(looked_at, runs.tasks[known])
        unit = float(runs.outcomes[known].std())
        if not unit > 0:
            return None
        moments = Moments.of(
            basis, place, runs.points[known], (runs.outcomes[known] - runs.outcomes[known].mean()) / unit
        )
        return cls(
            surface=AdditiveSurface.fit(basis, moments),
            moments=moments,
            looked_at=looked_at,
            points=points,
            ranges=ranges,
            rows=basis.rows(points),
            sizes=runs.sizes,
            unit=unit,
            freedom=max(float(len(known)) - len(runs.sizes) - 1.0, 1.0),
        )

    def of_ranges(self) -> Estimates:
        """The cells of all ranges of all parameters, each less the mean of where its parameter is active."""
        contrasts = [
            self._contrast(self.ranges[:, j] == place, self.ranges[:, j] >= 0)
            for j, size in enumerate(self.sizes)
            for place in range(size)
        ]
        return self._measured(np.array(contrasts), self.sizes)

    def of_pairs(self, pairs: Sequence[tuple[int, int]]) -> Estimates:
        """The cells of pairs of ranges, each less the mean of where both parameters are active."""
        contrasts = []
        for i, j in pairs:
            a, b = self.ranges[:, i], self.ranges[:, j]
            active = (a >= 0) & (b >= 0)
            contrasts += [
                self._contrast((a == first) & (b == second), active)
                for first in range(self.sizes[i])
                for second in range(self.sizes[j])
            ]
        kins = tuple(self.sizes[i] * self.sizes[j] for i, j in pairs)
        return self._measured(np.array(contrasts).reshape(-1, self.surface.basis.size), kins)

    def along(self, j: int, coordinates: Array) -> Estimates:
        """The curve of a parameter at coordinates (c,), less its mean over the space."""
        active = self.ranges[:, j] >= 0
        some = self.points[active][:CURVE_DESIGN]
        level = self.rows[active].mean(0)
        contrasts = []
        for coordinate in coordinates:
            moved = some.copy()
            moved[:, j] = coordinate
            contrasts.append(self.surface.basis.rows(moved).mean(0) - level)
        return self._measured(np.array(contrasts), (len(contrasts),))

    def over(self, points: Array) -> Estimates:
        """What configurations (m, d) are worth on average, less the mean of the whole space: one cell."""
        return self._measured((self.surface.basis.rows(points).mean(0) - self.rows.mean(0))[None], (1,))

    def of_tasks(self) -> tuple[Array, Array]:
        """The surface of each task that was looked at over the design, (t, m), and how much its own runs tell, (t,)."""
        return self.surface.of_tasks(self.moments, self.rows)

    def _contrast(self, inside: Mask, among: Mask) -> Array:
        if not inside.any():
            return np.zeros(self.rows.shape[1])
        contrast: Array = self.rows[inside].mean(0) - self.rows[among].mean(0)
        return contrast

    def _measured(self, contrasts: Array, kins: tuple[int, ...]) -> Estimates:
        found = self.surface.measure(self.moments, contrasts, kins)
        measured = Measurements(
            estimates=found.estimates * self.unit,
            variances=found.variances * self.unit**2,
            shared=found.shared * self.unit**2,
            plausible=found.plausible * self.unit**2,
            kinship=found.kinship,
        )
        return _estimates(measured, freedom=np.full(len(contrasts), self.freedom))


CURVE_DESIGN = 1024  # points of the design that are moved along a curve


def _affordable(size: int) -> int:
    """How many tasks can be looked at with p columns."""
    return int(np.clip(WORK / size**3, 8, ADJUSTED_TASKS))


def _thinned(rows: NDArray[np.intp], tasks: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most so many rows of each task, at equal distances."""
    starts = np.flatnonzero(np.diff(tasks, prepend=-1))
    counts = np.diff(np.append(starts, len(tasks)))
    if counts.max() <= ADJUSTED_RUNS:
        return rows
    parts = [
        rows[start + np.unique(np.linspace(0, count - 1, min(count, ADJUSTED_RUNS)).astype(np.intp))]
        for start, count in zip(starts, counts, strict=True)
    ]
    return np.concatenate(parts)


# Over tasks


def _estimates(measured: Measurements, freedom: Array) -> Estimates:
    """Random effects where enough tasks say something; else the weighted mean of those that do. freedom: (c,)."""
    fitted = random_effects(measured.estimates, measured.variances, measured.shared, measured.kinship)
    calibration = calibrate(measured)
    few = ~(fitted.tasks >= FEWEST_TASKS)
    own_mean, own_half = _of_these(measured, freedom)
    mean = np.where(few, own_mean, fitted.mean)
    half = np.where(few, own_half, np.diff(fitted.interval)[:, 0] / 2.0)
    low, high = (fitted.prediction - fitted.mean[:, None]).T * calibration.factor
    trust, narrower = _trust(half, measured.plausible)
    mean, half = trust * mean, narrower * half
    excess = (1.0 / np.maximum(narrower, 1e-9) ** 2 - 1.0) * half**2  # of the squared half-width before it was shrunk
    low, high = (np.sign(end) * np.sqrt(np.maximum(end**2 - excess, half**2)) for end in (low, high))
    normal = ndtri((1 + LEVEL) / 2)
    spread = np.sqrt(np.maximum((fitted.spread * calibration.factor) ** 2 - excess / normal**2, (half / normal) ** 2))
    return Estimates(
        tasks=np.isfinite(measured.estimates).sum(0).astype(np.float64),
        mean=mean,
        interval=np.stack([mean - half, mean + half], axis=-1),
        tau=fitted.tau,
        prediction=np.stack([mean + low, mean + high], axis=-1),
        deviation=np.where(few, half / normal, spread),
        of_tasks=measured.estimates,
        errors=np.sqrt(measured.variances),
        calibration=calibration,
    )


def _of_these(measured: Measurements, freedom: Array) -> tuple[Array, Array]:
    """The weighted mean of the tasks that are there (c,), and the half-width of its 95% interval."""
    there = np.isfinite(measured.variances) & np.isfinite(measured.estimates)
    w = np.where(there, 1.0 / np.maximum(np.where(there, measured.variances, 1.0), 1e-300), 0.0)
    total = w.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, w * measured.estimates, 0.0).sum(0) / total
        error = np.sqrt(1.0 / total + measured.shared)
    mean = np.where(total > 0, mean, _mean_of(measured.estimates))  # without a variance: without an interval
    return mean, np.where(total > 0, stdtrit(freedom, (1 + LEVEL) / 2) * error, np.nan)


def _trust(half: Array, plausible: Array) -> tuple[Array, Array]:
    """The shares (c,) of estimates and of half-widths that remain when it counts how large effects can be at all.

    Outcomes of a standard deviation of 1 do not come from effects of 5: an estimate as vague as that is drawn to 0, and
    what is known exactly is hardly touched. Where there is no interval, nothing is.
    """
    variance = (half / ndtri((1 + LEVEL) / 2)) ** 2
    with np.errstate(invalid="ignore"):
        trust = np.where(np.isinf(plausible) | ~np.isfinite(half), 1.0, plausible / (plausible + variance))
    return trust, np.sqrt(trust)


def _mean_of(estimates: Array) -> Array:
    count = np.isfinite(estimates).sum(0)
    total = np.where(np.isfinite(estimates), estimates, 0.0).sum(0)
    mean: Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def best_of(estimates: Estimates, sizes: Sequence[int], rng: np.random.Generator, *, sign: float = 1.0) -> Array:
    """How probable it is, for each range (c,) of parameters with so many ranges, that it is its parameter's best.

    In a new task, if there are three tasks or more; else on average in these. Ranges nobody has tried are left out:
    NaN. The ranges' effects are drawn independently of each other. sign: -1 where lower is better.
    """
    draws = sign * estimates.mean + estimates.deviation * rng.standard_normal((DRAWS, len(estimates.mean)))
    draws = np.where(np.isfinite(draws), draws, -np.inf)
    shares = np.full(len(estimates.mean), np.nan)
    start = 0
    for size in sizes:
        cells = slice(start, start + size)
        known = np.isfinite(draws[0, cells])
        if known.sum() > 1:
            won = np.bincount(draws[:, cells].argmax(1), minlength=size) / DRAWS
            shares[cells] = np.where(known, won, np.nan)
        start += size
    return shares


def all_pairs(count: int) -> list[tuple[int, int]]:
    """The pairs of so many parameters."""
    return list(combinations(range(count), 2))
