"""Studies that the service runs, each in a process of its own: paused, resumed, killed, and left by a dead server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.service import launching
from hpo.service.delivering import Sender
from hpo.service.launching import LaunchOptions
from hpo.service.limits import Limits
from hpo.service.run_folders import last_lines, study_log
from hpo.service.state import Service
from hpo.service.study_process import End, _how_it_ended
from hpo.service.supervisor import MOST_DEATHS, Supervisor
from storage import history, launches, studies
from storage.database import Store
from storage.launches import Launch
from storage.sources import delete_study
from tests.integration.service.study_server import make_service

PARABOLA = """
import json, time
from pathlib import Path

def train(config, report):
    kept = Path(report.directory) / "epoch.json"
    began = json.loads(kept.read_text()) if kept.exists() else 0
    with Path(__file__).with_name("trace.jsonl").open("a") as trace:
        trace.write(json.dumps({"x": config["x"], "began": began}) + "\\n")
    for epoch in range(began, 4):
        time.sleep(config["pause"])
        report(loss=(config["x"] - 0.3) ** 2 + 1.0 / (epoch + 1))
        draft = kept.with_name("draft.json")
        draft.write_text(json.dumps(epoch + 1))
        draft.replace(kept)  # whole or not at all: it may be killed at any moment
    with Path(__file__).with_name("trace.jsonl").open("a") as trace:
        trace.write(json.dumps({"x": config["x"], "ended": True}) + "\\n")
