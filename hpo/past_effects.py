"""What was each hyperparameter worth in the past runs of a task or a family? From the store to the statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from hpo.errors import NoHistoryError
from hpo.space import SearchSpace
from hpo.statistics.effects import RangeEffect, TaskOutcomes, range_effects
from storage import history
from storage.database import Store

# A pruned trial counts with the value it had when it was stopped. Left out, the ranges that pruning spares would look
# no better than those it empties.
EVIDENCE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def past_effects(store: Store, target: str) -> list[RangeEffect]:
    """The effects in the runs of a task or a family, studies of one task taken together. Raises NoHistoryError."""
    found = history.family_trials(store, target)
    if not found:
        known = dict.fromkeys(
            name for study in history.list_studies(store) for name in (study.task, study.family) if name
        )
        names = "\n".join(f"  {name}" for name in known) or "  (the history is empty)"
        raise NoHistoryError(f"there is no task or family {target!r} in the history; there are:\n{names}")
    by_task: defaultdict[tuple[str, tuple[str, ...]], list[history.StudyTrials]] = defaultdict(list)
    for study in found:
        by_task[study.study.task or study.study.name, study.study.directions].append(study)
    effects = range_effects([_outcomes(task, studies) for (task, _), studies in by_task.items()])
    if not effects:
        raise NoHistoryError(f"{target!r} has no finished trial yet")
    return effects


def _outcomes(task: str, studies: Sequence[history.StudyTrials]) -> TaskOutcomes:
    trials = [trial for study in studies for trial in study.trials if trial.state in EVIDENCE]
    distributions: dict[str, BaseDistribution] = {}
    for study in studies:
        if study.study.space is not None:
            distributions |= SearchSpace.from_json(study.study.space).distributions
    for trial in trials:
        distributions = {**trial.distributions, **distributions}
    return TaskOutcomes(
        task=task,
        params=[trial.params for trial in trials],
        outcomes=np.array([np.nan if trial.value is None else trial.value for trial in trials]),
        higher_is_better=studies[0].study.directions[0] == "maximize",
        distributions=distributions,
    )
