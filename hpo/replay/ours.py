"""The shipped tuner and its parts, as methods that can be replayed.

`history` is what `HistorySampler` does, choosing among rows instead of searching the space; `gp+portfolio` starts alike
and then knows the new task only; `gp` has no history at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from hpo.arrays import Array
from hpo.encoding import Encoding
from hpo.evidence import PastStudy, look_back, share_of_trials
from hpo.priors.history import History
from hpo.priors.mixture import mixture
from hpo.priors.portfolio import fit_shared_kernel, portfolio
from hpo.replay.problem import Choice, Chooser, Method, PastRuns, Problem

FIRST_POINTS = 4  # of the portfolio, or of the space-filling start
MODELLED_PAST = 128  # past tasks, the latest
LANDMARKS = 1024  # rows that may enter the portfolio
INTERVAL = (0.05, 0.95)


class Tuner:
    """The tuner, with or without its portfolio and its memory."""

    def __init__(self, name: str, *, starts_from_history: bool, remembers: bool) -> None:
        self.name = name
        self._starts_from_history = starts_from_history
        self._remembers = remembers
        self._learned: WeakKeyDictionary[Problem, _Learned] = WeakKeyDictionary()
        self._looks: WeakKeyDictionary[PastRuns, PastStudy] = WeakKeyDictionary()

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """What is learned of the past is the same for every seed."""
        learned = self._learn(problem) if self._starts_from_history and problem.past else None
        return _AtWork(problem, seed, learned, remembers=self._remembers)

    def _learn(self, problem: Problem) -> _Learned:
        if problem not in self._learned:
            recent = problem.past[-MODELLED_PAST:]
            most = share_of_trials(len(recent))
            looks = [self._look(past, problem.encoding, most) for past in recent]
            tasks = [look.task for look in looks if look is not None]
            rng = np.random.default_rng(0)
            kernel = fit_shared_kernel(tasks, problem.encoding.categorical, rng)
            rows = rng.permutation(len(problem.points))[:LANDMARKS]
            picks = portfolio(tasks, problem.points[rows], kernel, FIRST_POINTS, rng)
            first = [int(np.flatnonzero((problem.points == pick.point).all(axis=1))[0]) for pick in picks]
            self._learned[problem] = _Learned(History(tasks=tasks, kernel=kernel), list(dict.fromkeys(first)))
        return self._learned[problem]

    def _look(self, past: PastRuns, encoding: Encoding, most: int) -> PastStudy | None:
        if past not in self._looks:
            rng = np.random.default_rng(0)
            look = look_back(past.sample, past.mapping, encoding, most_trials=most, most_landmarks=2, rng=rng)
            if look is None:
                return None
            self._looks[past] = look
        return self._looks[past]


class _Learned:
    """What the past says, and the rows to begin with."""

    def __init__(self, history: History, first: Sequence[int]) -> None:
        self.history = history
        self.first = first


class _AtWork:
    def __init__(self, problem: Problem, seed: int, learned: _Learned | None, *, remembers: bool) -> None:
        self._problem = problem
        self._seed = seed
        self._first = learned.first if learned else _spread_out(problem.points, np.random.default_rng(seed))
        self._history = learned.history if learned and remembers else None

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """The first rows, then the largest expected improvement."""
        tried = set(rows)
        if len(rows) < len(self._first):
            return Choice(row=next(row for row in self._first if row not in tried))
        points = self._problem.points
        models = mixture(
            points[list(rows)],
            losses,
            self._problem.encoding.categorical,
            np.random.default_rng([self._seed, len(rows)]),
            pending=points[:0],
            history=self._history,
        )
        left = np.array([row for row in range(len(points)) if row not in tried])
        row = int(left[np.argmax(models.log_expected_improvement(points[left]))])
        low, high = models.quantiles(points[row], INTERVAL)
        return Choice(row=row, interval90=(low, high))


def _spread_out(points: Array, rng: np.random.Generator) -> list[int]:
    """The row nearest to the middle of all, then rows as far from those before as they can be."""
    jittered = points + rng.uniform(0.0, 1e-6, points.shape)  # equally good rows: one by chance
    chosen = [int(np.argmin(((jittered - jittered.mean(axis=0)) ** 2).sum(axis=1)))]
    for _ in range(min(FIRST_POINTS, len(points)) - 1):
        distance = ((jittered[:, None, :] - jittered[None, chosen, :]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(np.argmax(distance)))
    return chosen


METHODS: dict[str, Callable[[], Method]] = {
    "history": lambda: Tuner("history", starts_from_history=True, remembers=True),
    "gp": lambda: Tuner("gp", starts_from_history=False, remembers=False),
    "gp+portfolio": lambda: Tuner("gp+portfolio", starts_from_history=True, remembers=False),
}
