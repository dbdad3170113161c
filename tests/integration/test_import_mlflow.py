"""Do ordinary MLflow runs come into the history: each once, with what they say, or with a reason?"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
import warnings
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from optuna import get_all_study_summaries as study_summaries
from optuna.trial import TrialState

from hpo.spaces.space import SearchSpace
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage import history
from storage.errors import ImportFailedError
from storage.importers import mlflow
from storage.importers.logged import mlflow_server
from storage.importers.logged import runs as logged_runs
from storage.importers.logged.mlflow_server import MlflowServer
from storage.importers.mlflow import import_mlflow
from storage.mlflow_runs import mlflow_client as hindsight_client
from storage.optuna_storage import HistoryStorage
from storage.outbox import deliver
from storage.schema import open_store
from storage.sources import list_sources
from storage.studies import SPACE_ATTRIBUTE, claim_trial, create_study, finish_trial, report, start_trial

START = 1_700_000_000_000  # ms


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory):
    """A database with MLflow's tables; making them takes seconds."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports and tables
        hindsight_client(f"sqlite:///{path}").search_runs(["0"])
    return path


@pytest.fixture
def path(empty_mlflow, tmp_path):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return tmp_path / "mlflow.db"


@pytest.fixture
def uri(path):
    return f"sqlite:///{path}"


@pytest.fixture
def client(uri):
    return hindsight_client(uri)


def log(client, experiment="digits", *, params=(), metrics=(), status="FINISHED", tags=(), name=None, at=0, seconds=60):
    """A run as anybody's training script logs it; metrics: values or curves by name."""
    from mlflow.entities import Metric, Param

    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else client.create_experiment(experiment)
    start = START + at * 1000
    run_id = client.create_run(experiment_id, start_time=start, run_name=name, tags=dict(tags)).info.run_id
    params = [Param(name, str(value)) for name, value in dict(params).items()]
    for begin in range(0, len(params), 100):
        client.log_batch(run_id, params=params[begin : begin + 100])
    curves = {name: values if isinstance(values, list) else [(0, values)] for name, values in dict(metrics).items()}
    points = [
        Metric(name, float(value), start + index * 1000, step)
        for name, curve in curves.items()
        for index, (step, value) in enumerate(curve)
    ]
    client.log_batch(run_id, metrics=points)
    if status != "RUNNING":
        client.set_terminated(run_id, status, end_time=start + seconds * 1000)
    return run_id


def trials(store, study):
    return history.list_trials(store, history.get_study(store, study).study_id)


def study_of(report):
    (study,) = report.tasks
    return study


# What a run says


