"""What does a trial run?

A program is imported and checked once, in the process from which trials are forked, and run in each of them. There are
three kinds: a module and its data by import path (`modules.py`), a LightningCLI project (`lightning_cli.py`), which
Lightning both fits, and a function (`functions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import lightning

ACCUMULATED = "accumulate_grad_batches"  # the Trainer's argument
Complete = Callable[[Mapping[str, Any]], dict[str, Any]]  # a program's arguments of the Trainer, with ours


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a Lightning fit takes."""

    model: lightning.LightningModule
    data: lightning.LightningDataModule | None  # None: the model has its own dataloaders
    trainer: lightning.Trainer


class LightningProgram(Protocol):
    """A program that Lightning fits."""

    def check(self, names: Collection[str], complete: Complete) -> None:
        """Whether the settings are sound and every parameter of the space has a place. Raises TrainerError.

        It may start threads or CUDA: to be called in a process that nothing is forked from.
        """

    def make(self, params: Mapping[str, Any], complete: Complete, *, seed: int, directory: str) -> Parts:
        """The parts of one trial, whose seed is set. Raises TrainerError, and whatever the user's code raises."""
        ...

    def accumulates(self, params: Mapping[str, Any]) -> int:
        """Batches in a step of the optimizer of a trial. Raises TrainerError."""
        ...
