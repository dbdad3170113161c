"""What past tasks teach before a new one begins: their processes, the kernel that they share, and the first points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hpo.arrays import Array, Mask, best_and_some
from hpo.priors.beliefs import Shares, learn_shares
from hpo.priors.costs import PastCosts, before_the_first, learn_costs
from hpo.priors.history import History
from hpo.priors.portfolio import PastTask, Pick, fit_shared_kernel, portfolio
from hpo.spaces.encoding import Encoding
from hpo.surrogates.gaussian_process import GaussianProcess, Kernel, fit_kernel
from hpo.surrogates.search import CANDIDATES, around, maximise
from hpo.tuning.evidence import PastStudy
from hpo.tuning.preferences import where_hoped

FIRST_POINTS = 4  # then the model
LISTED_POINTS = 3  # of them from the portfolio; the last is far from these, in case the past misleads (measured)
SPARE_POINTS = 8  # entries behind them, where some were tried already or are being tried side by side
PAST_STUDIES = 128  # at most, the latest
PAST_TRIALS = 12288  # over all past studies together ...
PAST_TRIALS_OF_A_STUDY = (96, 384)  # ... within these bounds for each
LANDMARKS = 1024  # configurations that may enter the portfolio
PAST_ANCHORS = 8  # of the portfolio and of the past bests
TRIALS_FOR_A_KERNEL = 48  # of a past task; with fewer it has the kernel that all share
FITTED_TRIALS = 128  # on which it is fitted
BETWEEN = 0.3  # standard deviation between tasks, where their best together is looked for


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """The related studies and what was learned from them."""

    studies: Sequence[PastStudy]
    history: History
    shares: Shares  # how far the history is to be trusted
    picks: Sequence[Pick]  # the portfolio

    wide: Array  # (w, d) points from all over the space
    close: Array  # (c, d) and around what was good before
    costs: PastCosts | None = None  # of trials, where they count
    ignored: Sequence[str] = ()  # sentences: what of the past does not count, and why


def learn(
    studies: Sequence[PastStudy],
    encoding: Encoding,
    candidates: Array | None = None,
    *,
    known: Sequence[Kernel | None] | None = None,
) -> Past:
    """What at least one past study teaches, the same for everyone who asks.

    candidates: (k, d) the only points that may be proposed; without them, all of the space.
    known: per study the kernel of its own that it is known to have, if it is; each is a function of its study alone.
    """
    rng = np.random.default_rng(0)
    tasks = [study.task for study in studies]
    kernel = fit_shared_kernel(tasks, encoding.categorical, rng)
    own = [
        _own_kernel(task, encoding.categorical, before)
        for task, before in zip(tasks, known or [None] * len(tasks), strict=True)
    ]
    tasks = [replace(task, kernel=its_own) for task, its_own in zip(tasks, own, strict=True)]
    if candidates is None:
        recorded = np.unique(np.vstack([study.landmarks for study in studies]), axis=0)
        landmarks = np.vstack([recorded, _expected_best(tasks, kernel, recorded, encoding, rng)])
    else:
        landmarks = candidates[rng.permutation(len(candidates))[:LANDMARKS]]
    costs = learn_costs([study.costs for study in studies if study.costs is not None], encoding.categorical, rng)
    known_costs = None if costs is None else np.exp(before_the_first(costs).mean_log(landmarks))
    picks = portfolio(tasks, landmarks, kernel, FIRST_POINTS + SPARE_POINTS, rng, known_costs)
    wide = close = np.empty((0, len(encoding.names)))
    if candidates is None:
        wide = encoding.uniform(where_hoped(encoding, rng.random((CANDIDATES, len(encoding.names)))))
        bests = [study.landmarks[0] for study in studies[-PAST_ANCHORS // 2 :]]
        close = around(np.array([*(pick.point for pick in picks[:FIRST_POINTS]), *bests]), encoding, rng)
    history = History(tasks=tasks, kernel=kernel, often=often(wide, close, candidates))
    shares = learn_shares(history, np.random.default_rng(0))
    return Past(studies=studies, history=history, shares=shares, picks=picks, wide=wide, close=close, costs=costs)


def often(wide: Array, close: Array, candidates: Array | None) -> Array:
    """The points (o, d) that are looked at in proposal after proposal."""
    return np.vstack([wide, close]) if candidates is None else candidates


def _own_kernel(task: PastTask, categorical: Mask, known: Kernel | None) -> Kernel | None:
    if known is not None or len(task.y) < TRIALS_FOR_A_KERNEL:
        return known
    rng = np.random.default_rng(0)  # whatever the other tasks are
    rows = best_and_some(task.y, FITTED_TRIALS, rng)
    return fit_kernel([(task.X[rows], task.y[rows])], categorical, rng, restarts=0)


def _expected_best(
    tasks: Sequence[PastTask], kernel: Kernel, recorded: Array, encoding: Encoding, rng: np.random.Generator
) -> Array:
    """Where the latest tasks, and all together, are expected to be best, tried there or not: shape (b, d)."""
    history = History(tasks=tasks[-PAST_ANCHORS:], kernel=kernel)

    def together(points: Array) -> Array:
        return -history.look(points).pooled(BETWEEN)[0]

    processes = [task.process(kernel) for task in history.tasks]
    scores: list[Callable[[Array], Array]] = [together, *(partial(_expected, process) for process in processes)]
    nothing = recorded[:0]
    return np.array([maximise(score, recorded, encoding, nothing, rng) for score in scores])


def _expected(process: GaussianProcess, points: Array) -> Array:
    return -process.mean(points)


def share_of_trials(past_studies: int) -> int:
    """How many trials of each of so many past studies are looked at."""
    return int(np.clip(PAST_TRIALS // past_studies, *PAST_TRIALS_OF_A_STUDY))
