"""One Lightning fit, which reports each epoch and can be pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from trainers.components import listed
from trainers.devices import choose_devices
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.judge import EpochJudge, Report
from trainers.programs import Complete, LightningProgram
from trainers.strategies import choose_strategy

TRAINER_DEFAULTS: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def fit(program: LightningProgram, config: TrainerConfig, job: FitJob, *, slot: int, report: Report) -> Outcome:
    """Train one configuration.

    slot: which of the trials that run side by side this is; it decides the devices.
    Raises FitError, TrainerError, and whatever the user's code raises.
    """
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    judge = EpochJudge(job, threads=config.threads, report=report)
    complete = completion(config, [judge], directory=job.directory, slot=slot)
    parts = program.make(job.params, complete, seed=job.seed, directory=job.directory)
    parts.trainer.fit(parts.model, datamodule=parts.data)
    return judge.outcome()


def completion(config: TrainerConfig, callbacks: list[Callback], *, directory: str, slot: int) -> Complete:
    """What adds ours to a program's own arguments of the Trainer: defaults, where it runs, and callbacks."""

    def complete(arguments: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in arguments.items() if value is not None}
        given.pop("enable_checkpointing", None)  # one of our callbacks keeps checkpoints: false would be an error
        return {
            **{"max_epochs": config.max_epochs, "logger": False, **TRAINER_DEFAULTS, **given},
            "accelerator": config.accelerator if config.accelerator != "auto" else given.get("accelerator", "auto"),
            "devices": choose_devices(config, slot=slot),
            "strategy": choose_strategy(config),
            "callbacks": [*listed(given, "callbacks"), *callbacks],
            "default_root_dir": directory,
        }

    return complete
