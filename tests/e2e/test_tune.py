"""Does `hpo tune` do its job on a user's own code, through interruptions, and say what is wrong?"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hpo
from tests.e2e.conftest import SPACE, Project


def finished(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["state"] in ("complete", "pruned", "fail")]


def wait_for_finished_trials(project: Project, process: subprocess.Popen[str], n: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            with sqlite3.connect(project.work / "hpo.db") as connection:
                (count,) = connection.execute("SELECT count(*) FROM trials WHERE state IN (1, 2)").fetchone()
        except sqlite3.OperationalError:
            count = 0
        if count >= n:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {n} finished trials in time")


def processes_of(project: Project) -> list[str]:
    """Command lines of processes that work in the project's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == project.work:
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_users_own_module_from_file_to_mlflow(project: Project) -> None:
    study = project.study("line", budget={"trials": 4})
    done = project.hpo("tune", study, "--jobs", "2", mlflow=project.mlflow)
    assert "best val_loss = " in done.stdout
    shown = project.json("show", "line")
    assert shown["trials"] == {"complete": 4}
    assert [trial["number"] for trial in shown["all_trials"]] == [0, 1, 2, 3]
    assert shown["best_value"] == min(trial["value"] for trial in shown["all_trials"])
    best = shown["best"]
    assert Path(best["checkpoint"]).is_file()
    assert len(best["intermediate_values"]) == best["epochs"] == 3
    assert best["value"] == min(best["intermediate_values"].values())
    assert all(
        "momentum" not in trial["params"] or trial["params"]["optimizer"] == "sgd" for trial in shown["all_trials"]
    )
    assert "incumbent" in project.hpo("show", "line").stdout
    assert project.json("studies")[0]["name"] == "line"
    check_mlflow(project, shown)
    check_ui(project)


def check_mlflow(project: Project, shown: dict[str, Any]) -> None:
    """Each study a parent run, each trial a child with parameters, curves, state and checkpoint."""
    import mlflow

    client = mlflow.MlflowClient(project.mlflow)
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert sorted(children) == ["0", "1", "2", "3"]
    for trial in shown["all_trials"]:
        run = children[str(trial["number"])]
        assert run.info.status == "FINISHED"
        assert float(run.data.params["lr"]) == pytest.approx(trial["params"]["lr"])
        curve = [metric.value for metric in client.get_metric_history(run.info.run_id, "val_loss")]
        assert list(trial["intermediate_values"].values()) == pytest.approx(curve[:3])
        assert client.get_metric_history(run.info.run_id, "train_loss")
        assert run.data.tags["hindsight.trial"] == str(trial["number"])
        assert client.list_artifacts(run.info.run_id, "checkpoint")


def check_ui(project: Project) -> None:
    """`hpo ui` serves that store, prints its address, and leaves nothing behind."""
    process = project.start("ui", "--port", "0", "--json", mlflow=project.mlflow)
    assert process.stdout is not None
    address = json.loads("".join(process.stdout.readline() for _ in range(4)))["address"]
    body = json.dumps({"max_results": 10}).encode()
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/experiments/search", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert "line" in {experiment["name"] for experiment in json.load(response)["experiments"]}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not [command for command in processes_of(project) if "mlflow" in command]


