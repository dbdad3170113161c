"""How do the commands show a study of several objectives, and what do they refuse?"""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from storage.families import METRIC_NAMES
from storage.optuna_storage import HistoryStorage
from storage.studies import claim_trial, create_study, finish_trial
from tests.e2e.conftest import answer

VALUES = [(0.8, 50.0), (0.9, 100.0), (0.85, 120.0), (0.7, 40.0)]


@pytest.fixture
def small(sqlite_store):
    """Four complete trials of accuracy against size, of which one is beaten; then one that failed."""
    study_id = create_study(
        sqlite_store, name="small", task="digits", metric="val_accuracy", directions=["maximize", "minimize"]
    )
    HistoryStorage(sqlite_store).set_study_system_attr(study_id, METRIC_NAMES, ["val_accuracy", "size_bytes"])
    for values in [*VALUES, None]:
        claim = claim_trial(sqlite_store, study_id, worker="w", lease_seconds=60, max_trials=None)
        if values is None:
            finish_trial(sqlite_store, claim, state=TrialState.FAIL, value=None, error="no")
        else:
            finish_trial(
                sqlite_store,
                claim,
                state=TrialState.COMPLETE,
                value=values[0],
                more_values=values[1:],
                measured={"size_bytes": values[1]},
            )


def test_the_front_is_told_drawn_and_shown_instead_of_a_best_trial(hpo, small, tmp_path):
    found = answer(hpo, "front", "small", "--figure", "front.svg")
    assert [point["number"] for point in found["front"]] == [1, 0, 3]
    assert found["front"][0]["values"] == {"val_accuracy": 0.9, "size_bytes": 100.0}
    assert [point["number"] for point in found["beaten"]] == [2]
    assert found["left_out"] == 1
    assert "size_bytes (smaller is better)" in (tmp_path / "front.svg").read_text()
    assert answer(hpo, "best", "small")["front"] == found["front"]
    shown = answer(hpo, "show", "small")
    assert (shown["best"], shown["best_value"], shown["front"]) == (None, None, found["front"])
    assert shown["objectives"] == ["val_accuracy", "size_bytes"]
    assert shown["all_trials"][2]["values"] == [0.85, 120.0]
    text, _ = hpo("show", "small")
    assert "3 of 4 complete trials are beaten by no other in everything; 1 without values left out" in text
    assert "val_accuracy (maximize), size_bytes (minimize)" in hpo("studies")[0]


def test_what_a_front_has_no_answer_to_is_said(hpo, small):
    assert "which of its front by --trial: 1, 0, 3" in hpo("promote", "small", code=2)[1]
    assert "trial 1 of study 'small' has no checkpoint" in hpo("promote", "small", "--trial", "1", code=2)[1]
    assert "trial 4 of study 'small' is fail, not complete" in hpo("promote", "small", "--trial", "4", code=2)[1]
    assert "There is no trial 9" in hpo("promote", "small", "--trial", "9", code=2)[1]
    assert "there is no one best" in hpo("best", "small", "--against", "0", code=2)[1]
    assert "front.bmp: the ending tells the format" in hpo("front", "small", "--figure", "front.bmp", code=2)[1]
    assert "no study" in hpo("front", "large", code=2)[1].lower()


def test_a_study_of_one_objective_has_no_front(hpo, sqlite_store):
    create_study(sqlite_store, name="one", metric="val_loss")
    assert "has one objective, val_loss: `hpo best` tells" in hpo("front", "one", code=2)[1]
