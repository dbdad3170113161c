"""Does a trial that is tried again go on as if it had never been interrupted, in real processes with real Lightning?"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_trainers_local import (
    PATIENCE_SECONDS,
    SOON_SECONDS,
    USER_CODE,
    keys,
    make_config,
    make_job,
    run,
    wait_for,
)
from trainers.errors import TrainerError
from trainers.executors.local import LocalExecutor
from trainers.fitting.checkpoints import RECORD
from trainers.job import Event, Failed, Finished, FitJob, Outcome, Reported

pytestmark = pytest.mark.usefixtures("warm_templates")
EPOCHS = 6
RESUMED = "went on after epoch 2 of attempt-1"


def config(**changes: Any) -> Any:
    return make_config(model="resumable.Learner", max_epochs=EPOCHS, **changes)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(config(), jobs=1) as executor:
        yield executor


def attempt(root: Path, number: int, **params: Any) -> FitJob:
    job = make_job(root / f"attempt-{number}", first_attempt="killed", **params)
    earlier = tuple(str(root / f"attempt-{before}") for before in range(1, number))
    return replace(job, earlier=earlier)


def trained(root: Path, number: int) -> list[int]:
    """The epochs that an attempt trained."""
    return [int(epoch) for epoch in (root / f"attempt-{number}" / "trained").read_text().split()]


def outcome_of(events: list[Event]) -> Outcome:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1].outcome


def weights(checkpoint: str | None) -> Any:
    import torch

    assert checkpoint is not None
    return torch.load(checkpoint, weights_only=False)["state_dict"]


def killed(executor: LocalExecutor, root: Path, **params: Any) -> None:
    *reports, end = run(executor, attempt(root, 1, **params))
    assert isinstance(end, Failed) and end.kind == "killed", end
    assert [report.epoch for report in reports if isinstance(report, Reported)] == [0, 1, 2]


@pytest.mark.parametrize("habit", ["", "plateau", "manual", "keeps_its_own", "likes_objects"])
def test_it_ends_as_if_it_had_not_been_interrupted(
    executor: LocalExecutor, tmp_path: Path, habit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.syspath_prepend(USER_CODE)  # for the hyperparameters that are objects
    killed(executor, tmp_path, habit=habit)
    resumed = run(executor, attempt(tmp_path, 2, habit=habit))
    assert trained(tmp_path, 2) == [3, 4, 5]
    whole = run(executor, replace(attempt(tmp_path, 2, habit=habit), directory=str(tmp_path / "whole"), earlier=()))
    assert [(event.epoch, event.value, event.metrics) for event in resumed if isinstance(event, Reported)] == [
        (event.epoch, event.value, event.metrics) for event in whole if isinstance(event, Reported)
    ]
    mine, theirs = outcome_of(resumed), outcome_of(whole)
    assert (mine.value, mine.best_epoch, mine.epochs) == (theirs.value, theirs.best_epoch, theirs.epochs)
    assert (mine.notes, theirs.notes) == ((RESUMED,), ())
    restored, uninterrupted = weights(mine.checkpoint), weights(theirs.checkpoint)
    assert all(torch.equal(restored[name], weight) for name, weight in uninterrupted.items())


def test_the_best_epoch_of_an_earlier_attempt_stays_the_best(executor: LocalExecutor, tmp_path: Path) -> None:
    killed(
        executor, tmp_path, habit="worsens"
    )  # only its first epoch is saved: the others are no better, and soon over
    outcome = outcome_of(run(executor, attempt(tmp_path, 2, habit="worsens")))
    assert outcome.notes == ("went on after epoch 0 of attempt-1",)
    assert (outcome.value, outcome.best_epoch, outcome.epochs) == (0.0, 0, EPOCHS)
    import torch

    assert outcome.checkpoint is not None
    assert torch.load(outcome.checkpoint, weights_only=True)["epoch"] == 0


def test_a_damaged_checkpoint_is_passed_over_with_a_notice(executor: LocalExecutor, tmp_path: Path) -> None:
    killed(executor, tmp_path)
    newest = tmp_path / "attempt-1" / "epoch-2.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    outcome = outcome_of(run(executor, attempt(tmp_path, 2)))
    assert trained(tmp_path, 2) == [2, 3, 4, 5]
    assert "epoch 2 is not used: epoch-2.ckpt is damaged" in outcome.notes[0]


def test_a_model_that_has_changed_since_begins_anew(executor: LocalExecutor, tmp_path: Path) -> None:
    killed(executor, tmp_path, habit="grown")
    outcome = outcome_of(run(executor, attempt(tmp_path, 2, habit="grown")))
    assert trained(tmp_path, 2)[-6:] == list(range(EPOCHS))
    assert "begins anew: the checkpoint of epoch 2 is not used, because" in outcome.notes[-1]
    assert "layer.3" in outcome.notes[-1]


def test_a_checkpoint_that_is_no_checkpoint_begins_anew(executor: LocalExecutor, tmp_path: Path) -> None:
    """Its digest holds, and yet nothing can be made of it."""
    import hashlib

    killed(executor, tmp_path)
    folder = tmp_path / "attempt-1"
    for name in ("epoch-1.ckpt", "epoch-2.ckpt"):
        (folder / name).unlink()
        (folder / name).write_bytes(b"not a checkpoint")
    (folder / "best.ckpt").unlink()
    record = json.loads((folder / RECORD).read_text())
    for kept in record["kept"]:
        for saved in (kept["last"], kept["best"]):
            saved["digest"] = hashlib.sha256(b"not a checkpoint").hexdigest()
    (folder / RECORD).write_text(json.dumps(record))
    outcome = outcome_of(run(executor, attempt(tmp_path, 2)))
    assert trained(tmp_path, 2) == list(range(EPOCHS))
    assert "begins anew" in outcome.notes[-1] and "it cannot be read" in outcome.notes[-1]


def test_a_trial_killed_after_its_last_epoch_trains_nothing_again(executor: LocalExecutor, tmp_path: Path) -> None:
    job = attempt(tmp_path, 1, at_epoch=99)
    assert outcome_of(run(executor, job)).epochs == EPOCHS
    *reports, end = run(executor, attempt(tmp_path, 2, at_epoch=99))
    assert [report.epoch for report in reports if isinstance(report, Reported)] == list(range(EPOCHS))
    assert isinstance(end, Finished)
    assert (end.outcome.epochs, end.outcome.best_epoch) == (EPOCHS, EPOCHS - 1)
    assert not (tmp_path / "attempt-2" / "trained").exists()


def test_what_is_decided_of_the_last_epoch_that_is_told_again_counts(executor: LocalExecutor, tmp_path: Path) -> None:
    killed(executor, tmp_path)
    outcome = outcome_of(run(executor, attempt(tmp_path, 2), prune_at=2))
    assert (outcome.pruned, outcome.epochs) == (True, 3)
    killed(executor, tmp_path / "other")
    outcome = outcome_of(run(executor, attempt(tmp_path / "other", 2), prune_at=1))
    assert (outcome.pruned, outcome.epochs) == (False, EPOCHS)  # it went on after that epoch, and knows more now


def test_it_goes_on_again_and_again(executor: LocalExecutor, tmp_path: Path) -> None:
    key = next(keys)
    executor.launch(key, replace(attempt(tmp_path, 1), params={"first_attempt": "hangs", "at_epoch": 2}))
    wait_for(lambda: _answer(executor, key) == 1, seconds=PATIENCE_SECONDS)
    wait_for((tmp_path / "attempt-1" / "epoch-1.ckpt").exists, seconds=SOON_SECONDS)
    executor.kill(key)
    job = replace(attempt(tmp_path, 2), params={"first_attempt": "hangs", "at_epoch": 2})
    executor.launch(key := next(keys), job)
    wait_for(lambda: _answer(executor, key) == 4, seconds=PATIENCE_SECONDS)
    executor.kill(key)
    third = replace(attempt(tmp_path, 3), params={"first_attempt": "hangs", "at_epoch": 2})
    assert [event.epoch for event in run(executor, third) if isinstance(event, Reported)] == list(range(EPOCHS))
    assert trained(tmp_path, 3)[0] in (3, 4, 5)
    assert not list((tmp_path / "attempt-1").glob("*.ckpt"))


def _answer(executor: LocalExecutor, key: int) -> int:
    """Let the trial go on; the epoch that it reported, or -1."""
    for event in executor.poll(0.1):
        assert isinstance(event, Reported), event
        executor.answer(key, prune=False)
        return event.epoch
    return -1


def test_several_ranks_go_on_together(tmp_path: Path) -> None:
    with LocalExecutor(config(devices=2), jobs=1) as executor:
        key = next(keys)
        executor.launch(key, attempt(tmp_path, 1))
        events: list[Event] = []
        while not events or isinstance(events[-1], Reported):
            for event in executor.poll(1.0):
                events.append(event)
                executor.answer(key, prune=False)
        assert isinstance(events[-1], Failed) and events[-1].kind == "killed"
        resumed = run(executor, attempt(tmp_path, 2))
        whole = run(executor, replace(attempt(tmp_path, 2), directory=str(tmp_path / "whole"), earlier=()))
    assert trained(tmp_path, 2) == [3, 4, 5]
    assert outcome_of(resumed).notes == (RESUMED,)
    assert [event.metrics for event in resumed if isinstance(event, Reported)] == [
        event.metrics for event in whole if isinstance(event, Reported)
    ]


# Out of memory


def test_half_the_batch_is_tried(executor: LocalExecutor, tmp_path: Path) -> None:
    job = replace(attempt(tmp_path, 2, habit="needs_memory", batch_size=32), earlier=())
    *_, end = run(executor, job)
    assert isinstance(end, Failed) and end.kind == "out_of_memory"
    outcome = outcome_of(run(executor, replace(job, halve_batch=True)))
    assert outcome.notes == ("ran with batch_size = 16 and accumulate_grad_batches = 2: it had run out of memory",)


def test_a_batch_of_one_cannot_be_halved(executor: LocalExecutor, tmp_path: Path) -> None:
    *_, end = run(executor, replace(attempt(tmp_path, 2, batch_size=1), earlier=(), halve_batch=True))
    assert isinstance(end, Failed)
    assert "its batch cannot be halved: batch_size = 1" in end.reason


def test_an_allocation_that_fails_is_out_of_memory(executor: LocalExecutor, tmp_path: Path) -> None:
    """Four tebibytes: refused by the kernel."""
    *_, end = run(executor, make_job(tmp_path / "attempt-1", first_attempt="allocates", at_epoch=0))
    assert isinstance(end, Failed)
    assert end.kind == "out_of_memory", end


def test_a_study_without_a_batch_size_cannot_ask_for_half_of_it() -> None:
    with pytest.raises(TrainerError, match="there is no batch to halve"):
        LocalExecutor(make_config(on_out_of_memory="halve_batch"), jobs=1).start()


def test_a_kill_by_hand_is_not_taken_for_the_kernels(executor: LocalExecutor, tmp_path: Path) -> None:
    key = next(keys)
    job = make_job(tmp_path / "attempt-1", first_attempt="hangs", at_epoch=0)
    executor.launch(key, job)
    wait_for((tmp_path / "attempt-1" / "trained").exists, seconds=PATIENCE_SECONDS)
    executor.poll(0.0)
    group = executor._trials[key].group
    assert group is not None
    os.kill(group, signal.SIGKILL)
    (end,) = wait_for(lambda: executor.poll(0.1), seconds=SOON_SECONDS)
    assert isinstance(end, Failed) and end.kind == "killed"
