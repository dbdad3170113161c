"""What will a study reach, how long will it take, and what will it cost? Foretold from past tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from optuna.trial import TrialState

from hpo.arrays import Array
from hpo.decisions.past_progress import PastTask, Progress, family_name, past_tasks
from hpo.statistics.loss_scale import LossScale
from hpo.statistics.progress_bands import (
    CONFORMAL_TASKS,
    LEAST_TASKS,
    Milestone,
    has_common_scale,
    incumbents,
    prediction_band,
    progress,
    seconds_until_finished,
)
from hpo.studies.spec import StudySpec
from storage.database import Store

USUAL_TRIALS = 30  # where the budget has hours only, and nobody knows how many trials they hold
LARGEST_FRACTION, LARGEST_PERCENTAGE = 1.0, 100.0  # where a metric that is maximised ends by its nature
MOST_TRIALS = 1000  # that are foretold where the budget has hours only


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is expected, and between what it lies for 95 of 100 new tasks where enough are known to say so."""

    expected: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is foretold for one number of trials."""

    trials: int
    tasks: int  # that are known at that number of trials
    value: Estimate | None  # of the metric; None where past tasks have no scale of it in common
    way: Estimate | None  # share of the way from a task's median trial to the best that is known of it
    held: int | None  # of these tasks, each foretold from the others; None where they are too few
    hours: Estimate | None  # until that many have finished
    money: Estimate | None  # for the hours that they train, all together


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What past studies say of a new one."""

    study: str
    task: str
    family: str
    metric: str
    direction: str
    jobs: int
    price_per_hour: float | None
    scale: Literal["metric", "share"]  # what `held` is about: the value, or the share of the way
    tasks: tuple[str, ...]
    replayed: int  # of them
    stages: tuple[Stage, ...]  # one for each number of trials up to the budget's
    failed: float | None  # share of past trials
    pruned: float | None
    missing: str | None  # why there is no band, and what would be enough
    notes: tuple[str, ...]

    @property
    def held(self) -> tuple[int, int] | None:
        """How often the band held for a past task, over all stages: hits and cases; None where nothing is known."""
        judged = [stage for stage in self.stages if stage.held is not None]
        if not judged:
            return None
        return sum(stage.held or 0 for stage in judged), sum(stage.tasks for stage in judged)


def forecast(
    store: Store | None,
    spec: StudySpec,
    *,
    jobs: int = 1,
    price_per_hour: float | None = None,
    tell: Progress = lambda done, of_all: None,
    before: datetime | None = None,
) -> Forecast:
    """The forecast for a study file.

    store: the history, None where there is none yet. before: as it was then, without the studies created since.
    """
    trials = spec.budget.trials or USUAL_TRIALS
    tasks, notes = ([], []) if store is None else past_tasks(store, spec, trials, tell, before=before)
    return foretold(spec, tasks, notes, jobs=jobs, price_per_hour=price_per_hour)


def foretold(
    spec: StudySpec,
    tasks: Sequence[PastTask],
    notes: Sequence[str] = (),
    *,
    jobs: int = 1,
    price_per_hour: float | None = None,
) -> Forecast:
    """The forecast from the past tasks, which have a curve where they are not ours."""
    told, notes = [task for task in tasks if np.isfinite(task.losses).any()], list(notes)
    pace = _Pace.of(tasks, spec.budget.trials or MOST_TRIALS, jobs)
    trials = spec.budget.trials or _trials_within(pace, spec.budget.hours)
    if spec.budget.hours is not None:
        notes.append(_about_hours(spec.budget.hours, _trials_within(pace, spec.budget.hours), pace, spec.budget.trials))
    curves = _curves(told, trials)
    least, greatest = _bounds(told, maximize=spec.task.direction == "maximize")
    ways = progress(_on_their_own_scales(told, curves), least=0.0, greatest=1.0)
    values = progress(curves, least=least, greatest=greatest) if _has_common_scale(told) else None
    if values is None:
        notes.append(
            f"past tasks have no scale of {spec.task.metric} in common: only shares of the way can be foretold, from a "
            "task's median trial to the best that is known of it"
        )
    judged = ways if values is None else values
    busy = pace.busy[:, :trials]
    prices = busy[:0] if price_per_hour is None else price_per_hour * busy
    late = sum(each.without_success > 0 for each in judged)
    if late:
        notes.append(f"until trial {late} some tasks had no success yet: they are left out till then")
    stages = tuple(
        Stage(
            trials=each.trials,
            tasks=each.tasks,
            value=None if values is None else _value(each, sign=-1.0 if spec.task.direction == "maximize" else 1.0),
            way=_value(way, sign=-1.0, offset=1.0),
            held=each.held,
            hours=hours,
            money=money,
        )
        for each, way, hours, money in zip(judged, ways, _growing(pace.wall[:, :trials]), _growing(prices), strict=True)
    )
    states = np.concatenate([task.states for task in tasks]) if tasks else np.empty(0)
    return Forecast(
        study=spec.study,
        task=spec.task.name,
        family=family_name(spec),
        metric=spec.task.metric,
        direction=spec.task.direction,
        jobs=jobs,
        price_per_hour=price_per_hour,
        scale="share" if values is None else "metric",
        tasks=tuple(task.name for task in told),
        replayed=sum(task.curve is not None for task in told),
        stages=stages,
        failed=float(np.mean(states == TrialState.FAIL.value)) if len(states) else None,
        pruned=float(np.mean(states == TrialState.PRUNED.value)) if len(states) else None,
        missing=_missing(spec, told, judged),
        notes=tuple(notes),
    )


# From curves to values