def test_ordinary_runs_become_trials(store, client, uri):
    log(
        client,
        params={"lr": "1e-3", "optimizer": "sgd", "momentum": "0.9", "width": "16", "seed": "7", "epochs": "3"},
        metrics={"val_loss": [(0, 0.9), (1, 0.4), (2, 0.5)], "train_loss": 0.1, "system/cpu": 50.0},
        tags={
            "mlflow.source.git.commit": "abc123",
            "mlflow.user": "ann",
            "mlflow.source.name": "train.py",
            "team": "x",
        },
        name="the first",
    )
    params = {"lr": "0.1", "optimizer": "adam", "width": "64", "epochs": "3"}
    log(client, params=params, metrics={"val_loss": [(0, 0.8), (1, 0.7)], "train_loss": 0.1}, at=100)
    params = {"lr": "0.01", "optimizer": "sgd", "momentum": "0.5", "width": "32", "epochs": "3"}
    log(client, params=params, metrics={"val_loss": 0.3, "train_loss": 0.1}, at=200)
    params = {"lr": "0.02", "optimizer": "adam", "width": "32", "epochs": "3"}
    log(client, params=params, metrics={"val_loss": 0.3, "train_loss": 0.1}, at=300)

    done = []
    imported = import_mlflow(store, uri=uri, progress=done.append)
    assert (imported.taken, imported.number_skipped, imported.number_rejected) == (4, 0, 0)
    assert sum(done) == 4
    task = imported.tasks[study_of(imported)]
    assert (task.task, task.metric, task.direction) == ("digits", "val_loss", "minimize")
    assert task.space == {
        "lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
        "momentum": {"type": "float", "low": 0.5, "high": 0.9, "when": {"optimizer": ["sgd"]}},
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "width": {"type": "int", "low": 16, "high": 64, "log": True},
    }
    trial = trials(store, study_of(imported))[0]
    assert trial.params == {"lr": 0.001, "optimizer": "sgd", "momentum": 0.9, "width": 16}
    assert (trial.state, trial.value, trial.epochs, trial.seed) == (TrialState.COMPLETE, 0.5, 3, 7)
    assert trial.intermediate_values == {0: 0.9, 1: 0.4, 2: 0.5}
    assert (trial.code_version, trial.cost_seconds) == ("abc123", 60.0)
    assert trial.started_at == datetime.fromtimestamp(START / 1000, UTC)
    assert trial.user_attrs == {
        "run_name": "the first",
        "experiment": "digits",
        "user": "ann",
        "source_name": "train.py",
        "tags": {"team": "x"},
        "metrics": {"train_loss": 0.1},
        "params": {"epochs": 3},
    }
    assert "digits: the metric is val_loss, minimize (in 4 of 4 runs; there are also train_loss)" in imported.notes
    assert "digits: lr: log scale (0.001 … 0.1 spans 2.0 decades)" in imported.notes
    assert "digits: epochs: always 3, not searched over" in imported.notes
    assert [source.kind for source in list_sources(store)] == ["mlflow"]


def test_data_sets_are_provenance(sqlite_store, client, uri):
    from mlflow.entities import Dataset, DatasetInput, InputTag

    run_id = log(client, params={"lr": 1}, metrics={"val_loss": 1})
    data = [
        DatasetInput(Dataset("train", "d1g3st", "local", "{}"), [InputTag("mlflow.data.context", "training")]),
        DatasetInput(Dataset("test", "other", "local", "{}"), [InputTag("mlflow.data.context", "eval")]),
    ]
    client.log_inputs(run_id, data)
    imported = import_mlflow(sqlite_store, uri=uri)
    (trial,) = trials(sqlite_store, study_of(imported))
    assert trial.data_fingerprint == "d1g3st"


def test_only_what_ended_well_has_a_value(store, client, uri):
    good = {"params": {"lr": 0.1}, "metrics": {"val_loss": 0.5}}
    log(client, **good)
    log(client, params={"lr": 0.5}, metrics={"val_loss": 9.0}, status="FAILED", at=1)
    log(client, params={"lr": 0.6}, status="KILLED", at=2)
    log(client, params={"lr": 0.7}, metrics={"val_loss": [(0, 0.1), (1, "nan")]}, at=3)
    log(client, params={"lr": 0.8}, metrics={"val_loss": "inf"}, at=4)
    early = log(client, status="FAILED", at=5)
    running = log(client, params={"lr": 0.9}, metrics={"val_loss": 0.1}, status="RUNNING", at=6)
    odd = log(client, params={"lr": 0.2}, metrics={"acc": 0.1, "auc": 0.2}, at=7)
    nothing = log(client, metrics={"val_loss": 0.3}, at=8)
    client.delete_run(log(client, **good, at=9))

    imported = import_mlflow(store, uri=uri)
    found = trials(store, study_of(imported))
    assert [(trial.params["lr"], trial.state.name, trial.value, trial.error) for trial in found] == [
        (0.1, "COMPLETE", 0.5, None),
        (0.5, "FAIL", None, "MLflow says that it failed"),
        (0.6, "FAIL", None, "MLflow says that it was killed"),
        (0.7, "FAIL", None, "the metric is NaN"),
        (0.8, "FAIL", None, "the metric is infinite"),
    ]
    assert {row.row: (row.verdict, row.reason) for row in imported.rows} == {
        early: ("skipped", "failed before it had parameters"),
        running: ("skipped", "still running"),
        odd: ("rejected", "lacks the metric: no 'val_loss', it has acc, auc"),
        nothing: ("skipped", "has no parameters"),
    }


