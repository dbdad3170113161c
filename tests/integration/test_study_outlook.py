"""What a study's pages ask of its trials: the worth of the best as it went, and where running trials are heading."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from dashboards import study_questions
from hpo.decisions.worth_course import worth_course
from storage.database import Store
from storage.optuna_storage import HistoryStorage


@pytest.fixture
def study(sqlite_store: Store) -> optuna.Study:
    """Thirty trials with curves, of which the last still runs."""
    study = optuna.create_study(storage=HistoryStorage(sqlite_store), study_name="outlook <b>")
    rng = np.random.default_rng(0)
    for number in range(30):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        end = (x - 0.3) ** 2 + 0.01 * float(rng.standard_normal())
        for step in range(5 if number == 29 else 12):
            trial.report(end + math.exp(-step / 3.0), step)
        if number < 29:
            study.tell(trial, end + math.exp(-11 / 3.0))
    return study


def test_the_best_gets_surer_as_trials_come_in(study: optuna.Study, sqlite_store: Store) -> None:
    found = worth_course(sqlite_store, study._study_id)
    assert [stage.finished for stage in found][-1] == 29
    assert all(stage.interval95[0] <= stage.value <= stage.interval95[1] for stage in found)
    widths = [stage.interval95[1] - stage.interval95[0] for stage in found]
    assert widths[-1] < widths[0]


def test_a_running_trial_is_heading_somewhere(study: optuna.Study, sqlite_store: Store) -> None:
    url = sqlite_store.url
    found = study_questions.endings(url, study_id=study._study_id, numbers=[29])
    (number, ending), *others = found.items()
    assert (number, others) == ("29", [])
    low, high = ending["interval90"]
    assert low <= ending["predicted"] <= high
    last = study.trials[29].intermediate_values[4]
    assert ending["predicted"] < last  # curves that look like it went on to fall
    assert study_questions.endings(url, study_id=study._study_id, numbers=[]) == {}


def test_charts_of_a_study_are_made_of_its_own_trials(study: optuna.Study, sqlite_store: Store) -> None:
    chart = study_questions.slices(sqlite_store.url, study_id=study._study_id, parameters=["x"])
    rows = chart["table"]["rows"]
    best = min(rows, key=lambda row: row[1])
    assert 0.1 < best[0] < 0.5
    importance = study_questions.importance(sqlite_store.url, study_id=study._study_id)
    assert importance["data"]
