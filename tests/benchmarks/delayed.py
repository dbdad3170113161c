"""What do results cost that are not known yet when a proposal is made: of trials that run beside, and of the last ones?

A proposal that was made s results ago, where w trials run, is one that knows all but the last w - 1 + s results. To
compare, e.g. with 10 trials and two results less:

    hpo replay FOLDER --methods history,tests.benchmarks.delayed:Without9,tests.benchmarks.delayed:Without11
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpo.arrays import Array
from hpo.replay.ours import _learned
from hpo.replay.problem import Choice, Chooser, Problem
from hpo.tuning.evidence import Evidence
from hpo.tuning.proposals import Ground, propose


class _Delayed:
    unknown = 0  # results, the latest

    @property
    def name(self) -> str:
        return f"without the last {self.unknown}"

    def begin(self, problem: Problem, seed: int) -> Chooser:
        return _AtWork(problem, seed, self.unknown)


class _AtWork:
    def __init__(self, problem: Problem, seed: int, unknown: int) -> None:
        self._ground = Ground(encoding=problem.encoding, candidates=problem.points)
        self._points, self._seed, self._unknown = problem.points, seed, unknown
        self._past = _learned(problem) if problem.past else None

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        tried = self._points[list(rows)]
        known = max(0, len(rows) - self._unknown)
        evidence = Evidence(X=tried[:known], losses=losses[:known], pending=tried[known:], tried=tried, waiting=0)
        proposal = propose(
            self._ground,
            [evidence],
            [self._past],
            design=np.random.default_rng(self._seed),
            rng=np.random.default_rng([self._seed, len(rows)]),
        )
        taken = set(rows)
        same = np.flatnonzero((self._points == proposal.point).all(axis=1))
        return Choice(row=next(int(row) for row in same if row not in taken), interval90=proposal.interval90)


class Without1(_Delayed):
    unknown = 1


class Without2(_Delayed):
    unknown = 2


class Without4(_Delayed):
    unknown = 4


class Without5(_Delayed):
    unknown = 5


class Without9(_Delayed):
    unknown = 9


class Without11(_Delayed):
    unknown = 11


class Without24(_Delayed):
    unknown = 24


class Without29(_Delayed):
    unknown = 29
