r"""What will the best value of a new task be after so many trials? A band, by what past tasks reached.

Each past task gives one curve of its incumbent; the tasks, not the trials, are the sample. At every k the loss of one
more task lies in the prediction interval

    $\bar z \pm q \, s \sqrt{1 + 1 / t}$,

with mean and standard deviation over the t tasks, on a logarithmic scale where that makes their losses clearly likelier
(Geisser, Predictive Inference, 1993). How often that holds where losses are not normal, skewed by a task or two that
went badly, cannot be seen from few tasks. So q is Student's quantile with the degrees of freedom that a variance has of
t values with the excess kurtosis $\kappa$ that is usual,

    $2 / (2 / (t - 1) + \kappa / t)$

(Box, Non-Normality and Tests on Variances, Biometrika 1953). From `CONFORMAL_TASKS` on the tasks themselves tell: there
Student's quantile with t - 1 degrees gives way, the more tasks there are, to the quantile of the studentised errors of
each task left out in turn (the jackknife of Barber et al., Predictive Inference with the Jackknife+, Annals of
Statistics 2021).

Notation: t tasks, k trials. Losses: smaller is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.stats import t as student

from hpo.arrays import Array

SHARE = 0.95  # of new tasks, inside the band
USUAL_KURTOSIS = 0.75  # excess: holds .95 in the mean over normal, uniform, skewed and heavy-tailed losses (simulated)
LEAST_TASKS = 5  # for a band: with four, Student's interval is already half as wide again (heuristic)
CONFORMAL_TASKS = 19  # of fewer no left-out error is the 95% quantile
HALF_CONFORMAL = 20.0  # tasks from which the errors count as much as Student's quantile (measured on simulated tasks)
LOG_MARGIN = 3.0  # log likelihood by which a logarithmic scale must be likelier, for what is maximised (measured)
SAME = 1e-12  # relative to the losses: less is rounding
WIDE_APART = 30.0  # times as large, or as far apart as one is wide: then tasks have no scale in common (heuristic)

Bend: TypeAlias = tuple[Callable[[Array], Array], Callable[[float], float]]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where the loss of a new task is expected."""

    expected: float  # the median of the past tasks
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Milestone:
    """What is expected after so many trials."""

    trials: int
    tasks: int  # that are known at that number of trials and had a success by then
    without_success: int  # tasks that had none yet
    band: Band | None  # None where too few tasks are known, or all reached the same
    typical: float | None  # the median of the tasks; None where none is known
    held: int | None  # of the tasks, each predicted from the others; None where the others are too few


def incumbents(losses: Array, trials: int, *, has_converged: bool = False) -> Array:
    """The least loss after each of the first `trials` trials, shape (trials,).

    losses: (n,) in order, NaN where a trial failed or was cut short. Infinite before the first success; NaN beyond the
    n-th trial, but for a study that `has_converged`, which stays where it is.
    """
    known = np.minimum.accumulate(np.where(np.isfinite(losses), losses, np.inf))[:trials]
    beyond = known[-1] if has_converged and len(known) else np.nan
    return np.concatenate([known, np.full(trials - len(known), beyond)])


def progress(curves: Array, *, least: float = -np.inf, greatest: float = np.inf) -> list[Milestone]:
    """The band after each number of trials, from curves (t, k) as `incumbents` makes them.

    least, greatest: between which every loss is by its nature. Neither the band nor its middle rises with more trials;
    all have the scale of the last number of trials at which most tasks are known.
    """
    found: list[Milestone] = []
    known = np.isfinite(curves).sum(axis=0)
    most = curves[:, -1 - int(np.argmax(known[::-1]))] if curves.size else np.empty(0)
    logarithmic = _is_logarithmic(most[np.isfinite(most)])
    for trials, column in enumerate(curves.T, start=1):
        losses = column[np.isfinite(column)]
        band = _clipped(prediction_band(losses, logarithmic=logarithmic), least, greatest)
        held = [_holds(losses, task, logarithmic) for task in range(len(losses))] if len(losses) > LEAST_TASKS else None
        before = found[-1] if found else None
        typical = float(np.median(losses)) if len(losses) else None
        found.append(
            Milestone(
                trials=trials,
                tasks=len(losses),
                without_success=int(np.isinf(column).sum()),
                band=_not_above(band, None if before is None else before.band),
                typical=_least_of(typical, None if before is None else before.typical),
                held=None if held is None or None in held else sum(map(bool, held)),
            )
        )
    return found


def prediction_band(losses: Array, *, logarithmic: bool | None = None) -> Band | None:
    """Where the loss of one more task will be, given those of t tasks (t,); None where these are few or all equal.

    logarithmic: the scale, where all losses have one sign; None: the likelier one.
    """
    if len(losses) < LEAST_TASKS or np.ptp(losses) <= SAME * np.abs(losses).max():
        return None
    bend, straighten = _scale_for(losses, logarithmic)
    z, t = bend(losses), len(losses)
    half = _factor(z) * float(z.std(ddof=1)) * np.sqrt(1.0 + 1.0 / t)
    middle = float(z.mean())
    low, high = sorted((straighten(middle - half), straighten(middle + half)))
    return Band(expected=float(np.clip(np.median(losses), low, high)), low=low, high=high)