def test_a_curve_without_steps_is_counted(sqlite_store, client, uri):
    log(client, params={"lr": 1}, metrics={"val_loss": [(0, 0.3), (0, 0.2), (0, 0.1)]})
    log(client, params={"lr": 2}, metrics={"val_loss": [(100, 0.3), (200, 0.2), (200, 0.1)]}, at=1)
    imported = import_mlflow(sqlite_store, uri=uri)
    counted, by_step = trials(sqlite_store, study_of(imported))
    assert (counted.intermediate_values, counted.epochs) == ({0: 0.3, 1: 0.2, 2: 0.1}, 3)
    assert (by_step.intermediate_values, by_step.epochs) == ({100: 0.3, 200: 0.1}, 2)


def test_the_best_epoch_counts_only_where_it_was_kept(sqlite_store, client, uri):
    curve = [(0, 0.5), (1, 0.2), (2, 0.4)]
    log(client, "last", params={"monitor": "val_loss"}, metrics={"val_loss": curve})
    log(client, "kept", params={"checkpoint/monitor": "val_loss"}, metrics={"val_loss": curve})
    log(client, "told", params={"lr": 1}, metrics={"val_loss": curve, "best_val_loss": 0.2})
    imported = import_mlflow(sqlite_store, uri=uri)
    values = {task.task: trials(sqlite_store, study)[0].value for study, task in imported.tasks.items()}
    assert values == {"last": 0.4, "kept": 0.2, "told": 0.2}
    assert "kept: a run's value is the best val_loss that it logged" in imported.notes
    other = open_store("sqlite:///" + str(Path(sqlite_store.url.removeprefix("sqlite:///")).with_name("other.db")))
    imported = import_mlflow(other, uri=uri, mapping={"value": "best"}, experiments=["last"])
    assert trials(other, study_of(imported))[0].value == 0.2
    other.dispose()


def test_parents_without_anything_of_their_own_are_skipped(sqlite_store, client, uri):
    bare = log(client, name="search")
    with_params = log(client, params={"cv": 5}, metrics={"best": 1.0}, name="grid search", at=1)
    for index, parent in enumerate([bare, bare, with_params]):
        tags = {"mlflow.parentRunId": parent}
        log(client, params={"lr": index}, metrics={"val_loss": 1 / (index + 1)}, tags=tags, at=2 + index)
    imported = import_mlflow(sqlite_store, uri=uri)
    assert imported.taken == 3
    assert {row.row: row.reason for row in imported.rows} == {
        bare: "a parent of other runs: it has no parameters or no metrics of its own",
        with_params: "a parent of other runs: it has not the metric",
    }
    assert set(imported.tasks[study_of(imported)].space) == {"lr"}


# Again, and in part


def test_a_second_import_reads_only_what_is_new(store, client, uri, monkeypatch):
    for index in range(5):
        log(client, params={"lr": index}, metrics={"val_loss": index}, at=index)
    running = log(client, params={"lr": 7}, metrics={"val_loss": 7}, status="RUNNING", at=7)
    assert import_mlflow(store, uri=uri).taken == 5
    new = log(client, params={"lr": 100}, metrics={"val_loss": 0.5}, at=10)
    client.set_terminated(running, "FINISHED")
    asked = []
    read = MlflowServer.histories
    monkeypatch.setattr(MlflowServer, "histories", lambda self, ids, name: asked.extend(ids) or read(self, ids, name))
    again = import_mlflow(store, uri=uri)
    assert (again.taken, dict(again.skipped), again.number_rejected) == (2, {"already here": 5}, 0)
    assert sorted(asked) == sorted([new, running])
    assert len(trials(store, study_of(again))) == 7
    assert again.tasks[study_of(again)].space["lr"]["high"] == 100
    assert import_mlflow(store, uri=uri, source="by another name").taken == 0  # the same runs


