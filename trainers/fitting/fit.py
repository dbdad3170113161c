"""One Lightning fit, which reports each epoch and can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from trainers.compression.settings import split_params
from trainers.compression.steps import compression_of_trial, finish, prepare
from trainers.devices.choice import choose_devices
from trainers.fitting.checkpoints import FROM_THE_BEGINNING, Keeper, Start, identity_of
from trainers.fitting.continuation import Continuation
from trainers.fitting.judge import EpochJudge
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.programs import Complete, LightningProgram
from trainers.programs.components import listed
from trainers.programs.memory import halve_batch
from trainers.ranks.strategies import choose_strategy, strategy_settings, without_strategy
from trainers.reports import Report
from trainers.trust import CheckpointError, may_be_read_as_weights

TRAINER_DEFAULTS: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
MEANT_AS_NONE = ("check_val_every_n_epoch",)  # validations are then so many batches apart, whatever the epochs


def fit(
    program: LightningProgram,
    config: TrainerConfig,
    job: FitJob,
    *,
    slot: int,
    report: Report,
    pulse: Callable[[], None],
    start: Start = FROM_THE_BEGINNING,
) -> Outcome:
    """Train one configuration.

    slot: which of the trials that run side by side this is; it decides the devices.
    start: the checkpoint to go on from; should the model not take it over, the trial begins anew and says so.
    Raises FitError, TrainerError, and whatever the user's code raises.
    """
    try:
        return _fit(program, config, job, slot=slot, report=report, pulse=pulse, start=start)
    except CheckpointError as error:
        begin = start.refused(error)
    return _fit(program, config, job, slot=slot, report=report, pulse=pulse, start=begin)


def _fit(
    program: LightningProgram,
    config: TrainerConfig,
    job: FitJob,
    *,
    slot: int,
    report: Report,
    pulse: Callable[[], None],
    start: Start,
) -> Outcome:
    """Raises CheckpointError where the trial cannot go on from the checkpoint, besides."""
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    identity, earlier = identity_of(config, job), [Path(folder) for folder in job.earlier]
    keeper = Keeper(Path(job.directory), identity=identity, earlier=earlier)
    judge = EpochJudge(job, threads=config.threads, after=config.report, report=report, pulse=pulse, keeper=keeper)
    continuation = Continuation()
    settings = strategy_settings(config, job.params)
    complete = completion(config, [continuation, judge], strategy=settings, directory=job.directory, slot=slot)
    params, _ = split_params({name: job.params[name] for name in without_strategy(job.params)})
    notes = start.notices
    if job.halve_batch:
        params, note = halve_batch(program, params)
        notes += (note,)
    parts = program.make(params, complete, seed=job.seed, directory=job.directory)
    compression = compression_of_trial(config, job)
    prepare(parts, compression)
    weights_only = None if start.checkpoint is None else may_be_read_as_weights(start.checkpoint, parts.model)
    try:
        parts.trainer.fit(parts.model, datamodule=parts.data, ckpt_path=start.checkpoint, weights_only=weights_only)
    except Exception as error:
        if start.checkpoint is not None and not continuation.has_begun:
            raise CheckpointError(f"the trial cannot go on from it ({type(error).__name__}: {error})") from error
        raise
    outcome, devices = replace(judge.outcome(), notes=notes), choose_devices(config, slot=slot)
    if not parts.trainer.is_global_zero:
        return outcome
    return finish(program, config, job, outcome, compression, devices=devices, pulse=pulse)


def completion(
    config: TrainerConfig, callbacks: list[Callback], *, strategy: Mapping[str, Any], directory: str, slot: int
) -> Complete:
    """What adds ours to a program's own arguments of the Trainer: defaults, where it runs, and callbacks."""

    def complete(arguments: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in arguments.items() if value is not None or name in MEANT_AS_NONE}
        return {
            **{"max_epochs": config.max_epochs, "logger": False, **TRAINER_DEFAULTS, **given},
            "accelerator": config.accelerator if config.accelerator != "auto" else given.get("accelerator", "auto"),
            "devices": choose_devices(config, slot=slot),
            "num_nodes": config.nodes,
            "strategy": choose_strategy(config, strategy),
            "callbacks": [*listed(given, "callbacks"), *callbacks],
            "enable_checkpointing": True,  # one of our callbacks keeps checkpoints: false would be an error
            "default_root_dir": directory,
        }

    return complete
