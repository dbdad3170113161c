"""One Lightning fit, which reports each epoch and can be pruned."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from trainers.build import Arguments, build, route
from trainers.devices import choose_devices
from trainers.imports import UserClasses
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.judge import EpochJudge, Report
from trainers.strategies import choose_strategy

TRAINER_DEFAULTS: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def fit(classes: UserClasses, config: TrainerConfig, job: FitJob, *, slot: int, report: Report) -> Outcome:
    """Train one configuration.

    slot: which of the trials that run side by side this is; it decides the devices.
    Raises FitError, ParameterMismatchError, and whatever the user's code raises.
    """
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    arguments = route(classes, config, job.params)
    model, data = build(classes, arguments)
    judge = EpochJudge(job, threads=config.threads, report=report)
    trainer = make_trainer(config, arguments, [judge], directory=job.directory, slot=slot)
    trainer.fit(model, datamodule=data)
    return judge.outcome()


def make_trainer(
    config: TrainerConfig, arguments: Arguments, callbacks: list[Callback], *, directory: str, slot: int
) -> lightning.Trainer:
    """The study's own arguments win over our defaults, a trial's parameters over both."""
    return lightning.Trainer(
        **{"max_epochs": config.max_epochs, **TRAINER_DEFAULTS, **arguments.trainer},
        accelerator=config.accelerator,
        devices=choose_devices(config, slot=slot),
        strategy=choose_strategy(config),
        callbacks=callbacks,
        logger=False,
        default_root_dir=directory,
    )
