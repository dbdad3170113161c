"""The shipped tuner and its parts, as methods that can be replayed.

`history` is what `HistorySampler` does, choosing among rows instead of searching the space; `gp+portfolio` starts alike
and then knows the new task only; `gp` has no history at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from hpo.arrays import Array
from hpo.replay.problem import Choice, Chooser, PastRuns, Problem
from hpo.spaces.encoding import Encoding
from hpo.tuning.evidence import Evidence, PastStudy, look_back
from hpo.tuning.past import FIRST_POINTS, PAST_STUDIES, Past, learn, share_of_trials
from hpo.tuning.proposals import Ground, propose


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
        _PASTS[problem] = learn(studies, problem.encoding, problem.points) if studies else None
    return _PASTS[problem]


def _look(past: PastRuns, encoding: Encoding, most: int) -> PastStudy | None:
    if past not in _LOOKS:
        rng = np.random.default_rng(0)
        _LOOKS[past] = look_back(past.sample, past.mapping, encoding, most_trials=most, most_landmarks=2, rng=rng)
    return _LOOKS[past]


class _AtWork:
    def __init__(self, problem: Problem, seed: int, past: Past | None, *, remembers: bool) -> None:
        self._remembers = remembers
        self._ground = Ground(encoding=problem.encoding, candidates=problem.points)
        self._seed = seed
        self._past = past

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """What the sampler would propose, were these rows its `candidates`."""
        points = self._ground.candidates
        assert points is not None
        tried = points[list(rows)]
        evidence = Evidence(X=tried, losses=losses, pending=points[:0], tried=tried, waiting=0)
        proposal = propose(
            self._ground,
            [evidence],
            [self._past if self._remembers or len(rows) < FIRST_POINTS else None],
            design=np.random.default_rng(self._seed),
            rng=np.random.default_rng([self._seed, len(rows)]),
        )
        taken = set(rows)
        same = np.flatnonzero((points == proposal.point).all(axis=1))
        return Choice(
            row=next(int(row) for row in same if row not in taken),
            interval90=proposal.interval90,
            best_case=proposal.best_case,
            history_weight=proposal.history_weight,
        )
