"""What was each range of each hyperparameter worth in past runs?

Outcomes of different tasks are never mixed raw: each is put on its task's scale, standard deviations above the median
of the task, where higher is better. History is not a random sample of configurations (a tuner chose them), so an effect
is what went along with a range, not what the range caused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.special import stdtrit

from hpo.arrays import Array, Mask

BINS = 4  # ranges of a number, at most
TASKS_FOR_AN_INTERVAL = 3  # from so many tasks on, the interval is over tasks
CLIPPED = 5.0  # standard deviations: a diverged run counts as very bad, not as infinitely bad
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class TaskOutcomes:
    """The finished trials of one task."""

    task: str
    params: Sequence[Mapping[str, Any]]  # active parameters only
    outcomes: Array  # (n,) raw values, NaN for a failed trial
    higher_is_better: bool
    distributions: Mapping[str, BaseDistribution]


@dataclass(frozen=True, kw_only=True)
class RangeEffect:
    """One range of one parameter: how trials there came out, in standard deviations above the median of their task."""

    parameter: str
    label: str  # the range as a person writes it
    n_trials: int  # that gave a value
    n_tasks: int  # that those trials belong to
    n_failed: int  # counted apart
    mean: float | None  # of task means with an interval over tasks, else of trials
    sd: float | None  # of trials
    interval: tuple[float, float] | None  # 95% for the mean
    interval_over: str  # "tasks" or "trials": what was taken as the independent unit


def range_effects(tasks: Sequence[TaskOutcomes]) -> list[RangeEffect]:
    """Every range of every parameter, in the order in which the tasks name them; ranges nobody visited are left out."""
    scaled = [standardised_outcomes(task.outcomes, higher_is_better=task.higher_is_better) for task in tasks]
    names = dict.fromkeys(name for task in tasks for name in task.distributions)
    effects = [
        _effect(name, label, [_members(task, name, contains) for task in tasks], scaled)
        for name in names
        for label, contains in _ranges([task.distributions[name] for task in tasks if name in task.distributions])
    ]
    return [effect for effect in effects if effect.n_trials + effect.n_failed > 0]


def standardised_outcomes(outcomes: Array, *, higher_is_better: bool) -> Array:
    """Outcomes (n,) as robust standard deviations above the median, higher is better, clipped; NaN stays NaN.

    The spread is the median absolute deviation, or the standard deviation where over half of the outcomes are equal.
    """
    finite = outcomes[np.isfinite(outcomes)]
    if not len(finite):
        return np.full(len(outcomes), np.nan)
    centre = np.median(finite)
    spreads = (MAD_TO_DEVIATION * np.median(np.abs(finite - centre)), np.std(finite), 1.0)
    spread = next(spread for spread in spreads if spread > 0.0)
    sign = 1.0 if higher_is_better else -1.0
    measured = np.where(np.isfinite(outcomes), outcomes, np.nan)
    standardised: Array = np.clip(sign * (measured - centre) / spread, -CLIPPED, CLIPPED)
    return standardised


def t_interval(values: Array) -> tuple[float, float] | None:
    """The 95% Student interval for the mean of independent values (n,); None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    half_width = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / np.sqrt(n)
    mean = float(np.mean(values))
    return mean - half_width, mean + half_width


def _effect(name: str, label: str, members: Sequence[Mask], scaled: Sequence[Array]) -> RangeEffect:
    groups = [outcomes[inside] for outcomes, inside in zip(scaled, members, strict=True)]
    measured = [group[np.isfinite(group)] for group in groups]
    visited = [group for group in measured if len(group)]
    trials = np.concatenate(measured)
    over_tasks = len(visited) >= TASKS_FOR_AN_INTERVAL
    units = np.array([np.mean(group) for group in visited]) if over_tasks else trials
    return RangeEffect(
        parameter=name,
        label=label,
        n_trials=len(trials),
        n_tasks=len(visited),
        n_failed=sum(map(len, groups)) - len(trials),
        mean=float(np.mean(units)) if len(units) else None,
        sd=float(np.std(trials, ddof=1)) if len(trials) > 1 else None,
        interval=t_interval(units),
        interval_over="tasks" if over_tasks else "trials",
    )


# Ranges: a label, and what tells whether a value is inside ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Interval:
    low: float
    high: float
    is_last: bool  # the last one holds its upper end

    def __call__(self, value: Any) -> bool:
        return self.low <= value < self.high or (self.is_last and value == self.high)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    value: Any

    def __call__(self, value: Any) -> bool:
        return type(value) is type(self.value) and bool(value == self.value)


_Range = _Interval | _Choice


def _members(task: TaskOutcomes, name: str, contains: _Range) -> Mask:
    """Which trials of a task are in a range; a parameter that is inactive in a trial is in none."""
    numeric = isinstance(contains, _Interval)
    inside = [name in params and numeric == _is_number(task, name) and contains(params[name]) for params in task.params]
    return np.array(inside, dtype=bool)


def _is_number(task: TaskOutcomes, name: str) -> bool:
    return isinstance(task.distributions.get(name), FloatDistribution | IntDistribution)


def _ranges(distributions: Sequence[BaseDistribution]) -> list[tuple[str, _Range]]:
    """The ranges of a parameter that tasks may have searched differently: over the union of what they searched."""
    choices = [of for of in distributions if isinstance(of, CategoricalDistribution)]
    numbers = [of for of in distributions if isinstance(of, FloatDistribution | IntDistribution)]
    values = {repr(value): value for of in choices for value in of.choices}
    named: list[tuple[str, _Range]] = [(str(value), _Choice(value=value)) for value in values.values()]
    return named + (_bins(numbers) if numbers else [])


def _bins(numbers: Sequence[FloatDistribution | IntDistribution]) -> list[tuple[str, _Range]]:
    low, high = min(of.low for of in numbers), max(of.high for of in numbers)
    if all(isinstance(of, IntDistribution) for of in numbers):
        return _integer_bins(int(low), int(high), log=any(of.log for of in numbers))
    edges = _edges(float(low), float(high), log=any(of.log for of in numbers))
    pairs = list(pairwise(edges))
    return [
        (_label(a, b), _Interval(low=a, high=b, is_last=position == len(pairs) - 1))
        for position, (a, b) in enumerate(pairs)
    ]


def _integer_bins(low: int, high: int, *, log: bool) -> list[tuple[str, _Range]]:
    edges = sorted({*(int(np.ceil(edge)) for edge in _edges(low, high + 1, log=log)[1:-1]), low, high + 1})
    return [
        (f"{a}" if b - a == 1 else f"{a} … {b - 1}", _Interval(low=a, high=b, is_last=False))
        for a, b in pairwise(edges)
    ]


def _edges(low: float, high: float, *, log: bool) -> list[float]:
    """The ends of at most `BINS` equally wide bins, on a log scale where all of it is positive."""
    if low == high:
        return [low, high]
    edges = np.geomspace(low, high, BINS + 1) if log and low > 0 else np.linspace(low, high, BINS + 1)
    return [low, *edges[1:-1].tolist(), high]


def _label(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} … {high:.3g}"