def has_common_scale(levels: Array, spreads: Array) -> bool:
    """Whether tasks with these typical losses (t,) and spreads (t,) can be spoken of in one unit.

    They can where their losses are of the same order of size, or not much farther apart than those within a task.
    """
    sizes = np.abs(levels)
    if sizes.max() <= WIDE_APART * sizes.min():
        return True
    known = spreads[spreads > 0]
    return bool(
        len(known) and np.ptp(levels) <= WIDE_APART * np.median(known) and known.max() <= WIDE_APART * known.min()
    )


def seconds_until_finished(seconds: Array, places: int) -> Array:
    """When the first k of trials that take so long (n,) have all ended, for each k: shape (n,).

    Each trial starts as soon as one of the places is free, in order.
    """
    free, ends = np.zeros(places), np.empty(len(seconds))
    for trial, duration in enumerate(seconds):
        place = int(np.argmin(free))
        free[place] += duration
        ends[trial] = free[place]
    return np.maximum.accumulate(ends)


def milestones(trials: int) -> list[int]:
    """The numbers of trials worth a line: 1, 3, 5, 10, 20, 30, 50, 100, 200, ... and the last."""
    sizes = [1, 3, 5, *(digit * 10**power for power in range(1, 8) for digit in (1, 2, 3, 5))]
    return [*(size for size in sizes if size < trials), trials]


def _factor(z: Array) -> float:
    """How many standard deviations of prediction the band reaches, from standardised losses (t,)."""
    t = len(z)
    errors = _left_out_errors(z) if t >= CONFORMAL_TASKS else None
    freedom = t - 1 if t >= CONFORMAL_TASKS else 2.0 / (2.0 / (t - 1) + USUAL_KURTOSIS / t)
    factor = float(student.ppf(0.5 + SHARE / 2.0, freedom))
    if errors is None:
        return factor
    conformal = float(np.interp(SHARE * (t + 1), np.arange(1, t + 1), np.sort(errors)))
    weight = t / (t + HALF_CONFORMAL)
    return float(factor ** (1.0 - weight) * conformal**weight)


def _left_out_errors(z: Array) -> Array | None:
    """How far each task is from the others, in standard deviations of prediction: (t,); None where all others agree."""
    t, centred = len(z), z - z.mean()
    mean = -centred / (t - 1)
    squares = (centred**2).sum() - centred**2 - (t - 1) * mean**2  # of the others, around their mean
    if not (squares > SAME * (centred**2).sum()).all():
        return None
    deviation = np.sqrt(squares / (t - 2))
    errors: Array = np.abs(centred - mean) / (deviation * np.sqrt(1.0 + 1.0 / (t - 1)))
    return errors


def _holds(losses: Array, task: int, logarithmic: bool) -> bool | None:
    others = prediction_band(np.delete(losses, task), logarithmic=logarithmic)
    return None if others is None else bool(others.low <= losses[task] <= others.high)


def _scale_for(losses: Array, logarithmic: bool | None) -> Bend:
    """The losses as they are, or their logarithms; of losses below zero, which are to be maximised, of their size."""
    sign = float(np.sign(losses[0]))
    wanted = _is_logarithmic(losses) if logarithmic is None else logarithmic
    if not wanted or sign == 0.0 or not (sign * losses > 0).all():
        return _plain, float
    return (lambda y: np.log(sign * y)), (lambda z: float(sign * np.exp(z)))


def _is_logarithmic(losses: Array) -> bool:
    """Whether the losses are likelier normal on a logarithmic scale: the usual one of what is minimised above zero."""
    if not len(losses) or not (losses[0] * losses > 0).all() or np.ptp(losses) <= SAME * np.abs(losses).max():
        return False
    logs = np.log(np.abs(losses))
    gain = len(losses) * (np.log(losses.std()) - np.log(max(float(logs.std()), SAME))) - float(logs.sum())
    return bool(gain > (0.0 if losses[0] > 0 else LOG_MARGIN))


def _plain(losses: Array) -> Array:
    return losses


def _clipped(band: Band | None, least: float, greatest: float) -> Band | None:
    if band is None:
        return None
    low, middle, high = np.clip([band.low, band.expected, band.high], least, greatest).tolist()
    return Band(expected=middle, low=low, high=high)


def _not_above(band: Band | None, before: Band | None) -> Band | None:
    if band is None or before is None:
        return band
    return Band(
        expected=min(band.expected, before.expected), low=min(band.low, before.low), high=min(band.high, before.high)
    )


def _least_of(*losses: float | None) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return min(known) if known else None
