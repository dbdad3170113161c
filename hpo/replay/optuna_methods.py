"""How would Optuna's own samplers have chosen?

Each runs as a real study in memory. What it asks for is moved to the nearest row that was not tried, and the study is
told of that row: its parameters and its value.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.arrays import Array
from hpo.errors import SettingsError
from hpo.replay.problem import Choice, Chooser, Problem
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace

MakeSampler = Callable[[SearchSpace, int], BaseSampler]


def tpe(space: SearchSpace, seed: int) -> BaseSampler:
    """Optuna's default; on a conditional space with the options that are made for one."""
    with _quiet():
        return TPESampler(multivariate=True, group=True, seed=seed) if space.conditions else TPESampler(seed=seed)


def gp_sampler(space: SearchSpace, seed: int) -> BaseSampler:
    """Optuna's Gaussian process, with its defaults."""
    with _quiet():
        return GPSampler(seed=seed)


def cma(space: SearchSpace, seed: int) -> BaseSampler:
    """Optuna's CMA-ES, with its defaults. Raises SettingsError where its package is missing."""
    try:
        import cmaes  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - optional
    except ImportError:
        raise SettingsError("method 'cma' needs a package that is not there: pip install cmaes") from None
    with _quiet():
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)


class OptunaMethod:
    """A sampler of Optuna's as a method."""

    def __init__(self, name: str, sampler: MakeSampler) -> None:
        self.name = name
        self._sampler = sampler
        sampler(SearchSpace(distributions={}, conditions={}), 0)  # loads what it needs, or says that it is not there

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """A study in memory; the past is none of its business."""
        stream = np.random.default_rng([seed, crc32(problem.name.encode())])
        return _Study(problem, self._sampler(problem.encoding.space, int(stream.integers(2**31))))


class _Study:
    def __init__(self, problem: Problem, sampler: BaseSampler) -> None:
        self._problem = problem
        self._space = problem.encoding.space
        self._notes: dict[int, dict[str, Any]] = {}  # by row: what the sampler noted when it asked for it
        self._told = 0
        with _quiet():
            self._study = optuna.create_study(sampler=sampler)

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """What the sampler asks for, or what of the rest is nearest to it."""
        with _quiet():
            for row, loss in zip(rows[self._told :], losses[self._told :].tolist(), strict=True):
                self._study.add_trial(self._trial(row, loss))
            self._told = len(rows)
            asked = self._study.ask()
            params = self._space.suggest(asked)
            noted = self._study.tell(asked, state=TrialState.FAIL)  # what was asked for is not what is tried
        point = self._problem.encoding.encode([params])[0]
        row = nearest(point, self._problem.points, rows, self._problem.encoding)
        self._notes[row] = noted.system_attrs
        return Choice(row=row)

    def _trial(self, row: int, loss: float) -> FrozenTrial:
        """A row as it was tried, with the sampler's notes: CMA-ES does not learn from a trial without them."""
        params = dict(self._problem.configurations[row])
        distributions = {name: _holding(self._space.distributions[name], value) for name, value in params.items()}
        notes = self._notes.get(row, {})
        return create_trial(params=params, distributions=distributions, value=loss, system_attrs=notes)


def nearest(point: Array, points: Array, tried: Sequence[int], encoding: Encoding) -> int:
    """The row of `points` (m, d), other than those tried, at the least Gower distance from `point` (d,)."""
    difference = np.abs(points - point)
    difference[:, encoding.categorical] = difference[:, encoding.categorical] > 0
    distance = difference.sum(axis=1)
    distance[list(tried)] = np.inf
    return int(np.argmin(distance))


def _holding(distribution: BaseDistribution, value: Any) -> BaseDistribution:
    """The distribution, wider where a value is outside: Optuna lets a study change its ranges."""
    if isinstance(distribution, CategoricalDistribution) or distribution._contains(
        distribution.to_internal_repr(value)
    ):
        return distribution
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = type(distribution)
    return kind(min(distribution.low, value), max(distribution.high, value), log=distribution.log)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Optuna says about each study and about its experimental parts."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
