"""What was each range of each parameter worth? The answer of `hpo stats` as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from hpo.answers.plain import Number
from hpo.statistics.random_effects import FEWEST_TASKS

if TYPE_CHECKING:
    from hpo.decisions.past_effects import PastEffects
    from hpo.statistics.effects import Counts, Estimates
    from hpo.statistics.importance import Importance


class TasksHeld(TypedDict):
    """For how many tasks that were left out the others' interval was right."""

    tasks: int
    of: int


class EffectEstimate(TypedDict):
    """What a range was worth: the mean over tasks, and what is to be expected in a new one."""

    mean: Number
    interval: list[float] | None  # 95%, for the mean
    interval_over: str  # tasks, or trials where the tasks are too few
    tasks: int
    tau: Number  # how much tasks differ
    prediction: list[float] | None  # 95%, for a new task
    held: TasksHeld


class WentAlong(EffectEstimate):
    """What went along with a range in past trials, which a tuner chose."""

    sd: Number  # between trials


class _Cell(TypedDict):
    trials: int
    tasks: int
    failed: int
    went_along: WentAlong
    adjusted: EffectEstimate | None  # what is left when the other parameters are spread evenly


class RangeEffect(_Cell):
    """What a range of one parameter was worth."""

    parameter: str
    range: str
    low: Number
    high: Number
    best: Number  # probability that the range is the best one in a new task


class PairEffect(_Cell):
    """What two ranges of two parameters were worth together."""

    parameters: list[str]
    ranges: list[str]


class IntervalsHeld(TypedDict):
    """How often intervals for a new task were right, with the others' tasks left out in turn."""

    factor: Number  # by which they were widened for it
    share_held: Number
    share_held_uncorrected: Number


class IntervalsChecked(TypedDict):
    """The same, of the two estimates."""

    went_along: IntervalsHeld | None
    adjusted: IntervalsHeld | None


class ParameterShare(TypedDict):
    """How much of the outcome a parameter explains."""

    parameter: str
    share: Number
    interval: list[float] | None


class PairShare(TypedDict):
    """How much two explain together, beyond each."""

    parameters: list[str]
    share: Number
    interval: list[float] | None


class ParameterImportance(TypedDict):
    """Which parameters, and pairs of them, the outcome depends on."""

    over: str  # tasks or trials
    tasks: int
    trials: int
    parameters: list[ParameterShare]
    pairs: list[PairShare]


class Effects(TypedDict):
    """What each range of each parameter was worth."""

    target: str
    unit: str
    raw_units: bool
    higher_is_better: bool
    tasks: int
    trials: int
    failed: int
    adjusted_tasks: int
    calibration: IntervalsChecked
    importance: NotRequired[ParameterImportance | None]
    effects: list[RangeEffect]
    pairs: NotRequired[list[PairEffect]]


def chosen_places(found: PastEffects, parameters: Sequence[str]) -> list[int]:
    """The places of parameters in `found.axes`, each once; all where none is named. Raises SettingsError."""
    return list(dict.fromkeys(found.place_of(name) for name in parameters)) or list(range(len(found.axes.axes)))


def effects_fields(
    found: PastEffects, shown: Sequence[int], *, pairs: bool = False, importance: bool = False
) -> Effects:
    """The effects of some parameters. shown: their places in `found.axes`."""
    counts, along = found.went_along
    fields: Effects = {
        "target": found.target,
        "unit": _unit(found),
        "raw_units": found.raw_units,
        "higher_is_better": found.higher_is_better,
        "tasks": len(found.tasks),
        "trials": len(found.runs.outcomes),
        "failed": int(np.isnan(found.runs.outcomes).sum()),
        "adjusted_tasks": 0 if found.adjustment is None else len(found.adjustment.looked_at),
        "calibration": {"went_along": _checked(along), "adjusted": _checked(found.adjusted)},
        "effects": [
            {
                "parameter": found.axes.axes[j].name,
                "range": found.axes.axes[j].labels[place],
                "low": found.axes.axes[j].bounds[place][0],
                "high": found.axes.axes[j].bounds[place][1],
                **_cell(found, counts, along, found.adjusted, sum(found.runs.sizes[:j]) + place),
                "best": None if found.best is None else found.best[sum(found.runs.sizes[:j]) + place],
            }
            for j in shown
            for place in range(found.runs.sizes[j])
        ],
    }
    if importance:
        fields["importance"] = importance_fields(found, found.importance)
    if pairs:
        fields["pairs"] = _pair_fields(found, shown)
    return fields


def _pair_fields(found: PastEffects, shown: Sequence[int]) -> list[PairEffect]:
    pairs = [pair for pair in found.pairs if set(pair) & set(shown)]
    if not pairs:
        return []
    counts, along, adjusted = found.pair_effects(pairs)
    cells = [
        ([first.name, second.name], [a, b])
        for first, second in ((found.axes.axes[i], found.axes.axes[j]) for i, j in pairs)
        for a in first.labels
        for b in second.labels
    ]
    return [
        {"parameters": names, "ranges": ranges, **_cell(found, counts, along, adjusted, c)}
        for c, (names, ranges) in enumerate(cells)
    ]


def _cell(found: PastEffects, counts: Counts, along: Estimates, adjusted: Estimates | None, c: int) -> _Cell:
    return {
        "trials": int(counts.runs[c]),
        "tasks": int(counts.tasks[c]),
        "failed": int(counts.failed[c]),
        "went_along": {**_estimate(along, c), "sd": counts.deviation[c]},
        "adjusted": None if adjusted is None else _estimate(adjusted, c),
    }


def _estimate(estimates: Estimates, c: int) -> EffectEstimate:
    held = estimates.calibration
    return {
        "mean": estimates.mean[c],
        "interval": _ends(estimates.interval[c]),
        "interval_over": "tasks" if estimates.tasks[c] >= FEWEST_TASKS else "trials",
        "tasks": int(estimates.tasks[c]),
        "tau": estimates.tau[c],
        "prediction": _ends(estimates.prediction[c]),
        "held": {"tasks": int(held.held[c]), "of": int(held.of[c])},
    }


def _ends(ends: Any) -> list[float] | None:
    return ends.tolist() if np.isfinite(ends).all() else None


def _checked(estimates: Estimates | None) -> IntervalsHeld | None:
    if estimates is None or not estimates.calibration.of.sum():
        return None
    checked = estimates.calibration
    return {"factor": checked.factor, "share_held": checked.share, "share_held_uncorrected": checked.uncorrected}


def importance_fields(found: PastEffects, shares: Importance | None) -> ParameterImportance | None:
    """Which parameters, and pairs of them, the outcome depends on; None where too few runs say so."""
    if shares is None:
        return None
    names = [axis.name for axis in found.axes.axes]
    return {
        "over": shares.over,
        "tasks": shares.tasks,
        "trials": shares.runs,
        "parameters": [
            {"parameter": names[j], "share": shares.shares[j], "interval": _ends(shares.intervals[j])}
            for j in np.argsort(-shares.shares, kind="stable").tolist()
        ],
        "pairs": [
            {"parameters": [names[i], names[j]], "share": share, "interval": _ends(ends)}
            for (i, j), share, ends in zip(shares.pairs, shares.pair_shares, shares.pair_intervals, strict=True)
        ],
    }


def _unit(found: PastEffects) -> str:
    """In what the outcomes are counted, in words."""
    if found.raw_units:
        return f"in the task's own units, {'higher' if found.higher_is_better else 'lower'} is better"
    return "standard deviations above the task's median, higher is better"
