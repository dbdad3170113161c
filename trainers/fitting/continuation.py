"""How does a trial go on from a checkpoint as if it had never been interrupted?

Lightning restores the model, the optimizers, the loops and most schedules. What is missing is here: where the random
number generators stood, and the schedules on plateaus, which Lightning lets go on after the checkpoint is saved.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from trainers.fitting.random_state import random_state, set_random_state


class Continuation(Checkpoint):
    """Adds to each checkpoint what Lightning leaves out, and restores it.

    Being a `Checkpoint`, Lightning calls it after the user's own hooks. It must come before the one that saves.
    """

    def __init__(self) -> None:
        self.has_begun = False  # the training: what fails before may be the checkpoint's fault
        self._random: list[dict[str, Any]] = []  # of each rank
        self._monitored: dict[str, float] = {}  # what schedules on plateaus will be stepped by
        self._is_to_restore = False

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note where this epoch ends."""
        if self._is_to_restore:
            return  # with `max_steps`, Lightning ends the checkpoint's epoch once more before it trains the next
        self._random = _from_all_ranks(random_state())
        logged = trainer.callback_metrics
        monitored = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        self._monitored = {name: float(logged[name]) for name in monitored if name in logged}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"random": self._random, "monitored": self._monitored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`; acted upon when the training begins."""
        self._random, self._monitored = state_dict["random"], state_dict["monitored"]
        self._is_to_restore = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Step the schedules on plateaus, as the epoch's end would have."""
        self.has_begun = True
        if not self._is_to_restore or not pl_module.automatic_optimization:
            return
        for config in trainer.lr_scheduler_configs:
            is_due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
            if config.reduce_on_plateau and is_due and config.monitor in self._monitored:
                config.scheduler.step(self._monitored[config.monitor])  # type: ignore[arg-type]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let the random numbers go on, before the first batch of the first epoch is drawn."""
        if not self._is_to_restore:
            return
        self._is_to_restore = False
        if len(self._random) == trainer.world_size:
            set_random_state(self._random[trainer.global_rank])
        # Lightning has drawn batches already, with other random numbers and as if it were epoch 0: let it do so again.
        trainer.fit_loop._resuming_from_checkpoint = False


def _from_all_ranks(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states
