"""What is made of each epoch, or each validation: is it the best, what is told, does the trial go on?

Big models are trained for one epoch, or a number of steps, with many validations (`trainer.report: validation`). What
is said of epochs below is then said of validations, counted from 0.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from trainers.devices.choice import peak_memory_bytes
from trainers.fitting.checkpoints import Keeper
from trainers.job import BEST_CHECKPOINT, FailureKind, FitJob, Outcome, ReportAfter
from trainers.reports import FitError, Report

SAVE_SECONDS = 1.0  # an epoch that ends sooner after the last one that was saved is only saved if it is the best
EPOCHS_WITHOUT_METRIC = 10  # heuristic: validated epochs after which a metric never seen is taken for a wrong name

PLAIN_STATE = (
    "`state_dict` and `on_save_checkpoint` of the model, its data and callbacks are to hold numbers and tensors"
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What rank 0 makes of an epoch, told to every rank."""

    value: float | None = None  # None: the metric was not logged in this epoch
    is_best: bool = False
    is_saved: bool = False  # so that the trial can go on from there
    failure: tuple[FailureKind, str] | None = None


class EpochJudge(Checkpoint):
    """After each epoch: saves a checkpoint, reports, and stops a pruned trial on every rank at once.

    Being a `Checkpoint`, Lightning calls it after the user's own hooks and callbacks have logged. Only global rank 0
    judges and reports; every rank knows the outcome. What it knows is part of each checkpoint: a trial that goes on
    from one reports the earlier epochs again, for each attempt at a trial has a curve of its own.
    """

    def __init__(
        self,
        job: FitJob,
        *,
        threads: int,
        after: ReportAfter,
        report: Report,
        pulse: Callable[[], None],
        keeper: Keeper,
    ) -> None:
        self._job = job
        self._after = after
        self._threads = threads
        self._report = report
        self._pulse = pulse
        self._keeper = keeper
        self._checkpoint = Path(job.directory, BEST_CHECKPOINT)
        self._started = time.monotonic()
        self._waited_seconds = 0.0
        self._seconds_before = 0.0  # of earlier attempts, up to the checkpoint
        self._peak_memory_bytes = 0
        self._saved_at = -math.inf  # monotonic time
        self._curve: list[tuple[int, float | None, dict[str, float]]] = []  # what was reported; on rank 0
        self._is_to_tell_again = False
        self._logged: dict[str, torch.Tensor] = {}  # what Lightning knows at the end of this epoch
        self._told: dict[str, torch.Tensor] = {}  # what it knew when it was last told
        self._best: tuple[float, int] | None = None  # value and epoch
        self._epochs = 0
        self._judged_step = -1  # the optimizer's, at which a validation was judged
        self._has_validated = False
        self._epochs_without_metric = 0
        self._pruned = False
        self._outcome: Outcome | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Prepare this rank."""
        torch.set_num_threads(self._threads)  # not before ranks are forked: OpenMP's threads do not survive a fork

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Show that the trial makes steps."""
        if trainer.is_global_zero:
            self._pulse()

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Show that the trial makes steps."""
        if trainer.is_global_zero:
            self._pulse()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remember that there was a chance to log; judge the validation, where those are what counts."""
        if trainer.sanity_checking:
            return
        self._has_validated = True
        if self._after == "validation" and trainer.global_step > self._judged_step:  # else it is done once more
            self._judged_step = trainer.global_step
            self._conclude(trainer, pl_module, self._epochs)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Judge the epoch, unless validations are what counts."""
        if self._after == "epoch" and trainer.current_epoch >= self._epochs:
            # with `max_steps`, Lightning ends the epoch of a checkpoint once more before it trains the next
            self._conclude(trainer, pl_module, trainer.current_epoch)

    def _conclude(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int) -> None:
        """Judge on rank 0; act on the verdict on every rank."""
        self._epochs = epoch + 1
        self._logged = dict(trainer.callback_metrics)  # by every rank: to read what is logged with sync_dist joins them
        verdict = trainer.strategy.broadcast(self._judge(trainer, epoch) if trainer.is_global_zero else Verdict())
        if verdict.failure:
            raise FitError(*verdict.failure)
        if verdict.is_best and verdict.value is not None:
            self._best = (verdict.value, epoch)
        news = self._news() if trainer.is_global_zero else {}
        if news:
            self._curve.append((epoch, verdict.value, news))
        if verdict.is_saved:
            self._save(trainer, pl_module, epoch, is_best=verdict.is_best)
        is_to_be_pruned = bool(news) and self._tell(epoch, verdict.value, news)
        self._told = self._logged
        if verdict.value is not None and trainer.strategy.broadcast(is_to_be_pruned):
            self._pruned = True
            stop_now(trainer)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report again what earlier attempts did."""
        self._tell_again(trainer)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note how the fit came out."""
        self._tell_again(trainer)  # where the checkpoint was the last epoch's, no training starts
        self._keeper.settle()
        if self._best is None:
            raise FitError("missing_metric", self._how_it_is_missing())
        value, best_epoch = self._best
        self._outcome = Outcome(
            value=value,
            best_epoch=best_epoch,
            epochs=self._epochs,
            seconds=self._seconds(),
            peak_memory_bytes=self._peak_memory(pl_module),
            checkpoint=str(self._checkpoint),
            pruned=self._pruned,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "best": self._best,
            "epochs": self._epochs,
            "judged_step": self._judged_step,
            "curve": self._curve,
            "seconds": self._seconds(),
            "peak_memory_bytes": self._peak_memory_bytes,
            "has_validated": self._has_validated,
            "epochs_without_metric": self._epochs_without_metric,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what an earlier attempt knew when it saved the checkpoint."""
        self._best, self._epochs, self._curve = state_dict["best"], state_dict["epochs"], state_dict["curve"]
        self._judged_step = state_dict["judged_step"]
        self._seconds_before = state_dict["seconds"]
        self._peak_memory_bytes = state_dict["peak_memory_bytes"]
        self._has_validated = state_dict["has_validated"]
        self._epochs_without_metric = state_dict["epochs_without_metric"]
        self._is_to_tell_again = True

    def outcome(self) -> Outcome:
        """How the fit came out. Raises FitError."""
        if self._outcome is None:
            raise FitError("exception", "the fit ended before it trained an epoch")
        return self._outcome

    def _judge(self, trainer: lightning.Trainer, epoch: int) -> Verdict:
        logged = self._logged.get(self._job.metric)
        if logged is None:
            return self._judge_missing(trainer)
        is_due = time.monotonic() - self._saved_at > SAVE_SECONDS
        if logged is self._told.get(self._job.metric):  # that of an earlier epoch: Lightning keeps it until the next
            return Verdict(is_saved=is_due)
        value = float(logged)
        if not math.isfinite(value):
            return Verdict(failure=("nan", f"{self._job.metric} is {value} in {self._after} {epoch}"))
        sign = 1 if self._job.direction == "minimize" else -1
        is_best = self._best is None or sign * value < sign * self._best[0]
        return Verdict(value=value, is_best=is_best, is_saved=is_best or is_due)

    def _judge_missing(self, trainer: lightning.Trainer) -> Verdict:
        if self._has_validated or not trainer.enable_validation:
            self._epochs_without_metric += 1
        if self._epochs_without_metric < EPOCHS_WITHOUT_METRIC:
            return Verdict(is_saved=time.monotonic() - self._saved_at > SAVE_SECONDS)
        return Verdict(failure=("missing_metric", self._how_it_is_missing()))

    def _how_it_is_missing(self) -> str:
        logged = ", ".join(sorted(self._logged)) or "nothing"
        return f"{self._job.metric} was not logged in {self._epochs} {self._after}s; logged: {logged}"

    def _save(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, epoch: int, *, is_best: bool
    ) -> None:
        self._peak_memory(pl_module)
        try:
            trainer.save_checkpoint(self._keeper.draft(epoch), weights_only=False)  # by every rank, each with its part
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            if "pickle" not in str(error):
                raise
            raise FitError("exception", f"its checkpoint cannot be saved: {error}; {PLAIN_STATE}") from error
        if trainer.is_global_zero:
            self._keeper.keep(epoch, is_best=is_best)
        self._saved_at = time.monotonic()

    def _news(self) -> dict[str, float]:
        """The numbers that were logged since they were last told."""
        return {
            name: float(logged)
            for name, logged in self._logged.items()
            if logged.numel() == 1 and logged is not self._told.get(name)
        }

    def _tell_again(self, trainer: lightning.Trainer) -> None:
        """Only the answer to the last epoch counts: what was decided of the others, the checkpoint is witness of."""
        if not self._is_to_tell_again:
            return
        self._is_to_tell_again = False
        is_to_be_pruned = False
        if trainer.is_global_zero:
            for epoch, value, metrics in self._curve:
                is_to_be_pruned = self._tell(epoch, value, metrics) and value is not None
        if trainer.strategy.broadcast(is_to_be_pruned):
            self._pruned = True
            stop_now(trainer)

    def _tell(self, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        """Whether the trial is to be pruned."""
        asked = time.monotonic()
        is_to_be_pruned = self._report(epoch=epoch, value=value, metrics=metrics)
        self._waited_seconds += time.monotonic() - asked
        return is_to_be_pruned

    def _seconds(self) -> float:
        """Of the fit till now, without waiting for answers; of earlier attempts, what the checkpoint holds."""
        return self._seconds_before + time.monotonic() - self._started - self._waited_seconds

    def _peak_memory(self, pl_module: lightning.LightningModule) -> int:
        self._peak_memory_bytes = max(self._peak_memory_bytes, peak_memory_bytes(pl_module.device))
        return self._peak_memory_bytes


def stop_now(trainer: lightning.Trainer) -> None:
    """End the fit after this epoch, even where `min_epochs` or `min_steps` ask for more."""
    trainer.should_stop = True
    trainer.fit_loop.min_epochs = 0
    trainer.fit_loop.epoch_loop.min_steps = 0