"""
PATIENCE_SECONDS = 120.0


def file_of(name: str, *, trials: int = 6, pause: float = 0.25) -> dict[str, Any]:
    return {
        "study": name,
        "task": {"name": name, "metric": "loss", "direction": "minimize"},
        "trainer": {"function": "parabola.train", "arguments": {"pause": pause}},
        "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
        "budget": {"trials": trials},
        "pruner": "none",
    }


@pytest.fixture
def service(sqlite_store: Store, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "parabola.py").write_text(PARABOLA)
    made = make_service(sqlite_store.url, tmp_path)
    yield made
    made.desk.close()


@pytest.fixture
def supervisor(service: Service) -> Iterator[Supervisor]:
    running = Supervisor(service)
    yield running
    running.stop()
    assert processes_in(service.projects) == []


def launch(service: Service, file: dict[str, Any], owner: str = "ann", **options: Any) -> int:
    spec = launching.read_file(file=file)
    return launching.create(service, spec, owner=owner, options=LaunchOptions(**options))


def wait_until(is_so: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def found(service: Service, study_id: int) -> Launch:
    launch = launches.find_launch(service.store, study_id)
    assert launch is not None
    return launch


def finished(service: Service, study_id: int) -> int:
    return history.study_of_id(service.store, study_id).counts[TrialState.COMPLETE]


def processes_in(folder: Path) -> list[int]:
    """Those that work in a folder: study processes, their templates and their trials."""
    there = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and (process / "cwd").readlink() == folder:
                there.append(int(process.name))
        except OSError:
            continue
    return there


def test_a_study_that_asked_trials_leave_no_room_is_not_reached_for(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = make_service(service.store.url, tmp_path, limits=Limits(trials=1))
    asked = studies.create_study(service.store, name="asked", task="t", metric="m")
    claim = studies.claim_trial(service.store, asked, worker="bob/w", lease_seconds=60, max_trials=None)
    launch(service, file_of("para"))
    reached_for: list[int] = []
    monkeypatch.setattr(launches, "take_up", lambda _store, study_id, **_options: reached_for.append(study_id))
    supervisor = Supervisor(bounded)
    supervisor._round()
    assert reached_for == []
    studies.release_trial(service.store, claim, reason="interrupted")
    supervisor._round()
    assert len(reached_for) == 1
    bounded.desk.close()


def test_a_study_outlives_its_server_and_goes_on_after_a_pause(service: Service, tmp_path: Path) -> None:
    study_id = launch(service, file_of("para", trials=7))
    arguments = [sys.executable, "-m", "tests.integration.service.study_server", service.store.url, str(tmp_path)]
    server = subprocess.Popen(arguments)
    try:
        wait_until(lambda: finished(service, study_id) >= 1, "no trial finished")
        wait_until(lambda: found(service, study_id).trials == 1, "no trial runs")
    finally:
        server.kill()
        server.wait()
    wait_until(lambda: processes_in(service.projects) == [], "a process outlived its server")
    counts = history.study_of_id(service.store, study_id).counts
    assert counts[TrialState.RUNNING] == 0  # it was given back at once, not left to its lease
    assert found(service, study_id).state == "running"  # as far as anybody knows

    supervisor = Supervisor(service)
    supervisor.start()
    try:
        before = finished(service, study_id)
        wait_until(
            lambda: finished(service, study_id) > before and found(service, study_id).trials, "it does not go on"
        )
        launching.pause(service, study_id, who="ann")
        wait_until(lambda: found(service, study_id).state == "paused", "it does not pause")
        assert processes_in(service.projects) == []
        paused_at = history.study_of_id(service.store, study_id).counts
        assert paused_at[TrialState.RUNNING] == 0
        launching.resume(service, study_id, who="ann")
        wait_until(lambda: found(service, study_id).state == "done", "it does not end")
    finally:
        supervisor.stop()

    over = found(service, study_id)
    assert (over.message, over.worker) == ("its budget is spent: 7 trials are finished", None)
    trials = history.list_trials(service.store, study_id)
    assert [trial.number for trial in trials] == list(range(7))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    trace = [json.loads(line) for line in (service.projects / "trace.jsonl").read_text().splitlines()]
    ends = Counter(line["x"] for line in trace if "ended" in line)
    assert ends == Counter(trial.params["x"] for trial in trials)  # each trained to its end once
    starts = [line for line in trace if "began" in line]
    assert 7 < len(starts) <= 9  # what ran when the server died, and at the pause
    assert all(list(trial.intermediate_values) == [0, 1, 2, 3] for trial in trials if trial.attempt == 1)
    study = history.study_of_id(service.store, study_id)
    log = last_lines(study_log(service.runs, service.store, study), within=service.runs, most=100) or []
    assert any("7 of 7 trials finished" in line for line in log)
    assert sum("interrupted" in line for line in log) == 2


def test_a_process_that_is_killed_is_started_again_but_not_for_ever(
    service: Service, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.service.supervisor.PAUSE_PER_DEATH", 0.01)
    study_id = launch(service, file_of("fragile"))
    supervisor.start()
    killed: set[int] = set()
    until = time.monotonic() + PATIENCE_SECONDS
    while found(service, study_id).state != "failed":
        for pid in set(processes_in(service.projects)) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(killed) >= MOST_DEATHS  # of each start its process, and its template where that was there already
    over = found(service, study_id)
    assert over.deaths == MOST_DEATHS
    assert over.message is not None
    assert "SIGKILL" in over.message
    assert launching.start(service, study_id, owner="ann", options=None).deaths == 0
    launching.stop(service, study_id, who="ann")
    wait_until(lambda: found(service, study_id).state == "stopped", "it does not stop")


def test_what_cannot_be_trained_fails_with_the_reason(service: Service, supervisor: Supervisor) -> None:
    config = service.projects / "config.yaml"
    config.write_text("trainer: {max_epochs: 1}\n")
    study_id = launch(service, {**file_of("absent"), "trainer": {"cli": "config.yaml"}})
    config.unlink()
    supervisor.start()
    wait_until(lambda: found(service, study_id).state == "failed", "it does not fail")
    message = found(service, study_id).message
    assert message is not None
    assert "there is no file config.yaml" in message


def test_turns_are_by_priority_within_the_limits(service: Service, supervisor: Supervisor) -> None:
    ids = {name: launch(service, file_of(name), owner=name, jobs=jobs, priority=priority)
           for name, jobs, priority in (("low", 1, 0), ("high", 1, 5), ("large", 2, 9))}  # fmt: skip
    supervisor.start()
    wait_until(lambda: found(service, ids["large"]).state == "running", "nothing starts")
    time.sleep(1.0)
    assert [found(service, ids[name]).state for name in ("low", "high")] == ["queued", "queued"]  # 2 places are taken
    launching.stop(service, ids["large"], who="large")
    wait_until(lambda: found(service, ids["low"]).state == "running", "the others do not follow")
    high, low = found(service, ids["high"]), found(service, ids["low"])
    assert high.started_at is not None
    assert low.started_at is not None
    assert high.started_at < low.started_at
    for name in ("high", "low"):
        launching.stop(service, ids[name], who=name)
    wait_until(lambda: all(found(service, each).state == "stopped" for each in ids.values()), "they do not stop")


def test_studies_of_workers_are_left_to_them(service: Service, supervisor: Supervisor) -> None:
    study_id = launch(service, file_of("elsewhere"), place="workers")
    supervisor.start()
    time.sleep(0.8)
    assert found(service, study_id).state == "running"
    assert processes_in(service.projects) == []
    assert supervisor.why_not_well() is None


def test_a_study_that_is_deleted_while_it_starts_leaves_nothing(service: Service, supervisor: Supervisor) -> None:
    study_id = launch(service, file_of("gone"))
    supervisor.start()
    wait_until(lambda: processes_in(service.projects), "it does not start")
    assert not studies.delete_study_without_results(service.store, "gone")  # as `hpo tune` of that name would
    with service.store.write() as connection:
        delete_study(connection, study_id)
    wait_until(lambda: processes_in(service.projects) == [], "its process stays")
    assert launches.find_launch(service.store, study_id) is None
    assert supervisor.why_not_well() is None


def test_how_a_process_ended_is_read_from_whatever_it_printed() -> None:
    told = b'{"how": "done", "message": "its budget is spent"}\n'
    assert End.from_output(b"noise\n" + told) == End(how="done", message="its budget is spent")
    for nothing in (b"", b"\n", b"noise", b'{"how": 1}', b"[]", b"3"):
        assert End.from_output(nothing) is None


def test_a_study_whose_trials_were_pruned_is_done_and_one_whose_trials_failed_has_failed(sqlite_store: Store) -> None:
    for state, how, says in (
        (TrialState.PRUNED, "done", "its budget is spent: 2 trials are finished"),
        (TrialState.FAIL, "failed", "none of its 2 trials succeeded"),
    ):
        study_id = studies.create_study(sqlite_store, name=how, metric="loss")
        for outcome in (state, TrialState.FAIL):
            claim = studies.claim_trial(sqlite_store, study_id, worker="w", lease_seconds=60, max_trials=None)
            assert claim is not None
            studies.report(sqlite_store, claim, step=1, value=0.5)
            studies.finish_trial(sqlite_store, claim, state=outcome, value=None)
        ended = _how_it_ended(history.study_of_id(sqlite_store, study_id), sqlite_store)
        assert ended == End(how=how, message=says)


def test_the_sender_of_results_is_started_when_there_are_some_and_again_when_it_dies(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("hpo.service.delivering.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("hpo.service.delivering.RESTART_SECONDS", 0.0)
    monkeypatch.setattr("hpo.service.delivering.DRAIN_SECONDS", 0.1)
    sender = Sender(sqlite_store)
    sender.look()
    assert sender._process is None
    studies.create_study(sqlite_store, name="followed", mlflow_uri="http://127.0.0.1:9")  # nothing listens there
    sender.look()
    first = sender._process
    assert first is not None
    first.kill()
    first.wait()
    sender.look()
    second = sender._process
    assert second is not None
    assert second.pid != first.pid
    sender.stop()
    assert second.poll() is not None
