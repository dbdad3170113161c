"""Does the sampler keep Optuna's contract, cold and with a history? Optuna's own suites."""

from __future__ import annotations

from collections.abc import Callable, Collection

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from hpo.sampler import HistorySampler


class MemoryHistory(InMemoryStorage):
    """Optuna's memory storage with the one question that the sampler asks beyond Optuna."""

    def related_studies(self, names: Collection[str], exclude: int | None = None) -> list[int]:
        return [
            study._study_id
            for study in self.get_all_studies()
            if study._study_id != exclude
            and len(study.directions) == 1
            and any(
                trial.state == optuna.trial.TrialState.COMPLETE and set(names) & set(trial.params)
                for trial in self.get_all_trials(study._study_id, deepcopy=False)
            )
        ]


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