def _curves(tasks: Sequence[PastTask], trials: int) -> Array:
    """The incumbents of the tasks, shape (t, trials)."""
    curves = np.full((len(tasks), trials), np.nan)
    for row, task in zip(curves, tasks, strict=True):
        if task.curve is None:
            row[:] = incumbents(task.losses, trials, has_converged=task.has_converged)
        else:
            row[: len(task.curve)] = task.curve[:trials]
    return curves


def _has_common_scale(tasks: Sequence[PastTask]) -> bool:
    if not tasks:
        return True
    losses = [task.losses[np.isfinite(task.losses)] for task in tasks]
    levels, spreads = (
        np.array([np.median(each) for each in losses]),
        np.array([LossScale.of(each).spread for each in losses]),
    )
    return has_common_scale(levels, spreads)


def _on_their_own_scales(tasks: Sequence[PastTask], curves: Array) -> Array:
    """The curves (t, k) as shares of the way still to go, 0 to 1; NaN for a task whose trials are all the same."""
    shares = np.full(curves.shape, np.nan)
    for row, task, curve in zip(shares, tasks, curves, strict=True):
        best = float(np.nanmin(task.losses))
        if task.median > best:
            row[:] = np.where(np.isinf(curve), np.inf, np.clip((curve - best) / (task.median - best), 0.0, 1.0))
    return shares


def _bounds(tasks: Sequence[PastTask], *, maximize: bool) -> tuple[float, float]:
    """Between which losses are by their nature: of one sign; below the top of a fraction or a percentage."""
    values = np.concatenate([task.losses[np.isfinite(task.losses)] for task in tasks]) if tasks else np.empty(0)
    if not len(values):
        return -np.inf, np.inf
    if not maximize:
        return (0.0, np.inf) if values.min() >= 0.0 else (-np.inf, np.inf)
    if values.max() > 0.0:
        return -np.inf, np.inf
    for top in (LARGEST_FRACTION, LARGEST_PERCENTAGE):
        if 0.5 * top <= -values.min() <= top:
            return -top, 0.0
    return -np.inf, 0.0


def _value(milestone: Milestone, *, sign: float, offset: float = 0.0) -> Estimate | None:
    """What is foretold, turned from a loss to what the user counts: offset + sign * loss."""
    band = milestone.band
    if band is None:
        return None if milestone.typical is None else Estimate(expected=offset + sign * milestone.typical)
    ends = offset + sign * band.low, offset + sign * band.high
    return Estimate(expected=offset + sign * band.expected, low=min(ends), high=max(ends))


def _missing(spec: StudySpec, tasks: Sequence[PastTask], milestones: Sequence[Milestone]) -> str | None:
    t = len(tasks)
    if t < LEAST_TASKS:
        known = f"{t or 'no'} past task{'' if t == 1 else 's'} of this space, metric and direction"
        return (
            f"not enough to say what {spec.task.metric} will reach: the history has {known}; {LEAST_TASKS} would be "
            f"enough for a band, {CONFORMAL_TASKS + 1} to check it well"
        )
    if any(each.band is not None for each in milestones):
        return None
    return (
        f"not enough to say how a new task will differ: all {t} past tasks reached the same, or their studies were too "
        f"short; {LEAST_TASKS} that differ would be enough"
    )


# Hours


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pace:
    """How many hours the tasks took, those where it is known."""

    wall: Array  # (t, k) until the first k trials had ended
    busy: Array  # (t, k) that they trained, all together

    @classmethod
    def of(cls, tasks: Sequence[PastTask], trials: int, jobs: int) -> _Pace:
        """With so many places for trials; a task's trials go round where it has fewer."""
        known = [task.seconds for task in tasks if np.isfinite(task.seconds).any()]
        filled = [np.where(np.isfinite(seconds), seconds, np.nanmean(seconds)) for seconds in known]
        hours = np.array([np.resize(seconds, trials) / 3600.0 for seconds in filled]).reshape(len(filled), trials)
        return cls(
            wall=np.array([seconds_until_finished(each, jobs) for each in hours]).reshape(hours.shape),
            busy=np.cumsum(hours, axis=1),
        )


def _trials_within(pace: _Pace, hours: float | None) -> int:
    """How many trials end within the hours, as expected, of those foretold; the usual number where nothing is known."""
    if hours is None or not len(pace.wall):
        return USUAL_TRIALS
    expected = np.median(pace.wall, axis=0)
    return max(1, int((expected <= hours).sum()))


def _about_hours(hours: float, trials: int, pace: _Pace, planned: int | None) -> str:
    if not len(pace.wall):
        return f"how many trials the budget's {hours:g} hours hold is not known: no past trial says how long it took"
    if planned is not None and trials >= planned:
        return f"the budget's {hours:g} hours are likely to be enough for {planned} trials"
    if planned is None and trials == MOST_TRIALS:
        return f"the budget's {hours:g} hours are likely to hold at least {MOST_TRIALS} trials: no more are foretold"
    return f"the budget's {hours:g} hours are likely to end the study after about {trials} trials"


def _growing(amounts: Array) -> list[Estimate | None]:
    """Of a new task after each number of trials, from those of the past ones (t, k): none falls with the trials."""
    if not len(amounts):
        return [None] * amounts.shape[1]
    found: list[Estimate | None] = []
    least = np.zeros(3)
    for column in amounts.T:
        band = prediction_band(column, logarithmic=True)
        if band is None:
            found.append(Estimate(expected=float(np.median(column))))
        else:
            least = np.maximum(least, [band.expected, band.low, band.high])
            expected, low, high = least.tolist()
            found.append(Estimate(expected=expected, low=low, high=high))
    return found
