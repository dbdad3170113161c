"""What was the best configuration so far really worth after so many trials, and how sure is that?

The best value so far is too good, as the best of many noisy ones is. Here stands what another training run of the
configuration that is judged the best would be expected to bring, by the trials up to then alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpo.decisions.winner import judged
from hpo.statistics.progress_bands import milestones
from hpo.studies.replicates import replicates_of
from storage import history
from storage.database import Store

MOST_STAGES = 10  # the last of them: each takes a judgement of its own


@dataclass(frozen=True, kw_only=True)
class Worth:
    """The best after so many finished trials."""

    finished: int
    number: int  # of the trial that was judged the best
    value: float
    interval95: tuple[float, float]
    probability_best: float


def worth_course(store: Store, study_id: int) -> list[Worth]:
    """The best after 5, 10, 20, 30, 50, ... finished trials and now; stages that are too early to tell are left out.

    Empty for several objectives. Raises StudyNotFoundError.
    """
    study = history.study_of_id(store, study_id)
    if len(study.directions) > 1:
        return []
    trials = [trial for trial in history.list_trials(store, study_id) if trial.state.is_finished()]
    replicates = replicates_of(store, study)
    course = []
    for stage in milestones(len(trials))[-MOST_STAGES:] if trials else ():
        found = judged(store, study, trials[:stage], replicates, None, np.random.default_rng(0))
        if found.winner is not None:
            worth = found.winner
            course.append(
                Worth(
                    finished=stage,
                    number=worth.number,
                    value=worth.value,
                    interval95=worth.interval95,
                    probability_best=worth.probability_best,
                )
            )
    return course