def test_killed_in_the_middle_and_resumed(project: Project) -> None:
    study = project.study("killed", trainer=project.trainer("Net", nap=0.15), budget={"trials": 8})
    process = project.start("tune", study, "--jobs", "2", mlflow=project.mlflow)
    wait_for_finished_trials(project, process, 3)
    process.kill()
    process.communicate()
    before = {trial["number"]: trial for trial in finished(project.json("show", "killed")["all_trials"])}
    deadline = time.monotonic() + 10
    while any("trainers" in command for command in processes_of(project)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [command for command in processes_of(project) if "trainers" in command]

    refused = project.hpo("tune", study, code=2)
    assert "--resume" in refused.stderr

    project.hpo("tune", study, "--jobs", "2", "--resume", mlflow=project.mlflow)
    trials = project.json("show", "killed")["all_trials"]
    assert [trial["number"] for trial in trials] == list(range(8))
    assert all(trial["state"] in ("complete", "pruned") for trial in trials)
    after = {trial["number"]: trial for trial in trials}
    assert all(after[number] == trial for number, trial in before.items())
    assert any(trial["attempt"] == 2 for trial in trials)  # what was running is trained anew
    check_every_attempt_is_one_run(project, trials)

    again = project.hpo("tune", study, "--resume")
    assert len(project.json("show", "killed")["all_trials"]) == 8, again.stdout


def check_every_attempt_is_one_run(project: Project, trials: list[dict[str, Any]]) -> None:
    import mlflow

    client = mlflow.MlflowClient(project.mlflow)
    ids = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    children = [run for run in client.search_runs(ids) if "mlflow.parentRunId" in run.data.tags]
    attempts = Counter((run.data.tags["hindsight.trial"], run.data.tags["hindsight.attempt"]) for run in children)
    assert set(attempts.values()) == {1}
    last = {(str(trial["number"]), str(trial["attempt"])) for trial in trials}
    assert last <= set(attempts)
    for run in children:
        if (run.data.tags["hindsight.trial"], run.data.tags["hindsight.attempt"]) in last:  # with the epochs before it
            curve = client.get_metric_history(run.info.run_id, "val_loss")
            assert [point.step for point in curve] == list(range(len(curve))) != []
    assert all(run.info.status in ("FINISHED", "KILLED") for run in children)


def test_a_hopeless_trial_is_pruned(project: Project) -> None:
    space = {"offset": {"type": "float", "low": 0.0, "high": 1.0}}
    trainer = project.trainer("Offset", max_epochs=8)
    study = project.study("pruned", trainer=trainer, space=space, budget={"trials": 12},
                          pruner={"name": "median", "startup_trials": 2})  # fmt: skip
    project.hpo("tune", study)
    trials = project.json("show", "pruned")["all_trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned
    assert all(trial["epochs"] == len(trial["intermediate_values"]) < 8 for trial in pruned)
    kept = [trial["value"] for trial in trials if trial["state"] == "complete"]
    assert min(kept) < min(trial["value"] for trial in pruned)


def test_after_ctrl_c_trials_go_on_where_they_were(project: Project) -> None:
    trainer = project.trainer("Net", nap=0.4, max_epochs=6)
    study = project.study("interrupted", trainer=trainer, budget={"trials": 2}, pruner="none")
    process = project.start("tune", study, "--jobs", "2")
    wait_for(lambda: len(curves_of_unfinished(project)) == 2 and min(curves_of_unfinished(project)) >= 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in out + err
    trials = project.json("show", "interrupted")["all_trials"]
    assert not [trial for trial in trials if trial["state"] in ("running", "fail")]
    done = project.hpo("tune", study, "--jobs", "2", "--resume")
    trials = project.json("show", "interrupted")["all_trials"]
    assert len(finished(trials)) == len(trials) == 2
    assert all(list(trial["intermediate_values"]) == [str(epoch) for epoch in range(6)] for trial in trials)
    assert all(trial["notes"][0].startswith("went on after epoch ") for trial in trials)
    assert "went on after epoch " in done.stderr
    folders = [path.name for path in (project.work / "hpo-runs").glob("*/trial-*/attempt-*/*")]
    assert sorted(folders) == ["best.ckpt"] * 2 + ["output.log"] * 4


def curves_of_unfinished(project: Project) -> list[int]:
    """How many epochs of each unfinished trial are in the history."""
    query = "SELECT count(step) FROM trials LEFT JOIN intermediate_values ON trial_id = id WHERE state = 0 GROUP BY id"
    try:
        with sqlite3.connect(project.work / "hpo.db") as connection:
            return [count for (count,) in connection.execute(query)]
    except sqlite3.OperationalError:  # it is being made
        return []


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_killed_trial_process_is_tried_again(project: Project) -> None:
    study = project.study("shot", trainer=project.trainer("Net", nap=0.4), budget={"trials": 2})
    process = project.start("tune", study)
    wait_for_finished_trials(project, process, 1)
    deadline = time.monotonic() + 30
    victim = None
    while victim is None and time.monotonic() < deadline:
        victim = newest_trial_process(process.pid)
        time.sleep(0.05)
    assert victim is not None
    time.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    trials = project.json("show", "shot")["all_trials"]
    assert [trial["state"] for trial in trials] == ["complete", "complete"]
    assert [trial["attempt"] for trial in trials] == [1, 2]


def newest_trial_process(root: int) -> int | None:
    """The process of a trial: a grandchild of `hpo tune`, forked by the warm template."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
        except OSError:
            continue
    grandchildren = [pid for child in children.get(root, []) for pid in children.get(child, [])]
    return max(grandchildren, default=None)


def test_failing_user_code_is_shown_and_ends_a_study_that_cannot_work(project: Project) -> None:
    study = project.study("raises", trainer=project.trainer("Raises"), budget={"trials": 20})
    done = project.hpo("tune", study, code=1)
    assert "the sensor is unplugged" in done.stderr
    assert "none succeeded" in done.stderr
    trials = project.json("show", "raises")["all_trials"]
    assert {trial["state"] for trial in trials} == {"fail"}
    assert len(trials) == 5
    assert all("the sensor is unplugged" in trial["error"] for trial in trials)


def test_trials_that_fail_now_and_then_do_not_end_the_study(project: Project) -> None:
    study = project.study("at-times", trainer=project.trainer("RaisesAtTimes"), budget={"trials": 8}, pruner="none")
    done = project.hpo("tune", study)
    assert "the sensor is unplugged" in done.stderr
    states = Counter(trial["state"] for trial in project.json("show", "at-times")["all_trials"])
    assert states["complete"] and states["fail"]
    assert sum(states.values()) == 8


def test_a_loss_that_is_nan_fails_the_trial_with_its_reason(project: Project) -> None:
    study = project.study("nan", trainer=project.trainer("Diverges"), budget={"trials": 2})
    done = project.hpo("tune", study, code=1)
    assert "nan" in done.stderr.lower()
    shown = project.json("show", "nan")
    assert shown["best_value"] is None
    assert {trial["state"] for trial in shown["all_trials"]} == {"fail"}
    assert all(trial["params"] for trial in shown["all_trials"])


def test_a_metric_that_is_never_logged_names_those_that_are(project: Project) -> None:
    study = project.study("metric", task={"name": "metric", "metric": "val_los", "direction": "minimize"})
    done = project.hpo("tune", study, code=1)
    assert "val_los" in done.stderr and "val_loss" in done.stderr and "train_loss" in done.stderr


def test_a_class_that_cannot_be_used_is_refused_before_anything_is_made(project: Project) -> None:
    study = project.study("bad", trainer={"model": "user_models.NotAModule", "max_epochs": 2})
    done = project.hpo("tune", study, code=2)
    assert "NotAModule" in done.stderr and "LightningModule" in done.stderr
    assert len(done.stderr.splitlines()) <= 8
    assert project.json("studies") == []


def test_a_parameter_that_no_constructor_takes_is_refused(project: Project) -> None:
    study = project.study("mismatch", space={**SPACE, "learning_rate": {"type": "float", "low": 0.1, "high": 1.0}})
    done = project.hpo("tune", study, code=2)
    assert "learning_rate" in done.stderr and "lr" in done.stderr
    assert project.json("studies") == []


def test_a_direction_that_contradicts_history_is_refused(project: Project) -> None:
    project.hpo("tune", project.study("first", budget={"trials": 1}))
    other_task = {"name": "second", "metric": "val_loss", "direction": "maximize"}
    done = project.hpo("tune", project.study("second", task=other_task), code=2)
    assert "direction" in done.stderr and "'first'" in done.stderr
    assert [study["name"] for study in project.json("studies")] == ["first"]


def test_a_resumed_study_must_be_the_same(project: Project) -> None:
    project.hpo("tune", project.study("same", budget={"trials": 1}))
    changed = {**SPACE, "lr": {"type": "float", "low": 1e-3, "high": 0.5, "log": True}}
    done = project.hpo("tune", project.study("same", space=changed), "--resume", code=2)
    assert "space" in done.stderr


def test_stores_that_cannot_be_used(project: Project) -> None:
    study = project.study("nowhere")
    done = project.hpo("tune", study, "--storage", "sqlite:////no/such/folder/hpo.db", code=3)
    assert "/no/such/folder" in done.stderr
    (project.work / "torn.db").write_bytes(b"this is no database" * 100)
    assert "torn.db" in project.hpo("studies", "--storage", "sqlite:///torn.db", code=3).stderr
    assert "not" in project.hpo("studies", "--storage", "sqlite:///empty.db", code=2).stderr
    assert "URL" in project.hpo("studies", "--storage", "my history", code=2).stderr
    project.hpo("db", "upgrade")
    assert project.json("db", "check")["is_current"]
    with sqlite3.connect(project.work / "hpo.db") as connection:
        connection.execute("UPDATE hindsight_version SET version_num = '9999'")
    newer = project.hpo("studies", code=3)
    assert "newer" in newer.stderr.lower()


def test_python_runs_a_study_from_any_thread(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.work)
    study = {"trainer": {"recipe": "wine_mlp/all", "max_epochs": 2}, "budget": {"trials": 9}}
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(hpo.tune, study, storage=project.storage, mlflow="none", trials=2).result(timeout=240)
    assert [trial.state.name for trial in done.trials] == ["COMPLETE", "COMPLETE"]
    assert done.study_name == "wine_mlp/all"
    assert set(done.trials[0].system_attrs["hindsight:receipt"]) >= {"role", "why", "leans_on"}
