"""Are the incumbents of studies, and of several runs of one, told with the right interval?"""

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo.decisions.study_courses import courses
from hpo.errors import NoHistoryError, SettingsError
from storage.database import Store
from storage.errors import StudyNotFoundError
from storage.studies import create_study, finish_trial
from tests.filled import claimed


def _run(store: Store, name: str, values: list[float | None], direction: str = "minimize") -> None:
    study = create_study(store, name=name, task="digits", metric="loss", directions=(direction,))
    for value in values:
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        finish_trial(store, claimed(store, study), state=state, value=value)


def test_a_single_run_has_its_incumbents_and_no_interval(sqlite_store: Store):
    _run(sqlite_store, "one", [None, 3.0, 4.0, 1.0])
    ((course,), metric) = courses(sqlite_store, ["one"])
    assert metric == "loss" and course.runs == 1 and course.interval is None
    np.testing.assert_array_equal(course.mean, [np.nan, 3.0, 3.0, 1.0])


def test_several_runs_are_a_mean_with_its_t_interval(store: Store):
    for place, value in enumerate([1.0, 2.0, 6.0]):
        _run(store, f"ours/{place}", [value, value - 0.5])
    _run(store, "theirs", [5.0])
    ((ours, theirs), _) = courses(store, ["ours/*", "theirs"])
    np.testing.assert_allclose(ours.mean, [3.0, 2.5])
    assert ours.interval is not None
    half = 4.302653 * np.std([1.0, 2.0, 6.0], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(ours.interval, [[3.0 - half, 3.0 + half], [2.5 - half, 2.5 + half]], rtol=1e-6)
    assert theirs.runs == 1


def test_more_is_better_where_it_is_maximized_and_a_pruned_trial_is_no_incumbent(sqlite_store: Store):
    study = create_study(sqlite_store, name="up", task="digits", metric="accuracy", directions=("maximize",))
    for state, value in ((TrialState.COMPLETE, 0.5), (TrialState.PRUNED, 0.9), (TrialState.COMPLETE, 0.7)):
        finish_trial(sqlite_store, claimed(sqlite_store, study), state=state, value=value)
    ((course,), _) = courses(sqlite_store, ["up"])
    assert course.mean.tolist() == [0.5, 0.5, 0.7]


def test_what_cannot_be_drawn_together_is_told(sqlite_store: Store):
    _run(sqlite_store, "loss", [1.0])
    _run(sqlite_store, "empty", [])
    study = create_study(sqlite_store, name="up", task="other", metric="accuracy", directions=("maximize",))
    finish_trial(sqlite_store, claimed(sqlite_store, study), state=TrialState.COMPLETE, value=0.5)
    with pytest.raises(SettingsError, match=r"do not measure the same: loss \(minimize\), accuracy \(maximize\)"):
        courses(sqlite_store, ["loss", "up"])
    with pytest.raises(NoHistoryError, match="'empty' has no finished trial"):
        courses(sqlite_store, ["empty"])
    with pytest.raises(StudyNotFoundError):
        courses(sqlite_store, ["nobody"])
