"""Does every executor keep the promises of `trainers.executors.Executor`, with real processes and real Lightning?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_trainers_local import (
    PATIENCE_SECONDS,
    SOON_SECONDS,
    is_running,
    make_config,
    make_job,
    run,
    started_pids,
    wait_for,
)
from trainers.errors import ParameterMismatchError
from trainers.executors import Executor
from trainers.executors.launched import LaunchedExecutor
from trainers.executors.local import LocalExecutor
from trainers.job import Event, Failed, Finished, Reported, TrainerConfig

REMOTE_SECONDS = 15  # for news of a lost process to arrive
keys = count(5000)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of executor: how to make it, and one that is warm, for up to two trials."""

    make: Callable[[TrainerConfig, int], Executor]
    warm: Executor


@pytest.fixture(scope="module", params=["local", "ray", "launched"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    match request.param:
        case "local":
            yield from _kind(lambda config, jobs: LocalExecutor(config, jobs=jobs))
        case "ray":
            cluster = request.getfixturevalue("ray_cluster")
            from trainers.executors.ray import RayExecutor

            yield from _kind(lambda config, jobs: RayExecutor(config, jobs=jobs, address=cluster.address))
        case "launched":
            command = request.getfixturevalue("warm_python").launcher
            yield from _kind(lambda config, jobs: LaunchedExecutor(config, jobs=jobs, command=command))


def _kind(make: Callable[[TrainerConfig, int], Executor]) -> Iterator[Kind]:
    with make(make_config(), 2) as warm:
        yield Kind(make=make, warm=warm)


def events_of(executor: Executor, key: int) -> list[Event]:
    """All events of a trial that was launched; each report is answered with `go on`."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not events or isinstance(events[-1], Reported):
        assert time.monotonic() < deadline, events
        for event in executor.poll(1.0):
            assert event.key == key
            events.append(event)
            if isinstance(event, Reported):
                executor.answer(key, prune=False)
    return events


def pids_while_polling(executor: Executor, folder: Path) -> list[int]:
    """Of a trial that hangs, and of the helpers that it has started."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all((folder / f"pid-{name}").exists() for name in ("0", "helper", "daemon")):
        assert time.monotonic() < deadline
        assert executor.poll(0.1) == []
    return started_pids(folder, "0", "helper", "daemon")


def test_events_come_in_order_and_outputs_go_to_the_trials_directory(kind: Kind, tmp_path: Path) -> None:
    *reports, end = run(kind.warm, make_job(tmp_path / "deep" / "trial"))
    assert [(report.epoch, report.value) for report in reports] == [(0, 3.0), (1, 1.0), (2, 2.0)]
    assert isinstance(end, Finished)
    assert (end.outcome.value, end.outcome.best_epoch, end.outcome.epochs, end.outcome.pruned) == (1.0, 1, 3, False)
    assert end.outcome.checkpoint == str(tmp_path / "deep" / "trial" / "best.ckpt")
    assert {"best.ckpt", "output.log"} <= {path.name for path in (tmp_path / "deep" / "trial").iterdir()}


def test_the_answer_prunes(kind: Kind, tmp_path: Path) -> None:
    *reports, end = run(kind.warm, make_job(tmp_path), prune_at=1)
    assert [report.epoch for report in reports] == [0, 1]
    assert isinstance(end, Finished)
    assert (end.outcome.pruned, end.outcome.epochs) == (True, 2)


def test_a_trial_that_is_tried_again_goes_on(kind: Kind, tmp_path: Path) -> None:
    first = make_job(tmp_path / "attempt-1")
    run(kind.warm, first)  # its best epoch, the second, is the last that is saved
    *reports, end = run(kind.warm, replace(make_job(tmp_path / "attempt-2"), earlier=(first.directory,)))
    assert [(report.epoch, report.value) for report in reports] == [(0, 3.0), (1, 1.0), (2, 2.0)]
    assert isinstance(end, Finished)
    assert end.outcome.notes == ("went on after epoch 1 of attempt-1",)
    assert (end.outcome.value, end.outcome.best_epoch, end.outcome.epochs) == (1.0, 1, 3)


def test_what_the_users_code_raises_is_an_event(kind: Kind, tmp_path: Path) -> None:
    (end,) = run(kind.warm, make_job(tmp_path, habit="raises"))
    assert isinstance(end, Failed)
    assert (end.kind, end.reason) == ("exception", "ValueError: the third step went wrong")
    assert "about to fail" in end.output_tail and "ValueError" in end.output_tail


def test_a_bad_value_is_an_event(kind: Kind, tmp_path: Path) -> None:
    *_, end = run(kind.warm, make_job(tmp_path, losses=[1.0, float("nan")]))
    assert isinstance(end, Failed)
    assert (end.kind, end.reason) == ("nan", "val_loss is nan in epoch 1")


def test_a_folder_that_cannot_be_written_is_an_event(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (end,) = run(kind.warm, make_job(tmp_path / "file" / "trial"))
    assert isinstance(end, Failed)
    assert "NotADirectoryError" in end.reason or "FileExistsError" in end.reason


@pytest.mark.parametrize("habit", ["ends_at_once", "crashes"])
def test_a_trial_that_ends_without_a_word_was_killed(kind: Kind, tmp_path: Path, habit: str) -> None:
    (end,) = run(kind.warm, make_job(tmp_path, habit=habit))
    assert isinstance(end, Failed)
    assert end.kind == "killed"


def test_a_killed_trial_fails_once_and_leaves_nothing(kind: Kind, tmp_path: Path) -> None:
    key = next(keys)
    kind.warm.launch(key, make_job(tmp_path, habit="hangs"))
    pids = pids_while_polling(kind.warm, tmp_path)
    os.kill(pids[0], signal.SIGKILL)
    (end,) = wait_for(lambda: kind.warm.poll(0.1), seconds=REMOTE_SECONDS)
    assert isinstance(end, Failed)
    assert (end.key, end.kind) == (key, "killed")
    assert kind.warm.poll(0.2) == []
    wait_for(lambda: not any(map(is_running, pids)), seconds=SOON_SECONDS)


@pytest.mark.parametrize("habit", ["hangs", "ignores_signals"])
def test_kill_leaves_no_process_and_no_event_and_the_key_is_free(kind: Kind, tmp_path: Path, habit: str) -> None:
    key = next(keys)
    kind.warm.launch(key, make_job(tmp_path / "first", habit=habit))
    pids = pids_while_polling(kind.warm, tmp_path / "first")
    kind.warm.kill(key)
    wait_for(lambda: not any(map(is_running, pids)), seconds=SOON_SECONDS)
    assert kind.warm.poll(0.1) == []
    kind.warm.kill(key)
    kind.warm.launch(key, make_job(tmp_path / "second"))
    *reports, end = events_of(kind.warm, key)
    assert (len(reports), type(end)) == (3, Finished)


def test_a_trial_may_be_killed_at_once_or_while_it_waits_for_an_answer(kind: Kind, tmp_path: Path) -> None:
    for number in range(3):
        key = next(keys)
        kind.warm.launch(key, make_job(tmp_path / str(number)))
        kind.warm.kill(key)
    key = next(keys)
    kind.warm.launch(key, make_job(tmp_path / "waits"))
    (event,) = wait_for(lambda: kind.warm.poll(1.0), seconds=PATIENCE_SECONDS)
    assert isinstance(event, Reported)
    kind.warm.kill(key)
    assert kind.warm.poll(0.2) == []
    kind.warm.answer(key, prune=False)  # too late, and harmless


def test_trials_run_side_by_side_and_do_not_mix(kind: Kind, tmp_path: Path) -> None:
    both = [next(keys), next(keys)]
    for key in both:
        kind.warm.launch(key, make_job(tmp_path / str(key), losses=[float(key)]))
    with pytest.raises(ValueError, match="2 may at once"):
        kind.warm.launch(next(keys), make_job(tmp_path))
    ended: dict[int, Event] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(ended) < 2:
        assert time.monotonic() < deadline
        for event in kind.warm.poll(1.0):
            if isinstance(event, Reported):
                assert event.value == event.key
                kind.warm.answer(event.key, prune=False)
                with pytest.raises(ValueError, match="no report that waits"):
                    kind.warm.answer(event.key, prune=False)
            else:
                assert event.key not in ended
                ended[event.key] = event
    assert sorted(ended) == both
    assert all(isinstance(event, Finished) for event in ended.values())


def test_a_place_is_good_for_many_trials(kind: Kind, tmp_path: Path) -> None:
    for number in range(6):
        habit = "raises" if number == 3 else "none"
        *_, end = run(kind.warm, make_job(tmp_path / str(number), habit=habit))
        assert isinstance(end, Failed if number == 3 else Finished)


def test_poll_returns_in_time_when_nothing_happens(kind: Kind) -> None:
    started = time.monotonic()
    assert kind.warm.poll(0.1) == []
    assert time.monotonic() - started < 1.0


def test_a_study_that_cannot_be_trained_is_refused_at_the_start(kind: Kind) -> None:
    executor: Any = kind.make(make_config(), 1)
    with pytest.raises(ParameterMismatchError, match="no constructor takes parameter 'width'"):
        executor.start(["habit", "width"])
    executor.close()


def test_close_ends_running_trials_and_may_be_repeated(kind: Kind, tmp_path: Path) -> None:
    """The last one: whatever were launched after it would have to start everything again."""
    kind.make(make_config(), 1).close()
    kind.warm.launch(next(keys), make_job(tmp_path, habit="ignores_signals"))
    pids = pids_while_polling(kind.warm, tmp_path)
    started = time.monotonic()
    kind.warm.close()
    assert time.monotonic() - started < REMOTE_SECONDS
    wait_for(lambda: not any(map(is_running, pids)), seconds=SOON_SECONDS)
    kind.warm.close()
