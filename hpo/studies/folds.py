"""What did a trial come to on each fold of cross-validation, and how far do folds disagree about trials?

Of such a trial, the mean of the folds so far is kept after each of them; its value is the last of these means.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpo.arrays import Array
from storage.history import StudySummary, TrialRecord
from trainers.job import FOLD, FOLD_FOLDER, FOLDS

LEAST_TRIALS = 4  # of which the better half is looked at


def folds_of(study: StudySummary) -> int:
    """How many folds each of its trials trains on; 1: no cross-validation."""
    trainer = (study.spec or {}).get("trainer") or {}
    return int(trainer.get("folds", 1))


def fold_values(study: StudySummary, trial: TrialRecord) -> list[float]:
    """The value of each fold that was trained, in order; empty without cross-validation."""
    if folds_of(study) == 1:
        return []
    means = [trial.intermediate_values.get(fold) for fold in range(folds_of(study))]
    known = [mean for mean in means[: means.index(None) if None in means else None] if mean is not None]
    sums = np.cumsum(np.ones(len(known))) * np.array(known)
    return [float(value) for value in np.diff(sums, prepend=0.0)]


def fit_params(study: StudySummary, trial: TrialRecord) -> dict[str, Any]:
    """The parameters of the fit whose checkpoint was kept: the trial's and, with cross-validation, which fold it was.

    Without them the data would be divided otherwise, and the model judged by what it was trained on.
    """
    folder = "" if trial.checkpoint is None else Path(trial.checkpoint).parent.name
    if folds_of(study) == 1 or not folder.startswith(FOLD_FOLDER):
        return dict(trial.params)
    return {**trial.params, FOLD: int(folder.removeprefix(FOLD_FOLDER)), FOLDS: folds_of(study)}


def noise_of_folds(study: StudySummary, trials: Sequence[TrialRecord]) -> tuple[float, int]:
    """The variance of a mean over folds, as far as folds differ about one trial and another; and degrees of freedom.

    What makes a fold hard for all trials alike is no noise and is taken out, as in an analysis of variance of two ways.
    Only the better half of the trials is looked at: those that diverged differ by more. (nan, 0) where it cannot be
    told.
    """
    sign = -1.0 if study.directions[0] == "maximize" else 1.0
    complete = [values for trial in trials if len(values := fold_values(study, trial)) == folds_of(study) > 1]
    if len(complete) < LEAST_TRIALS:
        return float("nan"), 0
    table: Array = sign * np.array(complete)
    better = table[np.argsort(table.mean(axis=1))[: (len(table) + 1) // 2]]
    n, k = better.shape
    rest = better - better.mean(axis=1, keepdims=True) - better.mean(axis=0) + better.mean()
    freedom = (n - 1) * (k - 1)
    return float((rest**2).sum()) / freedom / k, freedom
