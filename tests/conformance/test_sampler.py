"""Does the sampler keep Optuna's contract, cold and with a history? Optuna's own suites."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from hpo.tuning.sampler import HistorySampler
from tests.memory_history import MemoryHistory


class TestCold(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Without any past study."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: HistorySampler(MemoryHistory(), seed=0)


class TestWithHistory(BasicSamplerTestCase, RelativeSamplerTestCase):
    """With past studies whose parameters have the names that Optuna's tests use, of other types and ranges."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        history = MemoryHistory()
        for direction in ("minimize", "maximize"):
            study = optuna.create_study(storage=history, direction=direction, sampler=optuna.samplers.RandomSampler(0))
            study.optimize(
                lambda trial: trial.suggest_float("x", -3, 3) ** 2 + trial.suggest_int("y", 0, 5), n_trials=8
            )
        study = optuna.create_study(storage=history, sampler=optuna.samplers.RandomSampler(0))
        study.optimize(
            lambda trial: (
                {"a": 1.0, "z": 2.0}[trial.suggest_categorical("x", ["a", "z"])] + trial.suggest_int("y", 1, 9)
            ),
            n_trials=6,
        )
        return lambda: HistorySampler(history, seed=0)