def test_listing_takes_a_call_for_each_page_and_one_for_the_experiments(sqlite_store, client, uri, monkeypatch):
    for index in range(7):
        log(client, f"experiment {index % 3}", params={"lr": index}, metrics={"val_loss": index}, at=index)
    calls = []
    for name in ("search_runs", "search_experiments"):
        monkeypatch.setattr(type(client), name, spy(calls, name, getattr(type(client), name)))
    monkeypatch.setattr(mlflow_server, "RUNS_PER_PAGE", 4)
    assert import_mlflow(sqlite_store, uri=uri, experiments=[f"experiment {i}" for i in range(3)]).taken == 7
    assert calls == ["search_experiments", "search_runs", "search_runs"]


def spy(calls, name, method):
    def watched(*args, **kwargs):
        calls.append(name)
        return method(*args, **kwargs)

    return watched


def test_what_is_read_can_be_narrowed(sqlite_store, client, uri):
    for index in range(4):
        tags = {"stage": "final" if index % 2 else "try"}
        log(client, f"e{index // 2}", params={"lr": index}, metrics={"val_loss": index}, tags=tags, at=index * 100)
    since = datetime.fromtimestamp(START / 1000 + 200, UTC)
    options = {"uri": uri, "dry_run": True}
    assert import_mlflow(sqlite_store, **options).taken == 4
    assert import_mlflow(sqlite_store, **options, experiments=["e0"]).taken == 2
    assert import_mlflow(sqlite_store, **options, since=since).taken == 2
    assert import_mlflow(sqlite_store, **options, since=since.replace(tzinfo=None)).taken == 2
    assert import_mlflow(sqlite_store, **options, since=since, filter="tags.stage = 'final'").taken == 1
    assert list_sources(sqlite_store) == []  # all that was dry
    with pytest.raises(ImportFailedError, match="has no experiment 'e9'"):
        import_mlflow(sqlite_store, **options, experiments=["e9"])
    with pytest.raises(ImportFailedError, match="cannot be read: Invalid"):
        import_mlflow(sqlite_store, **options, filter="what ever")


def test_many_batches_and_pages(sqlite_store, client, uri, monkeypatch):
    for index in range(11):
        curve = [(step, index + 1 / (step + 1)) for step in range(4)]
        log(client, params={"lr": index}, metrics={"val_loss": curve}, at=index)
    monkeypatch.setattr(mlflow, "BATCH", 3)
    monkeypatch.setattr(mlflow_server, "RUNS_PER_PAGE", 5)
    monkeypatch.setattr(mlflow_server, "RUNS_PER_QUERY", 2)
    imported = import_mlflow(sqlite_store, uri=uri)
    found = trials(sqlite_store, study_of(imported))
    assert [trial.params["lr"] for trial in found] == list(range(11))
    assert [trial.intermediate_values[3] for trial in found] == [index + 0.25 for index in range(11)]


def test_histories_that_are_cut_off_are_read_run_by_run(client, uri, monkeypatch):
    ids = [log(client, params={"lr": 1}, metrics={"a": [(s, s) for s in range(9)]}, at=i) for i in range(3)]
    server = MlflowServer(mlflow_server.place_of(uri))
    whole = server.histories(ids, "a")
    assert [len(whole[run_id]) for run_id in ids] == [9, 9, 9]
    monkeypatch.setattr(mlflow_server, "POINTS_PER_QUERY", 10)
    assert server.histories(ids, "a") == whole


# The metric and the task


