r"""Which rows together cover what past tasks were like? A list that is fixed before the first value is seen.

Notation: t past tasks, m rows, d parameters; N (t, m) the normalised regret of the rows on the past tasks: 0 for the
best that a task has, 1 for its median and all that is worse. What a past task has not measured is filled in by a small
forest of the task's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from hpo.arrays import Array
from hpo.priors.portfolio import normalised_regret
from hpo.replay.problem import Choice, Chooser, Method, PastRuns, Problem
from hpo.spaces.encoding import Encoding

TREES, LEAF = 20, 4  # of a task's forest, and runs in a leaf: small, for there is one for each task (heuristic)
DIGITS = 9  # of coordinates that are the same
GAIN = 1e-9  # less is none


class Portfolio:
    """The greedy list: each next row is the best addition to those before, whatever their values are."""

    name = "portfolio"

    def __init__(self) -> None:
        self._tasks: WeakKeyDictionary[PastRuns, _PastTask] = WeakKeyDictionary()
        self._lists: WeakKeyDictionary[Problem, list[int]] = WeakKeyDictionary()

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """The list is the same for every seed; without a past its order is random."""
        return _Listed(self.rows(problem), np.random.default_rng(seed).permutation(len(problem.points)).tolist())

    def rows(self, problem: Problem) -> list[int]:
        """The whole list; empty without a past."""
        if problem not in self._lists:
            self._lists[problem] = self._listed(problem) if problem.past else []
        return self._lists[problem]

    def _listed(self, problem: Problem) -> list[int]:
        for past in problem.past:
            if past not in self._tasks:
                self._tasks[past] = _PastTask(past, problem.encoding)
        return greedy_order(np.vstack([self._tasks[past].regret(problem.points) for past in problem.past]))


class _Listed:
    def __init__(self, listed: Sequence[int], rest: Sequence[int]) -> None:
        self._order = [*listed, *rest]

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """The first of the list that was not tried."""
        tried = set(rows)
        return Choice(row=next(row for row in self._order if row not in tried))


class PortfolioFirst:
    """Some rows of the list, then another method, which is told how they came out."""

    def __init__(self, name: str, portfolio: Portfolio, then: Method, first: int) -> None:
        self.name = name
        self._portfolio = portfolio
        self._then = then
        self._first = first

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """Without a past, the other method from the start."""
        listed = self._portfolio.rows(problem)[: self._first]
        return _ListedFirst(listed, self._then.begin(problem, seed))


class _ListedFirst:
    def __init__(self, listed: Sequence[int], then: Chooser) -> None:
        self._listed = listed
        self._then = then

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """From the list, as long as it lasts."""
        if len(rows) < len(self._listed):
            return Choice(row=self._listed[len(rows)])
        return self._then.choose(rows, losses)


def greedy_order(regret: Array) -> list[int]:
    r"""All columns of `regret` (t, m), each the best addition to those before; once nothing is left to gain, anew.

    $c_t = 1$; repeat $x^* = \arg\min_x \sum_t \min(c_t, N[t, x])$, $c_t \leftarrow \min(c_t, N[t, x^*])$; of equals the
    one with the least mean. Wistuba et al., Sequential Model-Free Hyperparameter Tuning, ICDM 2015.
    """
    covered, order = np.ones(len(regret)), list[int]()
    mean = regret.mean(axis=0)
    left = np.ones(regret.shape[1], dtype=bool)
    while left.any():
        columns = np.flatnonzero(left)
        gains = (covered[:, None] - np.minimum(covered[:, None], regret[:, columns])).mean(axis=0)
        if gains.max() <= GAIN and (covered < 1.0).any():
            covered = np.ones(len(regret))
            continue
        if gains.max() <= GAIN:  # what is left is as bad as can be everywhere
            return [*order, *columns[np.argsort(mean[columns], kind="stable")].tolist()]
        best = columns[np.lexsort((mean[columns], -np.round(gains, DIGITS)))[0]]
        order.append(int(best))
        left[best] = False
        covered = np.minimum(covered, regret[:, best])
    return order


class _PastTask:
    """The normalised regret of one past task: as measured, or what its forest expects."""

    def __init__(self, past: PastRuns, encoding: Encoding) -> None:
        from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415 - slow to import, and other methods need it not

        self._encoding = encoding
        regret = normalised_regret(past.losses[None, :])[0]
        self._measured = dict(zip(_keys(past.X), regret.tolist(), strict=True))
        self._forest = ExtraTreesRegressor(n_estimators=TREES, min_samples_leaf=LEAF, random_state=0)
        self._forest.fit(_one_hot(past.X, encoding), regret)

    def regret(self, points: Array) -> Array:
        """At points (m, d): shape (m,)."""
        known = np.array([self._measured.get(key, np.nan) for key in _keys(points)])
        unknown = np.isnan(known)
        if unknown.any():
            known[unknown] = self._forest.predict(_one_hot(points[unknown], self._encoding))
        return known


def _keys(points: Array) -> list[bytes]:
    return [row.tobytes() for row in np.round(points, DIGITS) + 0.0]


def _one_hot(points: Array, encoding: Encoding) -> Array:
    """The points for trees, which order what they are given: a choice becomes columns of its own."""
    columns = [points[:, ~encoding.categorical]]
    for j in np.flatnonzero(encoding.categorical):
        columns.append((points[:, j, None] == encoding.grid[j]).astype(float))
    return np.hstack(columns)
