"""Is a trial that the kernel has killed for want of memory told from one that somebody else has killed?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.devices import oom_kills as module
from trainers.devices.oom_kills import blame_memory, has_killed_since, oom_kills
from trainers.executors.launched import LaunchedExecutor, _Launch
from trainers.job import Failed, TrainerConfig

KILLED = {"type": "failed", "kind": "killed", "reason": "ended by SIGKILL before the fit was over"}
Count = Callable[[int], None]


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Count:
    """Sets how many the kernel says that it has killed."""
    events = tmp_path / "memory.events"
    monkeypatch.setattr(module, "_events_of_group", lambda: [events])

    def write(number: int) -> None:
        events.write_text(f"low 0\nhigh 0\noom 9\noom_kill {number}\n")

    write(3)
    return write


def test_only_a_kill_since_then_counts(count: Count) -> None:
    assert oom_kills() == 3
    assert not has_killed_since(3) and not has_killed_since(None)
    assert blame_memory(KILLED, before=3) == KILLED
    count(4)
    assert has_killed_since(3)
    assert blame_memory(KILLED, before=3)["kind"] == "out_of_memory"


@pytest.mark.parametrize(
    ("end", "kills", "kind"), [("kill -9 $$", 4, "out_of_memory"), ("kill -9 $$", 3, "killed"), ("exit 3", 4, "killed")]
)
def test_what_a_launcher_started(count: Count, tmp_path: Path, end: str, kills: int, kind: str) -> None:
    executor = LaunchedExecutor(TrainerConfig(model="a.B", max_epochs=1), jobs=1, command="sh -c {command}")
    with subprocess.Popen(["/bin/sh", "-c", end], start_new_session=True) as process:
        launch = _Launch(
            key=7,
            slot=0,
            order={},
            token="",
            process=process,
            output=(tmp_path / "output.log").open("wb"),
            directory=tmp_path,
            started=0.0,
        )
        executor._launches[7] = launch
        process.wait()
        count(kills)
        executor._conclude(launch)
    (event,) = executor._events
    assert isinstance(event, Failed)
    assert (event.kind, "memory had run out" in event.reason) == (kind, kind == "out_of_memory")


def test_what_ray_ends(count: Count) -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray comes with hindsight-hpo[ray]")
    from trainers.executors.ray import kind_of

    assert kind_of(exceptions.OutOfMemoryError("Task was killed")) == "out_of_memory"
    low = exceptions.RayError("it was killed due to the node running low on memory")
    assert kind_of(low) == "out_of_memory"
    assert kind_of(exceptions.ActorDiedError()) == "killed"