def test_an_unclear_metric_is_asked_for(sqlite_store, client, uri):
    log(client, "a", params={"lr": 1}, metrics={"val_auc": 1, "val_f1": 2, "epoch": 3})
    log(client, "b", params={"lr": 1}, metrics={"custom": 1})
    with pytest.raises(ImportFailedError) as caught:
        import_mlflow(sqlite_store, uri=uri)
    message = str(caught.value)
    assert "--metric" in message
    assert "a: val_auc (in 1 of 1), val_f1 (in 1 of 1)" in message
    assert "epoch" not in message
    assert "--direction" in message
    assert "b: custom" in message
    assert history.list_studies(sqlite_store) == []
    imported = import_mlflow(sqlite_store, uri=uri, metric="val_f1", direction="maximize")
    assert imported.taken == 1
    assert imported.rejected == {"lacks the metric": 1}
    with pytest.raises(ImportFailedError, match="'up' is unknown"):
        import_mlflow(sqlite_store, uri=uri, metric="val_f1", direction="up")


def test_the_metric_of_the_first_import_stays(sqlite_store, client, uri):
    log(client, params={"lr": 1}, metrics={"score": 1})
    assert import_mlflow(sqlite_store, uri=uri, metric="score", direction="minimize").taken == 1
    log(client, params={"lr": 2}, metrics={"score": 1, "val_loss": 2}, at=1)
    again = import_mlflow(sqlite_store, uri=uri)
    task = again.tasks[study_of(again)]
    assert (again.taken, task.metric, task.direction) == (1, "score", "minimize")


def test_tasks_by_template(sqlite_store, client, uri):
    for index, data in enumerate(["mnist", "cifar", None]):
        params = {"lr": index} | ({"data.name": data} if data else {})
        log(client, params=params, metrics={"val_loss": index}, tags={"team": "<b>a</b>"}, at=index)
    imported = import_mlflow(sqlite_store, uri=uri, task="{experiment}/{param:data.name} {tag:team}")
    assert {task.task for task in imported.tasks.values()} == {"digits/mnist <b>a</b>", "digits/cifar <b>a</b>"}
    assert imported.rejected == {"the task cannot be told": 1}
    with pytest.raises(ImportFailedError, match=r"\{foo\} is unknown"):
        import_mlflow(sqlite_store, uri=uri, task="{foo}")


def test_a_mapping_renames_scales_and_drops(sqlite_store, client, uri):
    for index in range(3):
        params = {"learning_rate": index + 1, "run_dir": f"/{index}", "hydra.job": index, "data": "mnist"}
        log(client, params=params, metrics={"acc": [(0, 30.0), (1, 50.0 + index)]}, at=index)
    mapping = {
        "rename": {"learning_rate": "lr", "acc": "val_acc"},
        "scale": {"lr": 0.001, "val_acc": 0.01},
        "drop": ["run_dir", "hydra.*"],
        "metric": "val_acc",
        "task": "{param:data}",
        "space": {"lr": {"type": "float", "low": 0.0015, "high": 1.0}},
    }
    imported = import_mlflow(sqlite_store, uri=uri, mapping=mapping)
    task = imported.tasks[study_of(imported)]
    assert (task.task, task.metric, task.direction) == ("mnist", "val_acc", "maximize")
    assert task.space == mapping["space"]
    assert [row.reason for row in imported.rows] == ["a value outside of the space: lr = 0.001 is outside [0.0015, 1]"]
    first, second = trials(sqlite_store, study_of(imported))
    assert (first.params, first.value, first.intermediate_values) == ({"lr": 0.002}, 0.51, {0: 0.3, 1: 0.51})
    assert second.user_attrs["params"] == {"data": "mnist"}


# Names and sizes


def test_hostile_names_survive(store, client, uri):
    names = ["<script>alert(1)</script>", "'; DROP TABLE trials; --", "zwei\nZeilen", "日本語 🎉", "{experiment}"]
    for index, name in enumerate(names):
        for repeat in range(2):
            params = {"a/b c": f"{name}{repeat}", "lr": repeat}
            log(client, name, params=params, metrics={"val_loss": 1}, tags={"t": name}, name=name, at=index)
    imported = import_mlflow(store, uri=uri)
    assert imported.taken == 10
    assert {task.task for task in imported.tasks.values()} == set(names)
    for study, task in imported.tasks.items():
        first, second = sorted(trials(store, study), key=lambda trial: trial.params["lr"])
        assert [first.params["a/b c"], second.params["a/b c"]] == [f"{task.task}0", f"{task.task}1"]
        assert first.user_attrs["tags"] == {"t": task.task}


