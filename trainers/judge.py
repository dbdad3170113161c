"""What is made of each epoch: is it the best, what is told, does the trial go on?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from trainers.checkpoints import save
from trainers.devices import peak_memory_bytes
from trainers.job import BEST_CHECKPOINT, FailureKind, FitJob, Outcome

EPOCHS_WITHOUT_METRIC = 10  # heuristic: validated epochs after which a metric never seen is taken for a wrong name


class FitError(Exception):
    """A fit that ran but has no valid result."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


class Report(Protocol):
    """Tells what an epoch came to. The answer: is the trial to be pruned?"""

    def __call__(self, *, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        """Called once an epoch that logged something, on global rank 0; value: None if the metric was not among it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What rank 0 makes of an epoch, told to every rank."""

    value: float | None = None  # None: the metric was not logged in this epoch
    is_best: bool = False
    failure: tuple[FailureKind, str] | None = None


class EpochJudge(Checkpoint):
    """After each epoch: keeps the best checkpoint, reports, and stops a pruned trial on every rank at once.

    Being a `Checkpoint`, Lightning calls it after the user's own hooks and callbacks have logged. Only global rank 0
    judges and reports; every rank knows the outcome.
    """

    def __init__(self, job: FitJob, *, threads: int, report: Report) -> None:
        self._job = job
        self._threads = threads
        self._report = report
        self._checkpoint = Path(job.directory, BEST_CHECKPOINT)
        self._started = time.monotonic()
        self._waited_seconds = 0.0
        self._logged: dict[str, torch.Tensor] = {}  # what Lightning knows at the end of this epoch
        self._told: dict[str, torch.Tensor] = {}  # what it knew when it was last told
        self._best: tuple[float, int] | None = None  # value and epoch
        self._epochs = 0
        self._has_validated = False
        self._epochs_without_metric = 0
        self._pruned = False
        self._outcome: Outcome | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Prepare this rank."""
        torch.set_num_threads(self._threads)  # not before ranks are forked: OpenMP's threads do not survive a fork

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remember that there was a chance to log."""
        self._has_validated |= not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Judge the epoch on rank 0; act on the verdict on every rank."""
        self._epochs = trainer.current_epoch + 1
        self._logged = dict(trainer.callback_metrics)  # by every rank: to read what is logged with sync_dist joins them
        verdict = trainer.strategy.broadcast(self._judge(trainer) if trainer.is_global_zero else Verdict())
        if verdict.failure:
            raise FitError(*verdict.failure)
        if verdict.is_best and verdict.value is not None:
            self._best = (verdict.value, trainer.current_epoch)
            save(trainer, self._checkpoint)
        if verdict.value is None:
            if trainer.is_global_zero and (news := self._news()):
                self._tell(trainer, None, news)
        elif trainer.strategy.broadcast(self._is_to_be_pruned(trainer, verdict.value)):
            self._pruned = True
            stop_now(trainer)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note how the fit came out."""
        if self._best is None:
            raise FitError("missing_metric", self._how_it_is_missing())
        value, best_epoch = self._best
        self._outcome = Outcome(
            value=value,
            best_epoch=best_epoch,
            epochs=self._epochs,
            seconds=time.monotonic() - self._started - self._waited_seconds,
            peak_memory_bytes=peak_memory_bytes(pl_module.device),
            checkpoint=str(self._checkpoint),
            pruned=self._pruned,
        )

    def outcome(self) -> Outcome:
        """How the fit came out. Raises FitError."""
        if self._outcome is None:
            raise FitError("exception", "the fit ended before it trained an epoch")
        return self._outcome

    def _judge(self, trainer: lightning.Trainer) -> Verdict:
        logged = self._logged.get(self._job.metric)
        if logged is None:
            return self._judge_missing(trainer)
        if logged is self._told.get(self._job.metric):  # that of an earlier epoch: Lightning keeps it until the next
            return Verdict()
        value = float(logged)
        if not math.isfinite(value):
            return Verdict(failure=("nan", f"{self._job.metric} is {value} in epoch {trainer.current_epoch}"))
        sign = 1 if self._job.direction == "minimize" else -1
        is_best = self._best is None or sign * value < sign * self._best[0]
        return Verdict(value=value, is_best=is_best)

    def _judge_missing(self, trainer: lightning.Trainer) -> Verdict:
        if self._has_validated or not trainer.enable_validation:
            self._epochs_without_metric += 1
        if self._epochs_without_metric < EPOCHS_WITHOUT_METRIC:
            return Verdict()
        return Verdict(failure=("missing_metric", self._how_it_is_missing()))

    def _how_it_is_missing(self) -> str:
        logged = ", ".join(sorted(self._logged)) or "nothing"
        return f"{self._job.metric} was not logged in {self._epochs} epochs; logged: {logged}"

    def _is_to_be_pruned(self, trainer: lightning.Trainer, value: float) -> bool:
        return trainer.is_global_zero and self._tell(trainer, value, self._news())

    def _news(self) -> dict[str, float]:
        """The numbers that were logged since they were last told."""
        return {
            name: float(logged)
            for name, logged in self._logged.items()
            if logged.numel() == 1 and logged is not self._told.get(name)
        }

    def _tell(self, trainer: lightning.Trainer, value: float | None, metrics: dict[str, float]) -> bool:
        """Whether the trial is to be pruned."""
        self._told = self._logged
        asked = time.monotonic()
        is_to_be_pruned = self._report(epoch=trainer.current_epoch, value=value, metrics=metrics)
        self._waited_seconds += time.monotonic() - asked
        return is_to_be_pruned


def stop_now(trainer: lightning.Trainer) -> None:
    """End the fit after this epoch, even where `min_epochs` or `min_steps` ask for more."""
    trainer.should_stop = True
    trainer.fit_loop.min_epochs = 0
    trainer.fit_loop.epoch_loop.min_steps = 0
