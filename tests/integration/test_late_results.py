"""Does a value that came too late count once somebody says so, as one trial, and beside no other?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hpo.tuning.stopping import Stopped, stopped_reason
from storage import audit, history, integrity
from storage.arrays import family_arrays
from storage.audit import Doer
from storage.database import Store
from storage.errors import StaleAttemptError, StorageError, TrialNotFoundError
from storage.late_results import LATE_RESULT_OF, accept_late_result, late_results_of, teller_of
from storage.optuna_storage import HistoryStorage
from storage.studies import (
    NOTES_ATTRIBUTE,
    STOPPED_ATTRIBUTE,
    Claim,
    claim_trial,
    create_study,
    finish_trial,
    refuse_outcome,
    release_trial,
    report,
)
from storage.trial_pages import trial_numbered

SPACE = {"lr": {"type": "float", "low": 0.0, "high": 1.0}}
DOER = Doer(who="ann", action="trial.accept-late")


def begun(store: Store, study: int) -> Claim:
    claim = claim_trial(store, study, worker="host:1:2", lease_seconds=3600, max_trials=None)
    assert claim is not None
    return claim


def lost(store: Store, study: int, *, deaths: int = 1) -> Claim:
    """An attempt at a trial with a parameter and a curve, the last of so many that died."""
    for _ in range(deaths):
        claim = begun(store, study)
        if claim.attempt == 1:
            storage, space = HistoryStorage(store), FloatDistribution(0.0, 1.0)
            storage.set_trial_param(claim.trial_id, "lr", 0.25, space)
            storage.set_trial_user_attr(claim.trial_id, "note", "x")
        report(store, claim, step=0, value=0.9)
        release_trial(store, claim, reason="its lease has ended", counts=True)
    return claim


def late(store: Store, claim: Claim, value: float | None, state: TrialState = TrialState.COMPLETE, **told: Any) -> None:
    with pytest.raises(StaleAttemptError):
        finish_trial(store, claim, state=state, value=value, **told)


def stop(store: Store, study: int, *, started: int) -> None:
    """Note that a study was stopped when it had so many trials."""
    gains = {"expected_gain": 0.0, "gain95": 0.0, "gain_of_next": 0.0, "threshold": 0.0}
    stopped = Stopped(rule="auto", finished=started, started=started, left=9, reason="enough", **gains)
    HistoryStorage(store).set_study_user_attr(study, STOPPED_ATTRIBUTE, stopped.__dict__)


def went_on(store: Store, study: int) -> bool:
    stopped = stopped_reason(store, study)
    assert stopped is not None
    return stopped.went_on(history.study_of_id(store, study).counts)


def study_of(store: Store, name: str, directions: tuple[str, ...] = ("minimize",)) -> int:
    return create_study(store, name=name, task="t", metric="loss", directions=directions, space=SPACE)


def test_of_a_trial_that_failed_it_counts_as_one_more_which_running_samplers_see(store: Store, tmp_path: Path) -> None:
    study, running = study_of(store, "one"), HistoryStorage(store)
    claim = lost(store, study, deaths=3)
    model = tmp_path / "best.ckpt"
    model.touch()
    told = {"cost_seconds": 7.0, "epochs": 3, "checkpoint": str(model), "measured": {"auc": 0.9}, "notes": ["slowly"]}
    late(store, claim, 0.5, finished_at=1_000.0, teller="box", **told)
    stop(store, study, started=1)
    (seen,) = running.get_all_trials(study)
    assert seen.state == TrialState.FAIL
    assert accept_late_result(store, study, 0, doer=DOER) == 1
    _, added = running.get_all_trials(study)
    assert (added.state, added.value, added.params) == (TrialState.COMPLETE, 0.5, {"lr": 0.25})
    assert (added.intermediate_values, added.user_attrs) == ({0: 0.9}, {"note": "x", "auc": 0.9})
    assert added.system_attrs[LATE_RESULT_OF] == {"trial": 0, "attempt": 3, "teller": "box"}
    assert added.duration is not None and added.duration.total_seconds() == 7.0
    kept = trial_numbered(store, study, 1)
    assert (kept.cost_seconds, kept.epochs, kept.checkpoint) == (7.0, 3, str(model))
    assert kept.finished_at == datetime.fromtimestamp(1_000.0, UTC)
    assert kept.system_attrs[NOTES_ATTRIBUTE] == ["slowly"]
    failed = trial_numbered(store, study, 0)
    assert failed.state == TrialState.FAIL
    assert [(each.counts_as, each.has_model) for each in late_results_of(failed.system_attrs)] == [(1, True)]
    summary = history.study_of_id(store, study)
    assert (summary.best, summary.counts[TrialState.FAIL]) == (0.5, 1)
    assert family_arrays(store, summary.family).values.tolist()[1:] == [0.5]
    entry = audit.list_entries(store)[0]
    assert (entry.who, entry.subject) == ("ann", "one")
    assert entry.details == {"trial": 0, "attempt": 3, "teller": "box", "value": 0.5, "counts_as": 1}
    assert not went_on(store, study)
    lost(store, study)
    assert not went_on(store, study), "it waits"
    begun(store, study)
    assert went_on(store, study)
    with pytest.raises(StorageError, match="counts already, as trial 1"):
        accept_late_result(store, study, 0)
    assert list(integrity.verify(store)) == []


def test_a_trial_that_waits_to_be_tried_again_ends_with_it(store: Store) -> None:
    study = study_of(store, "one")
    first = lost(store, study)
    second = lost(store, study)
    late(store, first, 0.5, cost_seconds=1e300)
    late(store, second, 0.7, TrialState.PRUNED)
    stop(store, study, started=0)
    words = r"1 \(0.5, attempt 1, no model\), 2 \(0.7, attempt 2, no model\)"
    with pytest.raises(StorageError, match=f"say which is to count: {words}"):
        accept_late_result(store, study, 0)
    with pytest.raises(StorageError, match="no late value 3"):
        accept_late_result(store, study, 0, place=3)
    assert accept_late_result(store, study, 0, place=1) == 0
    (trial,) = history.list_trials(store, study)
    assert (trial.state, trial.value, trial.error, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, None, {})
    assert (trial.started_at, trial.cost_seconds) == (None, 1e300), "what it cost cannot be true, nor when it began"
    assert not went_on(store, study)
    assert begun(store, study).number == 1, "it is not tried again"
    late(store, second, 0.7, TrialState.PRUNED)
    assert list(integrity.verify(store)) == []


def test_no_late_value_counts_beside_another_or_where_there_is_none(store: Store) -> None:
    study = study_of(store, "one")
    first = lost(store, study)
    late(store, first, 0.5)
    second = begun(store, study)
    with pytest.raises(StorageError, match="it is being trained"):
        accept_late_result(store, study, 0)
    finish_trial(store, second, state=TrialState.COMPLETE, value=0.4)
    with pytest.raises(StorageError, match="it is complete, with its own"):
        accept_late_result(store, study, 0)
    third = lost(store, study)
    late(store, third, None, TrialState.FAIL)
    with pytest.raises(StorageError, match="no late value of trial 1"):
        accept_late_result(store, study, 1)
    with pytest.raises(TrialNotFoundError, match="no trial 7"):
        accept_late_result(store, study, 7)
    fourth = lost(store, study, deaths=3)
    with pytest.raises(StaleAttemptError, match="kept as late"):
        refuse_outcome(store, fourth, state=TrialState.COMPLETE, value=0.1, teller="eve")
    with pytest.raises(StorageError, match=r"say which: 1 \(0.1, attempt 1, told by eve, a stranger to it, no model\)"):
        accept_late_result(store, study, fourth.number)
    added = trial_numbered(store, study, accept_late_result(store, study, fourth.number, place=1))
    assert (added.value, added.intermediate_values, teller_of(added.number, added.system_attrs)) == (0.1, {}, "eve")
    several = study_of(store, "two", ("minimize", "minimize"))
    late(store, lost(store, several), 0.5)
    with pytest.raises(StorageError, match="2 objectives"):
        accept_late_result(store, several, 0)