def test_what_no_database_keeps_is_rejected(postgresql_store, client, uri):
    log(client, params={"lr": 1, "task": "a\0b"}, metrics={"val_loss": 1}, name="n\0", tags={"mlflow.user": "u\0"})
    log(client, params={"lr": 2, "task": "a"}, metrics={"val_loss": 1}, tags={"mlflow.source.git.commit": "c\0"}, at=1)
    imported = import_mlflow(postgresql_store, uri=uri, task="{param:task}")
    assert imported.rejected == {"a name that no database keeps": 1}
    assert trials(postgresql_store, study_of(imported))[0].code_version == "c"


def test_more_than_a_thousand_parameters_are_no_configuration(sqlite_store, client, uri):
    log(client, params={f"p{index}": 0 for index in range(1001)}, metrics={"val_loss": 1})
    log(client, params={f"p{index}": 1 for index in range(900)}, metrics={"val_loss": 1}, at=1)
    log(client, params={f"q{index}": 2 for index in range(900)}, metrics={"val_loss": 1}, at=2)
    imported = import_mlflow(sqlite_store, uri=uri)
    assert (imported.taken, dict(imported.rejected)) == (2, {"too many parameters": 1})
    assert any("only the 1,000 most frequent are looked at" in note for note in imported.notes)


def test_a_stray_word_among_numbers_is_rejected_and_a_mapping_takes_it(sqlite_store, client, uri):
    for place in range(20):
        log(client, params={"lr": 0.01 * (place + 1), "layers": 2}, metrics={"val_loss": 1 - place / 20}, at=place)
    odd = log(client, params={"lr": "auto", "layers": 3}, metrics={"val_loss": 0.5}, at=30)
    imported = import_mlflow(sqlite_store, uri=uri)
    (row,) = imported.rows
    assert (imported.taken, row.row, row.verdict) == (20, odd, "rejected")
    assert row.reason == (
        "a value outside of the space: lr = auto is no number; it is float in the other runs. "
        "Where it stands for a number, say so in a mapping file: `replace: {lr: {auto: NUMBER}}`"
    )
    space = history.get_study(sqlite_store, study_of(imported)).space
    assert {name: fields["type"] for name, fields in space.items()} == {"lr": "float"}
    again = import_mlflow(sqlite_store, uri=uri, mapping={"replace": {"lr": {"auto": 0.05}}})
    assert (again.taken, again.number_rejected) == (1, 0)


# Runs that Hindsight has sent


def test_own_runs_come_back_only_to_other_histories(sqlite_store, uri, client, tmp_path):
    study = create_study(sqlite_store, name="mine", task="digits", metric="val <loss>", mlflow_uri=uri)
    for value, state in ((0.25, TrialState.COMPLETE), (0.5, TrialState.PRUNED), (None, TrialState.FAIL)):
        claimed = claim_trial(sqlite_store, study, worker="worker", lease_seconds=60, max_trials=None)
        params = {"lr <rate>": (value or 1) / 10, "optimizer": "sgd"}
        start_trial(sqlite_store, claimed, params=params, seed=7, code_version="abc", hardware="2 cores")
        for epoch in range(2):
            report(sqlite_store, claimed, step=epoch, value=0.25 + epoch, metrics={"val <loss>": 0.25 + epoch})
        finish_trial(sqlite_store, claimed, state=state, value=value, cost_seconds=2.0, epochs=2, error="too hot")
    deliver(sqlite_store)

    here = import_mlflow(sqlite_store, uri=uri)
    assert (here.taken, dict(here.skipped)) == (
        0,
        {"a run of Hindsight's own study": 3, "a study's own run": 1},
    )
    with_others = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    there = import_mlflow(with_others, uri=uri)
    assert (there.taken, dict(there.skipped)) == (3, {"a study's own run": 1})
    complete, pruned, failed = trials(with_others, study_of(there))
    assert there.tasks[study_of(there)].metric == "val <loss>"
    assert complete.params == {"lr <rate>": 0.025}
    assert (complete.value, complete.intermediate_values) == (0.25, {0: 0.25, 1: 1.25})
    assert (complete.seed, complete.code_version, complete.hardware) == (7, "abc", "2 cores")
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, 0.5)
    assert (failed.state, failed.value, failed.error) == (TrialState.FAIL, None, "MLflow says that it failed: too hot")
    with_others.dispose()


