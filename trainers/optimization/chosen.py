"""Whose optimizer and schedule does a module train with: its own, or those that the study chose for it?

As with LightningCLI's `--optimizer`, a choice of the study takes the place of the module's `configure_optimizers`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from trainers.errors import TrainerError
from trainers.job import ScaleRule, TrainerConfig
from trainers.optimization.optimizers import OPTIMIZERS, check_options, chosen_options, make_optimizer
from trainers.optimization.schedules import SCHEDULES, check_schedule_options, make_schedule

ROLES: dict[str, Collection[str]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
CHECKS = {"optimizer": check_options, "schedule": check_schedule_options}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An optimizer, or a schedule, with its options."""

    name: str
    options: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """What a study says of how a module is trained; None: the module's own."""

    optimizer: Choice | None = None
    schedule: Choice | None = None
    scale_rule: ScaleRule | None = None  # None: nothing is scaled, and nothing told
    scale_batch: int = 256  # that the learning rate is meant for


def chosen_roles(names: Collection[str], *, taken: Collection[str] = ()) -> list[str]:
    """Which of `optimizer` and `schedule` a study chooses, by the names of its parameters.

    It does where there are parameters such as `optimizer.adamw.lr`. A schedule may have no options: a bare `schedule`
    is a choice unless it is `taken`, by a constructor of the user's. Raises ParameterMismatchError for an unknown
    option.
    """
    roles = []
    for role, kinds in ROLES.items():
        dotted = [name.split(".") for name in names if name.startswith(f"{role}.")]
        ours = [parts for parts in dotted if len(parts) == 3 and parts[1] in kinds]
        if role not in names or not (ours or (role == "schedule" and role not in taken)):
            continue
        for _, name, option in ours:
            CHECKS[role](name, [option])
        roles.append(role)
    return roles


def take_choices(
    params: Mapping[str, Any], *, taken: Collection[str], config: TrainerConfig
) -> tuple[Optimization, dict[str, Any]]:
    """What a trial's parameters choose, and the parameters that are left. Raises ParameterMismatchError."""
    left, choices = dict(params), {}
    for role in chosen_roles(params, taken=taken):
        choices[role] = choice = Choice(name=str(params[role]), options=chosen_options(role, params))
        CHECKS[role](choice.name, choice.options)
        left = {name: value for name, value in left.items() if name.partition(".")[0] != role}
    return Optimization(**choices, scale_rule=config.scale_rule, scale_batch=config.scale_batch), left


def impose(model: lightning.LightningModule, optimization: Optimization) -> list[Callback]:
    """Let a module train as the study says. Returns the callbacks that belong to it. Raises TrainerError."""
    if optimization.optimizer is optimization.schedule is None and optimization.scale_rule is None:
        return []
    if not model.automatic_optimization:
        raise TrainerError(
            f"{type(model).__name__} optimizes by hand (automatic_optimization = False), with optimizers of its own: "
            "remove `optimizer`, `schedule` and `scale_lr` from the study"
        )
    own = model.configure_optimizers
    told = _EffectiveBatch(optimization)

    def configure_optimizers(module: lightning.LightningModule) -> Any:
        optimizer = _make_optimizer(module, optimization, own)
        if optimization.scale_rule is not None:
            told.scale(module.trainer, optimizer)
        if optimization.schedule is None:
            return optimizer
        choice = optimization.schedule
        schedule = make_schedule(
            choice.name, optimizer, total_steps=module.trainer.estimated_stepping_batches, **choice.options
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    model.configure_optimizers = MethodType(configure_optimizers, model)  # type: ignore[method-assign]
    return [] if optimization.scale_rule is None else [told]


def _make_optimizer(module: lightning.LightningModule, optimization: Optimization, own: Any) -> Optimizer:
    if optimization.optimizer is not None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return make_optimizer(optimization.optimizer.name, parameters, **optimization.optimizer.options)
    optimizer = own()
    if isinstance(optimizer, Optimizer):
        return optimizer
    what = "`schedule`" if optimization.schedule else "`scale_lr`"
    raise TrainerError(
        f"{what} is for one optimizer without a schedule, and `configure_optimizers` of {type(module).__name__} "
        f"returns {type(optimizer).__name__}: return the optimizer alone, or let the study choose `optimizer` as well"
    )


class _EffectiveBatch(Callback):
    """Scales the learning rate with the batch that a step of the optimizer sees, and tells both each epoch.

    linear: Goyal et al., Accurate, Large Minibatch SGD, 2017; sqrt, for adaptive optimizers: Malladi et al., On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022.
    """

    def __init__(self, optimization: Optimization) -> None:
        self._rule, self._batch = optimization.scale_rule, optimization.scale_batch
        self._told: dict[str, float] = {}

    def scale(self, trainer: lightning.Trainer, optimizer: Optimizer) -> None:
        """Multiply the learning rate of every group of parameters."""
        effective = effective_batch(trainer)
        ratio = effective / self._batch
        factor = {"linear": ratio, "sqrt": ratio**0.5}.get(self._rule or "none", 1.0)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        self._told = {"effective_batch": float(effective), "effective_lr": float(optimizer.param_groups[0]["lr"])}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log them like a metric."""
        pl_module.log_dict(self._told, on_step=False, on_epoch=True, sync_dist=trainer.world_size > 1)


def effective_batch(trainer: lightning.Trainer) -> int:
    """Examples in a step of the optimizer: batch size x processes with data of their own x accumulated batches.

    Processes that share a model's layers (tensor parallelism) see the same batch. Raises TrainerError.
    """
    trainer.fit_loop.setup_data()
    loader = trainer.train_dataloader
    samplers = [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]  # one may make whole batches
    places = (loader, *samplers, getattr(trainer, "datamodule", None))
    sizes = [size for place in places if isinstance(size := getattr(place, "batch_size", None), int)]
    if not sizes:
        raise TrainerError(f"scale_lr cannot tell the batch size of a {type(loader).__name__}: remove `scale_lr`")
    sharing = getattr(trainer.strategy, "distributed_sampler_kwargs", {"num_replicas": 1})
    return sizes[0] * int(sharing["num_replicas"]) * trainer.accumulate_grad_batches
