"""Does MLflow learn everything exactly once, and does nobody notice while it is away?"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import update

from hpo.errors import MlflowUnavailableError
from hpo.running.deletion import delete_study
from storage import outbox
from storage.errors import SenderBusyError, StaleAttemptError
from storage.late_results import accept_late_result
from storage.mlflow_runs import StudyRuns, known_run
from storage.models import mlflow_runs, studies
from storage.optuna_storage import HistoryStorage
from storage.outbox import deliver, pending
from storage.schema import open_store
from storage.studies import claim_trial, create_study, finish_trial, release_trial, report, set_mlflow_uri, start_trial

AWAY = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports and tables
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
        client.search_runs(["0"])
    return client


@pytest.fixture
def mlflow_uri(client):
    return client.tracking_uri


def claim(store, study_id):
    claimed = claim_trial(store, study_id, worker="worker", lease_seconds=60, max_trials=None)
    params = {"lr": 0.1, "optimizer": "sgd"}
    start_trial(store, claimed, params=params, seed=7, code_version="abc123", hardware="2 cores")
    return claimed


def train(store, study_id, value, checkpoint=None, epochs=3):
    claimed = claim(store, study_id)
    for epoch in range(epochs):
        report(store, claimed, step=epoch, value=value + epoch, metrics={"val_loss": value + epoch, "train_loss": 1.0})
    finish_trial(
        store, claimed, state=TrialState.COMPLETE, value=value, cost_seconds=2.0, epochs=epochs, checkpoint=checkpoint
    )


@pytest.fixture
def study_id(store, mlflow_uri, request):
    return followed(store, mlflow_uri, request.node.name)


def followed(store, uri, name):
    return create_study(store, name=name, task=f"task of {name}", metric="val_loss", mlflow_uri=uri)


def runs_of(client, name):
    """The runs by name; a doubled one is an error."""
    experiment = client.get_experiment_by_name(f"task of {name}")
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)
    return runs


def test_a_study_and_its_trials_are_nested_runs(store, study_id, client, request, tmp_path):
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    train(store, study_id, 0.25, checkpoint=str(checkpoint))
    left = pending(store)
    assert deliver(store) == left
    assert pending(store) == 0

    name = request.node.name
    runs = runs_of(client, name)
    parent, trial = runs[name], runs["0"]
    assert set(runs) == {name, "0"}
    assert parent.info.status == trial.info.status == "FINISHED"
    assert trial.data.params == {"lr": "0.1", "optimizer": "sgd"}
    assert trial.data.metrics["best_val_loss"] == 0.25
    assert parent.data.metrics == {"val_loss": 0.25}  # the last trial's, which need not be the best
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.tags["mlflow.source.git.commit"] == "abc123"
    assert trial.data.tags["hindsight.seed"] == "7"
    assert trial.data.tags["hindsight.state"] == "COMPLETE"
    assert trial.data.tags["hindsight.study"] == name
    curve = client.get_metric_history(trial.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in curve] == [(0, 0.25), (1, 1.25), (2, 2.25)]
    assert [file.path for file in client.list_artifacts(trial.info.run_id, "checkpoint")] == ["checkpoint/best.ckpt"]
    beside = Path(client.tracking_uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert Path(trial.info.artifact_uri.removeprefix("file://")).is_relative_to(beside)


def test_what_was_measured_and_noted_is_in_mlflow_too(store, study_id, client, request):
    measured = {"size_bytes": 2048.0, "latency_ms": 0.5}
    notes = ["went on after epoch 3 of attempt-1", "batch_size = 8"]
    finish_trial(store, claim(store, study_id), state=TrialState.COMPLETE, value=0.25, measured=measured, notes=notes)
    deliver(store)
    runs = runs_of(client, request.node.name)
    for run in (runs["0"], runs[request.node.name]):
        assert {name: run.data.metrics[name] for name in measured} == measured
    assert runs["0"].data.tags["hindsight.notes"] == "went on after epoch 3 of attempt-1; batch_size = 8"


def test_each_attempt_is_a_run(store, study_id, client, request):
    release_trial(store, claim(store, study_id), reason="interrupted")
    failed = claim(store, study_id)
    HistoryStorage(store).set_trial_param(failed.trial_id, "lr", 0.1, FloatDistribution(0.0, 1.0))
    report(store, failed, step=4, value=0.7)
    finish_trial(store, failed, state=TrialState.FAIL, value=None, error="out of memory")
    pruned = claim(store, study_id)
    finish_trial(store, pruned, state=TrialState.PRUNED, value=3.0)
    with pytest.raises(StaleAttemptError):
        finish_trial(store, failed, state=TrialState.COMPLETE, value=0.5, cost_seconds=2.0, measured={"auc": 0.9})
    assert accept_late_result(store, study_id, 0) == 2
    deliver(store)
    runs = runs_of(client, request.node.name)
    statuses = {name: run.info.status for name, run in runs.items() if name != request.node.name}
    assert statuses == {"0": "KILLED", "0 (attempt 2)": "FAILED", "1": "FINISHED", "2": "FINISHED"}
    assert runs["1"].data.tags["hindsight.state"] == "PRUNED"
    assert runs["0 (attempt 2)"].data.tags["hindsight.error"] == "out of memory"
    assert "best_val_loss" not in runs["0 (attempt 2)"].data.metrics
    added = runs["2"]  # that has the late value
    assert (added.data.params, added.data.tags["hindsight.seed"]) == ({"lr": "0.1"}, "7")
    assert added.data.metrics == {"val_loss": 0.7, "cost_seconds": 2.0, "auc": 0.9, "best_val_loss": 0.5}
    assert added.info.end_time - added.info.start_time == pytest.approx(2_000, abs=1)
    assert known_run(store, study_id, 2, 1, mlflow_uri=client.tracking_uri) == added.info.run_id


def test_the_study_runs_as_long_as_a_trial_is_open(store, study_id, client, request):
    train(store, study_id, 1.0)
    claim(store, study_id)
    deliver(store)
    assert runs_of(client, request.node.name)[request.node.name].info.status == "RUNNING"


def test_a_sender_killed_before_it_deletes_changes_nothing(store, study_id, client, request):
    train(store, study_id, 0.5)
    left = pending(store)

    def die_after_sending():
        send = StudyRuns.send

        def send_and_die(self, messages):
            send(self, messages)
            if messages[0].trial_id is not None:
                os.kill(os.getpid(), signal.SIGKILL)

        StudyRuns.send = send_and_die
        deliver(store)

    sender = multiprocessing.get_context("fork").Process(target=die_after_sending)
    sender.start()
    sender.join()
    assert sender.exitcode == -signal.SIGKILL
    assert pending(store) == left - 1  # the study's own message
    with store.write() as connection:
        connection.execute(mlflow_runs.delete())  # not even the runs' ids were kept
    deliver(store)
    assert pending(store) == 0
    runs = runs_of(client, request.node.name)
    assert set(runs) == {request.node.name, "0"}
    history = client.get_metric_history(runs["0"].info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert len(client.get_metric_history(runs["0"].info.run_id, "best_val_loss")) == 1


def test_while_mlflow_is_away_everything_is_kept(store, client, mlflow_uri, request, caplog):
    name = request.node.name
    away, here = followed(store, AWAY, f"{name} away"), followed(store, mlflow_uri, f"{name} here")
    train(store, away, 1.0)
    train(store, here, 2.0)
    left = pending(store)
    with caplog.at_level(logging.WARNING, logger="storage.outbox"):
        assert deliver(store) == left // 2  # the other study does not suffer
    assert AWAY in caplog.text
    with store.write() as connection:
        connection.execute(update(studies).where(studies.c.id == away).values(mlflow_uri=mlflow_uri))
    assert deliver(store) == left // 2
    assert set(runs_of(client, f"{name} away")) == {f"{name} away", "0"}


def test_nobody_waits_at_the_end_for_an_mlflow_that_is_not_there(sqlite_url):
    store = open_store(sqlite_url)
    train(store, followed(store, AWAY, "away"), 1.0)
    left, over = pending(store), threading.Event()
    over.set()
    started = time.monotonic()
    outbox.follow(store, until=over, drain_seconds=600)
    assert time.monotonic() - started < 120
    assert pending(store) == left


def test_what_mlflow_refuses_does_not_block_the_rest(store, study_id, client, request, caplog):
    claimed = claim(store, study_id)
    report(store, claimed, step=0, value=1.0, metrics={"x" * 300: 1.0})
    finish_trial(store, claimed, state=TrialState.COMPLETE, value=1.0)
    deliver(store)
    assert pending(store) == 0
    assert "MLflow refuses" in caplog.text
    trial = runs_of(client, request.node.name)["0"]
    assert (trial.info.status, trial.data.metrics) == ("FINISHED", {"best_val_loss": 1.0})


def test_names_that_mlflow_refuses_are_changed(store, study_id, client, request):
    claimed = claim_trial(store, study_id, worker="worker", lease_seconds=60, max_trials=None)
    start_trial(store, claimed, params={"model.lr@1": 0.1})
    report(store, claimed, step=0, value=1.0, metrics={"acc@1": 1.0, "acc#1": 2.0, "loss[val]": 3.0, "loss": 4.0})
    finish_trial(store, claimed, state=TrialState.COMPLETE, value=1.0)
    deliver(store)
    data = runs_of(client, request.node.name)["0"].data
    assert data.params == {"model.lr_1": "0.1"}
    names = {
        tag.removeprefix("hindsight.name."): name for tag, name in data.tags.items() if tag.startswith("hindsight.name")
    }
    assert sorted(names.values()) == ["acc#1", "acc@1", "loss[val]", "model.lr@1"]
    metrics = {names.get(name, name): value for name, value in data.metrics.items()}
    assert metrics == {"acc@1": 1.0, "acc#1": 2.0, "loss[val]": 3.0, "loss": 4.0, "best_val_loss": 1.0}


def test_a_study_whose_metric_has_an_odd_name(store, mlflow_uri, client):
    study_id = create_study(
        store, name="odd", task=f"task of odd {store.dialect}", metric="acc@1", mlflow_uri=mlflow_uri
    )
    train(store, study_id, 1.0)
    deliver(store)
    assert pending(store) == 0
    runs = runs_of(client, f"odd {store.dialect}")
    assert {name: run.info.status for name, run in runs.items()} == {"odd": "FINISHED", "0": "FINISHED"}
    assert runs["0"].data.metrics["best_acc_1"] == 1.0


def test_runs_are_made_anew_where_mlflow_lost_them(store, study_id, client, request, caplog):
    train(store, study_id, 1.0)
    deliver(store)
    with store.write() as connection:  # as if another store had been there
        connection.execute(update(mlflow_runs).values(run_id="0" * 32))
    train(store, study_id, 2.0)
    deliver(store)
    assert pending(store) == 0
    assert caplog.text == ""
    runs = runs_of(client, request.node.name)
    assert set(runs) == {request.node.name, "0", "1"}
    assert runs["1"].data.tags["mlflow.parentRunId"] == runs[request.node.name].info.run_id


def test_what_cannot_be_sent_even_to_a_new_run_does_not_block(store, study_id, monkeypatch, caplog):
    class GoneError(Exception):
        error_code = "RESOURCE_DOES_NOT_EXIST"

    def refuse(self, messages):
        raise GoneError("no such run")

    monkeypatch.setattr(StudyRuns, "_send", refuse)
    train(store, study_id, 1.0)
    deliver(store)
    assert pending(store) == 0
    assert "MLflow refuses" in caplog.text


def test_a_study_that_moves_to_another_mlflow_is_sent_there(store, study_id, client, request, tmp_path):
    from mlflow import MlflowClient

    train(store, study_id, 1.0)
    deliver(store)
    other = MlflowClient(f"sqlite:///{tmp_path}/other.db")
    set_mlflow_uri(store, study_id, other.tracking_uri)
    train(store, study_id, 2.0)
    deliver(store)
    assert set(runs_of(client, request.node.name)) == {request.node.name, "0"}
    assert set(runs_of(other, request.node.name)) == {request.node.name, "1"}


def test_at_the_end_nobody_waits_for_another_studys_mlflow(store, study_id, mlflow_uri, request, monkeypatch):
    away = followed(store, AWAY, f"{request.node.name} away")
    train(store, away, 1.0)
    train(store, study_id, 1.0)
    asked = []
    attempt = outbox._Delivery.attempt
    monkeypatch.setattr(outbox._Delivery, "attempt", lambda self: asked.append(self._study.study_id) or attempt(self))
    over = threading.Event()
    over.set()
    outbox.follow(store, until=over, drain_seconds=600, study_id=study_id)
    assert asked == [study_id]
    assert pending(store, study_id) == 0
    assert pending(store, away) == pending(store) > 0


def test_an_mlflow_that_is_away_is_asked_less_and_less():
    patience = outbox._Patience()
    assert patience.may_ask(AWAY)
    for _ in range(3):
        assert not patience.is_over(AWAY)
        patience.refused(AWAY, after_seconds=0.1)
        assert not patience.may_ask(AWAY)
    assert patience.is_over(AWAY)
    assert patience.may_ask("another")
    patience.give_last_chance()
    assert not patience.is_over(AWAY)
    patience.took(AWAY)
    assert patience.may_ask(AWAY)


def test_one_sender_at_a_time(store, study_id):
    with store.exclusive("outbox", wait_seconds=0), pytest.raises(SenderBusyError, match="Another process"):
        deliver(store)
    assert deliver(store) == 1


def test_a_limit_is_kept(store, study_id):
    train(store, study_id, 1.0)
    left = pending(store)
    assert deliver(store, limit=2) == 2
    assert deliver(store) == left - 2


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_background_sender_drains_and_ends_with_its_parent(store, study_id, client, request):
    train(store, study_id, 1.0)
    followed(store, AWAY, "away")
    command = [sys.executable, "-m", outbox.__name__, "--follow", "--drain-seconds", "60", "--study", request.node.name]
    options = {"env": os.environ | {"HPO_STORAGE": store.url}, "stdin": subprocess.DEVNULL, "timeout": 120}
    sender = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert (sender.returncode, sender.stdout) == (0, "")
    assert pending(store, study_id) == 0
    assert set(runs_of(client, request.node.name)) == {request.node.name, "0"}


def test_a_study_is_deleted_with_its_runs_and_files_if_that_is_asked_for(sqlite_store, mlflow_uri, client, tmp_path):
    store = sqlite_store
    for place, name in enumerate(("kept in MLflow", "deleted there")):
        study_id = followed(store, mlflow_uri, name)
        train(store, study_id, 0.25)
        deliver(store)
        done = delete_study(store, study_id, runs=tmp_path, with_mlflow_runs=bool(place))
        assert (done.trials, done.mlflow_uris, done.mlflow_runs, done.are_runs_deleted) == (1, (mlflow_uri,), 2, place)
        assert len(runs_of(client, name)) == (0 if place else 2)
    study_id = followed(store, mlflow_uri, "away")
    deliver(store)
    with store.write() as connection:
        connection.execute(update(mlflow_runs).values(mlflow_uri="http://me:secret@127.0.0.1:9"))
    with pytest.raises(MlflowUnavailableError, match=r"http://\*\*\*@127.0.0.1:9 does not answer.* nothing was"):
        delete_study(store, study_id, runs=tmp_path, with_mlflow_runs=True)
    assert delete_study(store, study_id, runs=tmp_path).mlflow_uris == ("http://***@127.0.0.1:9",)