# Where MLflow is


def test_a_tracking_server(sqlite_store, client, uri, path, tmp_path, monkeypatch):
    log(client, params={"lr": 1, "w": 2}, metrics={"val_loss": [(0, 2.0), (1, "nan"), (2, 1.0)]})
    log(client, params={"lr": 2, "w": 2}, metrics={"val_loss": [(0, 3.0), (1, 2.0)]}, at=1)
    with served(uri, tmp_path) as address:
        bulk = MlflowServer(mlflow_server.place_of(address))
        ids = [run.info.run_id for run in bulk.runs(list(bulk.experiments()))]
        found = bulk.histories(ids, "val_loss")
        assert bulk._can_bulk
        assert [step for step, _ in found[ids[0]]] == [0, 1, 2]
        imported = import_mlflow(sqlite_store, uri=address)
        assert imported.taken == 2
        first, second = trials(sqlite_store, study_of(imported))
        assert first.intermediate_values == pytest.approx({0: 2.0, 1: float("nan"), 2: 1.0}, nan_ok=True)
        assert (first.value, second.value) == (1.0, 2.0)
        monkeypatch.setattr(mlflow_server, "BULK_ENDPOINT", "/ajax-api/2.0/mlflow/nothing")
        single = MlflowServer(mlflow_server.place_of(address))
        one_by_one = single.histories(ids, "val_loss")
        assert not single._can_bulk
        assert {run_id: str(curve) for run_id, curve in one_by_one.items()} == {
            run_id: str(curve) for run_id, curve in found.items()
        }
    with pytest.raises(ImportFailedError, match=f"MLflow at {address} cannot be read"):
        import_mlflow(sqlite_store, uri=address)


