"""Are trials that report after each validation pruned there, and trials that make no step ended? On two ranks each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.test_trainers_local import (
    PATIENCE_SECONDS,
    SOON_SECONDS,
    is_running,
    keys,
    make_config,
    run,
    started_pids,
    wait_for,
)
from trainers.executors.local import LocalExecutor
from trainers.job import Event, Failed, Finished, FitJob, Reported

pytestmark = pytest.mark.usefixtures("warm_templates")
STALL_SECONDS = 9.0


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """Of trainings that are measured in steps: 8 an epoch and rank, a validation after each third."""
    config = make_config(
        model="parallel_models.Net",
        devices=2,
        max_epochs=None,
        trainer_args={"max_steps": 20, "val_check_interval": 3},
        report="validation",
        stall_minutes=STALL_SECONDS / 60,
    )
    with LocalExecutor(config, jobs=3) as executor:
        yield executor


def make_job(directory: Path, **params: float) -> FitJob:
    return FitJob(params=params, seed=1, metric="val_loss", direction="minimize", directory=str(directory))


def test_each_validation_is_reported_and_counted(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path))
    assert [report.epoch for report in reports] == [0, 1, 2, 3, 4]  # after steps 3, 6, 11, 14, 19
    assert isinstance(end, Finished)
    values = [report.value for report in reports]
    assert values[-1] < values[0]
    assert (end.outcome.value, end.outcome.best_epoch, end.outcome.epochs) == (min(values), 4, 5)


def test_all_ranks_leave_a_pruned_trial_at_the_same_step(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path), prune_at=2)
    assert [report.epoch for report in reports] == [0, 1, 2]
    assert isinstance(end, Finished)
    assert end.outcome.pruned
    assert [(tmp_path / f"step-{rank}").read_text() for rank in (0, 1)] == ["11", "11"]


def test_a_trial_that_goes_on_in_the_middle_of_an_epoch_reports_each_validation_once(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    key, job = next(keys), make_job(tmp_path / "first", step_seconds=0.3)
    executor.launch(key, job)
    told: list[int] = []
    while told != [0, 1]:
        for event in executor.poll(1.0):
            assert isinstance(event, Reported), event
            told.append(event.epoch)
            executor.answer(key, prune=False)
    time.sleep(0.5)
    executor.kill(key)
    again = replace(job, directory=str(tmp_path / "second"), earlier=(str(tmp_path / "first"),))
    *reports, end = run(executor, again)
    assert isinstance(end, Finished), end
    assert [report.epoch for report in reports] == [0, 1, 2, 3, 4]
    assert (tmp_path / "second" / "step-0").read_text() == "19"


def test_only_a_trial_that_makes_no_step_is_ended(executor: LocalExecutor, tmp_path: Path) -> None:
    hung, slow, waiting = next(keys), next(keys), next(keys)
    executor.launch(hung, make_job(tmp_path / "hung", step_seconds=0.2))
    executor.launch(slow, make_job(tmp_path / "slow", step_seconds=0.5))
    executor.launch(waiting, make_job(tmp_path / "waiting"))
    ranks = {name: started_pids(tmp_path / name, "0", "1") for name in ("hung", "slow", "waiting")}
    stopped_at = time.monotonic()
    os.kill(ranks["hung"][1], signal.SIGSTOP)
    ends: dict[int, Event] = {}
    answered = False
    while len(ends) < 3:
        assert time.monotonic() < stopped_at + PATIENCE_SECONDS, ends
        for event in executor.poll(0.2):
            if not isinstance(event, Reported):
                ends[event.key] = event
            elif event.key != waiting or answered:
                executor.answer(event.key, prune=False)
        if not answered and time.monotonic() > stopped_at + STALL_SECONDS + 2:
            answered = True
            executor.answer(waiting, prune=False)
    assert isinstance(ends[slow], Finished), ends[slow]
    assert isinstance(ends[waiting], Finished), ends[waiting]
    stalled = ends[hung]
    assert isinstance(stalled, Failed)
    assert stalled.kind == "stalled"
    assert stalled.reason == "made no step for 0.15 min (trainer.stall_minutes), so its processes were ended"
    wait_for(lambda: not any(map(is_running, ranks["hung"])), seconds=SOON_SECONDS)
