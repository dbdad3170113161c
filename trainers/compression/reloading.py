"""How does a trained model come back from its checkpoint, to be judged, measured, trained on or exported?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback

from trainers.compression.hashing import share_weights
from trainers.compression.settings import split_params
from trainers.errors import CompressionError
from trainers.job import FitJob, TrainerConfig
from trainers.programs.functions import FunctionProgram
from trainers.programs.loading import Program
from trainers.programs.memory import halve_batch
from trainers.ranks.strategies import without_strategy
from trainers.trust import CheckpointError, may_be_read_as_weights

NOT_OURS = frozenset(
    {
        *("accelerator", "devices", "num_nodes", "strategy", "plugins", "use_distributed_sampler"),
        *("callbacks", "logger", "profiler", "enable_checkpointing", "fast_dev_run", "barebones", "default_root_dir"),
        *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"),
        *("check_val_every_n_epoch", "val_check_interval"),
    }
)  # arguments of a study's Trainer that mean its fit, not what comes after it
HERE_ALONE: dict[str, Any] = {
    "plugins": [LightningEnvironment()],  # whatever launched the fit: this is one process on one device
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model with its data, on one device; its weights come from a checkpoint."""

    model: lightning.LightningModule
    data: lightning.LightningDataModule | None
    arguments: Mapping[str, Any]  # of the Trainer

    def validate(self, checkpoint: Path | None = None) -> dict[str, float]:
        """What the model's own validation logs, after its weights are read from a checkpoint where one is given."""
        return self._validate(checkpoint, self.arguments)

    def read(self, checkpoint: Path) -> None:
        """Take the weights from a checkpoint. Raises CompressionError where it is another model's."""
        self._validate(checkpoint, {**self.arguments, "limit_val_batches": 0})

    def train(self, epochs: int) -> None:
        """Train on, with the model's own optimizer from its start."""
        trainer = lightning.Trainer(**{**self.arguments, "max_epochs": epochs, "limit_val_batches": 0})
        trainer.fit(self.model, datamodule=self.data)

    def first_batch(self) -> Any:
        """Of the validation, which has run; None where there is none."""
        loaders = self.model.trainer.val_dataloaders
        if isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        loader: Iterable[Any] = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders or ()
        return next(iter(loader), None)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.trainer.strategy.root_device

    def _validate(self, checkpoint: Path | None, arguments: Mapping[str, Any]) -> dict[str, float]:
        trainer = lightning.Trainer(**arguments)
        weights_only = None if checkpoint is None else self._is_plain(checkpoint)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks")  # those of the fit
            trainer.validate(self.model, self.data, ckpt_path=checkpoint, verbose=False, weights_only=weights_only)
        return {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}

    def _is_plain(self, checkpoint: Path) -> bool | None:
        try:
            return may_be_read_as_weights(checkpoint, self.model)
        except CheckpointError as error:  # not one that a trial would go on from: it must not begin anew
            raise CompressionError(f"the checkpoint {checkpoint} is not used, because {error}") from error


class _Pulse(Callback):
    def __init__(self, pulse: Callable[[], None]) -> None:
        self._pulse = pulse

    def on_train_batch_start(self, *_: Any) -> None:
        self._pulse()

    def on_validation_batch_start(self, *_: Any) -> None:
        self._pulse()


def make_model(
    program: Program,
    config: TrainerConfig,
    job: FitJob,
    *,
    hash_ratio: float = 1.0,
    data: lightning.LightningDataModule | None = None,
    devices: int | list[int] = 1,
    pulse: Callable[[], None] = lambda: None,
) -> TrainedModel:
    """The model of a trial, whose weights `validate` or `read` takes from its checkpoint.

    hash_ratio: with which it was trained. data: another data module than its own. devices: as the Trainer's.
    pulse: called with every batch, as a sign of life.
    Raises CompressionError where the program is a function, and whatever the user's code raises.
    """
    if isinstance(program, FunctionProgram):
        raise CompressionError(
            f"{config.subject} is a function, whose model nobody else can make again: "
            "what is to be compressed, measured or registered must be a LightningModule"
        )
    left, _ = split_params(job.params)
    params = {name: left[name] for name in without_strategy(left)}
    if job.halve_batch:
        params, _ = halve_batch(program, params)
    arguments: dict[str, Any] = {}

    def complete(given: Mapping[str, Any]) -> dict[str, Any]:
        arguments.update({name: value for name, value in given.items() if name not in NOT_OURS} | HERE_ALONE)
        arguments.update(accelerator=config.accelerator, devices=devices, default_root_dir=job.directory)
        arguments.update(callbacks=[_Pulse(pulse)])
        return dict(arguments)

    lightning.seed_everything(job.seed, workers=True, verbose=False)
    parts = program.make(params, complete, seed=job.seed, directory=job.directory)
    if hash_ratio < 1:
        share_weights(parts.model, hash_ratio)
    return TrainedModel(model=parts.model, data=data or parts.data, arguments=arguments)