class served:
    """A tracking server in a process of its own."""

    def __init__(self, uri, folder):
        self.port = free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
        command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(self.port)]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = (folder / "server.log").open("w")
        self.process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
        log.close()

    def __enter__(self):
        address = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    return address
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_folder_of_runs(sqlite_store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "mlruns"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow announces the end of such folders
        client = hindsight_client(folder.as_uri())
        log(client, params={"lr": 1}, metrics={"val_loss": [(0, 2.0), (1, 1.0)]})
        log(client, params={"lr": 3}, metrics={"val_loss": [(0, 2.0)]}, status="FAILED", at=1)
        imported = import_mlflow(sqlite_store, uri=str(folder))
    assert imported.taken == 2
    assert trials(sqlite_store, study_of(imported))[0].intermediate_values == {0: 2.0, 1: 1.0}
    assert imported.source.location == str(folder)


def test_a_path_to_a_database_will_do(sqlite_store, client, path):
    log(client, params={"lr": 1}, metrics={"val_loss": 1})
    assert import_mlflow(sqlite_store, uri=str(path)).taken == 1
    assert import_mlflow(sqlite_store, uri=f"sqlite:///{path}").taken == 0


def test_nothing_is_created_where_nothing_is(sqlite_store, tmp_path):
    with pytest.raises(ImportFailedError, match="no such file"):
        import_mlflow(sqlite_store, uri=f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(ImportFailedError, match="no folder with MLflow's runs"):
        import_mlflow(sqlite_store, uri=str(tmp_path / "nowhere"))
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "nowhere").exists()


def test_databases_of_others_are_left_alone(sqlite_store, tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE experiments (id INTEGER)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(ImportFailedError, match="no database of MLflow's"):
        import_mlflow(sqlite_store, uri=f"sqlite:///{other}")
    assert other.read_bytes() == before


@pytest.mark.parametrize("uri", ["ftp://somewhere", "http://127.0.0.1:9", "postgresql+psycopg://127.0.0.1:9/x"])
def test_places_that_do_not_answer(sqlite_store, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ImportFailedError, match=r"no place of MLflow's|cannot be read"):
        import_mlflow(sqlite_store, uri=uri)


def test_a_torn_database(sqlite_store, path):
    content = path.read_bytes()
    path.write_bytes(content[:3000])
    with pytest.raises(ImportFailedError, match="no readable database"):
        import_mlflow(sqlite_store, uri=f"sqlite:///{path}")
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ImportFailedError, match="no readable database"):
        import_mlflow(sqlite_store, uri=f"sqlite:///{path}")


def test_passwords_are_not_kept():
    place = mlflow_server.place_of("https://ann:secret@example.org:5000/mlflow/")
    assert (place.location, place.short) == ("https://example.org:5000/mlflow", "example.org:5000")
    place = mlflow_server.place_of("postgresql+psycopg://ann:secret@example.org/mlflow")
    assert "secret" not in place.location + place.short
    assert "ann" not in place.location + place.short


def test_two_places_do_not_share_a_name(sqlite_store, client, path, tmp_path):
    log(client, params={"lr": 1}, metrics={"val_loss": 1})
    elsewhere = tmp_path / "elsewhere" / tmp_path.name / "mlflow.db"
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(path, elsewhere)
    first = import_mlflow(sqlite_store, uri=str(path)).source
    second = import_mlflow(sqlite_store, uri=str(elsewhere)).source
    assert second.name == f"{first.name}-{second.name[-6:]}"
    assert import_mlflow(sqlite_store, uri=str(elsewhere)).source == second
    assert logged_runs.source_name(sqlite_store, "mlflow", "new", "there") == "mlflow:new"


def test_plain_lightning_runs_that_know_nothing_of_us(sqlite_store, tmp_path, uri):
    """Lightning's own logger, in a process of its own, as in anybody's project."""
    code = Path(__file__).with_name("user_code") / "plain_lightning.py"
    done = subprocess.run(
        [sys.executable, code, "mlflow", uri], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = import_mlflow(sqlite_store, uri=uri)
    assert imported.taken == 3
    task = imported.tasks[study_of(imported)]
    assert (task.task, task.metric) == ("plain", "val_loss")
    assert set(task.space) == {"lr", "optimizer"}
    assert task.space["lr"]["log"]
    for trial in trials(sqlite_store, study_of(imported)):
        assert trial.state == TrialState.COMPLETE
        assert len(trial.intermediate_values) == trial.epochs == 3
        assert trial.value == list(trial.intermediate_values.values())[-1]
    _a_study_starts_from_them(sqlite_store, task.space)


def _a_study_starts_from_them(store, space):
    """And the next study on that task, whose space a person wrote down, profits from its first trial on."""
    storage = HistoryStorage(store)
    wider = {**space, "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True}}
    study = optuna.create_study(storage=storage, sampler=HistorySampler(storage, seed=0), study_name="next")
    storage.set_study_system_attr(study._study_id, SPACE_ATTRIBUTE, wider)
    study.optimize(lambda trial: SearchSpace.from_json(wider).suggest(trial)["lr"], n_trials=2)
    receipts = [trial.system_attrs[RECEIPT] for trial in study.trials]
    assert receipts[0]["role"] == "portfolio"
    assert [source["study"] for source in receipts[0]["leans_on"]] == [
        name for name in (source.study_name for source in study_summaries(storage)) if name != "next"
    ]
