"""The shipped tuner and its parts, as methods that can be replayed.

`history` is what `HistorySampler` does, choosing among rows instead of searching the space; `gp+portfolio` starts alike
and then knows the new task only; `gp` has no history at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from hpo.arrays import Array
from hpo.encoding import Encoding
from hpo.evidence import PastStudy, look_back
from hpo.past import FIRST_POINTS, LANDMARKS, PAST_STUDIES, Past, learn, share_of_trials
from hpo.priors.mixture import mixture
from hpo.priors.portfolio import Pick
from hpo.replay.problem import Choice, Chooser, PastRuns, Problem

INTERVAL = (0.05, 0.95)


class Tuner:
    """The tuner, with or without its portfolio and its memory."""

    def __init__(self, name: str, *, starts_from_history: bool, remembers: bool) -> None:
        self.name = name
        self._starts_from_history = starts_from_history
        self._remembers = remembers

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """What is learned of the past is the same for every seed."""
        past = _learned(problem) if self._starts_from_history and problem.past else None
        return _AtWork(problem, seed, past, remembers=self._remembers)


_PASTS: WeakKeyDictionary[Problem, Past | None] = WeakKeyDictionary()
_LOOKS: WeakKeyDictionary[PastRuns, PastStudy | None] = WeakKeyDictionary()


def _learned(problem: Problem) -> Past | None:
    """The past of a problem, where the rows that may be chosen are what its portfolio is made of."""
    if problem not in _PASTS:
        recent = problem.past[-PAST_STUDIES:]
        most = share_of_trials(len(recent))
        studies = [look for past in recent if (look := _look(past, problem.encoding, most)) is not None]
        rows = np.random.default_rng(0).permutation(len(problem.points))[:LANDMARKS]
        _PASTS[problem] = learn(studies, problem.encoding.categorical, problem.points[rows]) if studies else None
    return _PASTS[problem]


def _look(past: PastRuns, encoding: Encoding, most: int) -> PastStudy | None:
    if past not in _LOOKS:
        rng = np.random.default_rng(0)
        _LOOKS[past] = look_back(past.sample, past.mapping, encoding, most_trials=most, most_landmarks=2, rng=rng)
    return _LOOKS[past]


class _AtWork:
    def __init__(self, problem: Problem, seed: int, past: Past | None, *, remembers: bool) -> None:
        self._problem = problem
        self._seed = seed
        rng = np.random.default_rng(seed)
        self._first = _spread_out(problem.points, rng) if past is None else _rows_of(past.picks, problem.points)
        self._history = past.history if past is not None and remembers else None

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


def _rows_of(picks: Sequence[Pick], points: Array) -> list[int]:
    """The first rows: where the portfolio's entries are among the points (m, d)."""
    rows = [int(np.flatnonzero((points == pick.point).all(axis=1))[0]) for pick in picks]
    return list(dict.fromkeys(rows))[:FIRST_POINTS]


def _spread_out(points: Array, rng: np.random.Generator) -> list[int]:
    """The row nearest to the middle of all, then rows as far from those before as they can be."""
    jittered = points + rng.uniform(0.0, 1e-6, points.shape)  # equally good rows: one by chance
    chosen = [int(np.argmin(((jittered - jittered.mean(axis=0)) ** 2).sum(axis=1)))]
    for _ in range(min(FIRST_POINTS, len(points)) - 1):
        distance = ((jittered[:, None, :] - jittered[None, chosen, :]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(np.argmax(distance)))
    return chosen
