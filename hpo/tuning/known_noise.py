"""How far do training runs of one configuration differ, as far as somebody has repeated some?"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from hpo.arrays import Array
from hpo.statistics.best import LossUnits, pooled_noise
from hpo.statistics.noisy_values import NoisePrior
from hpo.studies.folds import folds_of, noise_of_folds
from hpo.studies.replicates import REPLICATE, is_usable, value_of
from storage import history
from storage.database import Store
from storage.history import StudySummary, TrialRecord

PAST_STUDIES = 24  # that are looked through for replicates, the latest
LEAST_UNSURE = 0.35  # of the log of a noise variance that is known from elsewhere
OTHER_TASKS_UNSURE = 0.8  # the same, from another task; both heuristic


def known_noise(
    store: Store, study: StudySummary, losses: Array, replicates: Sequence[TrialRecord]
) -> tuple[NoisePrior | None, str]:
    """What repetitions tell of the noise: replicates or folds of this study, else past studies of its task or family.

    losses: of the study's trials, shape (n,). Returns where it is known from, in words; None where nobody has repeated.
    """
    units = LossUnits.of(losses)
    if units is None:
        return None, ""
    variance, freedom = _repeated(replicates)
    if freedom and variance > 0.0:
        return _prior([(np.log(variance / units.unit**2), freedom)], 0.0), "replicates of its trials"
    if folds_of(study) > 1:
        variance, freedom = noise_of_folds(study, history.list_trials(store, study.study_id))
        if freedom and variance > 0.0:
            return _prior([(np.log(variance / units.unit**2), freedom)], 0.0), "the folds of its trials"
    same_task, same_family = [], []
    for past in _related(store, study):
        trials = [trial for trial in history.list_trials(store, past.study_id) if is_usable(trial)]
        variance, freedom = _repeated(trials)
        if not freedom or variance <= 0.0:
            continue
        if study.task is not None and past.task == study.task:
            same_task.append((np.log(variance / units.unit**2), freedom))
            continue
        sign = -1.0 if past.directions[0] == "maximize" else 1.0
        scale = LossUnits.of(np.array([sign * value_of(trial) for trial in trials]))
        if scale is not None:
            same_family.append((np.log(variance / scale.unit**2), freedom))
    if same_task:
        return _prior(same_task, 0.0), f"repeated runs in {_studies(len(same_task))} of the task"
    if same_family:
        return _prior(
            same_family, OTHER_TASKS_UNSURE
        ), f"repeated runs in {_studies(len(same_family))} of related tasks"
    return None, ""


def _related(store: Store, study: StudySummary) -> list[StudySummary]:
    """The latest other studies of the same task, or of the family where there is a parameter to have in common."""
    related = [
        other
        for other in history.list_studies(store)
        if other.study_id != study.study_id
        and (other.metric, other.directions) == (study.metric, study.directions)
        and (
            (study.task is not None and other.task == study.task)
            or (study.has_parameters and other.family == study.family)
        )
    ]
    return related[-PAST_STUDIES:]


def _repeated(trials: Sequence[TrialRecord]) -> tuple[float, int]:
    """The pooled variance between trials of one configuration on different seeds, and its degrees of freedom."""
    groups: dict[str, dict[object, float]] = {}
    for trial in trials:
        if is_usable(trial):
            params = trial.user_attrs.get(REPLICATE, {}).get("params", trial.params)
            groups.setdefault(json.dumps(params, sort_keys=True, default=str), {})[occasion_of(trial)] = value_of(trial)
    values = [list(group.values()) for group in groups.values()]
    if not values:
        return float("nan"), 0
    at = np.repeat(np.arange(len(values)), [len(group) for group in values])
    return pooled_noise(np.concatenate(values), at)


def _prior(known: Sequence[tuple[float, int]], between: float) -> NoisePrior:
    """Log variances and their degrees of freedom, by which they weigh; between: how much tasks differ."""
    weights = np.array([freedom for _, freedom in known], dtype=np.float64)
    mean = float(np.average([log for log, _ in known], weights=weights))
    return NoisePrior(mean=mean, deviation=float(np.sqrt(LEAST_UNSURE**2 + 2.0 / weights.sum() + between**2)))


def _studies(count: int) -> str:
    return "one past study" if count == 1 else f"{count} past studies"


def occasion_of(trial: TrialRecord) -> tuple[str, int | float | None]:
    """What makes another run of a configuration a repetition and no new evidence: its seed, else its very value."""
    return ("seed", trial.seed) if trial.seed is not None else ("value", trial.value)
