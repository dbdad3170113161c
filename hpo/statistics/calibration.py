"""How often would the prediction intervals have held for tasks that were left out, and by how much are they wrong?

Each task in turn, or each of `FOLDS` parts of them, is left out, and its estimates are compared with the interval that
the others predict for it, the estimate's own error included. How many half-widths it is away is its score. With enough
tasks, intervals are made wider or narrower by the score that the wanted share of left-out tasks keeps to (split
conformal prediction; Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005), pooled over cells: one
factor for all, for a single cell has too few tasks. Whether the corrected interval holds for a task is then judged by
the factor of the *other* parts.

Notation: t tasks, c cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array
from hpo.statistics.additive_surface import Measurements
from hpo.statistics.random_effects import FEWEST_TASKS, LEVEL, predictive_interval, random_effects

FOLDS = 20  # up to so many tasks, each is left out alone
CALIBRATED_TASKS = 240  # more are not needed to tell a share of 95%
ENOUGH_TASKS = 20  # for a conformal factor: 95% of fewer is all of them
TASKS_TO_NARROW = 100  # fewer make intervals wider, never narrower: their factor is uncertain itself (heuristic)
LARGEST_FACTOR = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How c prediction intervals did on tasks that were left out."""

    factor: float  # by which they are wider than the model says; 1 where too few tasks were there to tell
    held: NDArray[np.intp]  # (c,) left-out tasks for which the interval held
    of: NDArray[np.intp]  # (c,) left-out tasks
    uncorrected: float  # the share for which it held with the factor 1; NaN without any task

    @property
    def share(self) -> float:
        """The share of left-out tasks for which the interval held, over all cells; NaN without any."""
        total = int(self.of.sum())
        return float(self.held.sum()) / total if total else float("nan")


def calibrate(measured: Measurements) -> Calibration:
    """Leave tasks out, predict them from the others, and learn from how that went."""
    estimates, variances = measured.estimates, measured.variances
    t, c = estimates.shape
    chosen = np.arange(t)[-CALIBRATED_TASKS:]
    if len(chosen) <= FEWEST_TASKS or not c:
        none = np.zeros(c, dtype=np.intp)
        return Calibration(factor=1.0, held=none, of=none, uncorrected=float("nan"))
    estimates, variances = estimates[chosen], variances[chosen]
    fold = np.arange(len(chosen)) % min(FOLDS, len(chosen))
    scores = np.full(estimates.shape, np.nan)
    for left_out in range(fold.max() + 1):
        others = fold != left_out
        fitted = random_effects(estimates[others], variances[others], measured.shared, measured.kinship)
        interval = predictive_interval(fitted, variances[~others])
        middle, half = interval.mean(-1), np.diff(interval)[..., 0] / 2.0
        scores[~others] = np.abs(estimates[~others] - middle) / np.maximum(half, 1e-300)
    known = np.isfinite(scores)
    of_fold = [_factor(scores[fold != left_out]) for left_out in range(fold.max() + 1)]
    held = known & (scores <= np.array(of_fold)[fold][:, None])
    return Calibration(
        factor=_factor(scores),
        held=held.sum(0),
        of=known.sum(0),
        uncorrected=float((scores[known] <= 1.0).mean()) if known.any() else float("nan"),
    )


def _factor(scores: Array) -> float:
    """The score (t, c) that the wanted share of left-out tasks keeps to, in all cells together; 1 for too few tasks.

    As one of t + 1 is the worst, t tasks promise a share of 1 / (t + 1) less than they show. Cells whose misses come in
    different tasks know more than that: they count as so many independent tasks as their misses vary like.
    """
    known = np.isfinite(scores)
    tasks = int(known.any(axis=1).sum())
    if tasks < ENOUGH_TASKS - 1:
        return 1.0
    everything = scores[known]
    missed = known & (scores > np.quantile(everything, LEVEL))
    per_task = missed.sum(axis=1)[known.any(axis=1)] / known.sum(axis=1)[known.any(axis=1)]
    independent = LEVEL * (1.0 - LEVEL) / max(float(per_task.var(ddof=1)), 1e-12)  # cells in a task that count
    share = LEVEL * (1.0 + 1.0 / (tasks * float(np.clip(independent, 1.0, scores.shape[1]))))
    least = 1.0 if tasks < TASKS_TO_NARROW else 1.0 / LARGEST_FACTOR
    return float(np.clip(np.quantile(everything, min(share, 1.0)), least, LARGEST_FACTOR))
