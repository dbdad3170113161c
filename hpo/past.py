"""What past tasks teach before a new one begins: their processes, the kernel that they share, and the first points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.arrays import Array, Mask
from hpo.evidence import PastStudy
from hpo.priors.history import History
from hpo.priors.portfolio import Pick, fit_shared_kernel, portfolio

FIRST_POINTS = 4  # from the portfolio, then the model: the honest baseline of the leave-one-task-out runs
SPARE_POINTS = 8  # entries behind them, where some were tried already or are being tried side by side
PAST_STUDIES = 128  # at most, the latest
PAST_TRIALS = 8192  # over all past studies together ...
PAST_TRIALS_OF_A_STUDY = (96, 384)  # ... within these bounds for each
LANDMARKS = 1024  # configurations that may enter the portfolio
PAST_ANCHORS = 8  # of the portfolio and of the past bests


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """The related studies and what was learned from them."""

    studies: Sequence[PastStudy]
    history: History
    picks: Sequence[Pick]  # the portfolio

    @property
    def anchors(self) -> Array:
        """Points worth a look around, shape (a, d): the portfolio's first and the latest studies' bests."""
        bests = [study.landmarks[0] for study in self.studies[-PAST_ANCHORS // 2 :]]
        return np.array([*(pick.point for pick in self.picks[:FIRST_POINTS]), *bests])


def learn(studies: Sequence[PastStudy], categorical: Mask, landmarks: Array | None = None) -> Past:
    """What at least one past study teaches, the same for everyone who asks.

    landmarks: (m, d) points that may enter the portfolio; those of the studies if none are given.
    """
    rng = np.random.default_rng(0)
    tasks = [study.task for study in studies]
    kernel = fit_shared_kernel(tasks, categorical, rng)
    if landmarks is None:
        landmarks = np.unique(np.vstack([study.landmarks for study in studies]), axis=0)
    return Past(
        studies=studies,
        history=History(tasks=tasks, kernel=kernel),
        picks=portfolio(tasks, landmarks, kernel, FIRST_POINTS + SPARE_POINTS, rng),
    )


def share_of_trials(past_studies: int) -> int:
    """How many trials of each of so many past studies are looked at."""
    return int(np.clip(PAST_TRIALS // past_studies, *PAST_TRIALS_OF_A_STUDY))
