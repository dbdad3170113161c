"""How does the learning rate change while a trial trains?

Every schedule is stepped after each batch (each step of the optimizer) and ends with the training, so its shape is the
same for 2 epochs and for 200: what it needs is a share of the training, not a number of epochs. The learning rate of
the optimizer is the highest that a schedule reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from trainers.errors import ParameterMismatchError
from trainers.optimization.optimizers import check_choice


@dataclass(frozen=True, kw_only=True)
class _Schedule:
    make: Callable[..., LRScheduler]  # of the optimizer, the total number of steps, and the options
    options: Mapping[str, float]  # with their defaults


def _constant(optimizer: Optimizer, total: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _step(optimizer: Optimizer, total: int, *, gamma: float, drops: int) -> LRScheduler:
    """Multiplied by `gamma` `drops` times, at equal distances."""
    at = [round(total * drop / (drops + 1)) for drop in range(1, drops + 1)]
    return MultiStepLR(optimizer, milestones=at, gamma=gamma)


def _cosine(optimizer: Optimizer, total: int) -> LRScheduler:
    """Half a cosine down to zero: Loshchilov and Hutter, SGDR, ICLR 2017, without restarts."""
    return CosineAnnealingLR(optimizer, T_max=max(1, total))


def _one_cycle(optimizer: Optimizer, total: int, *, warmup: float) -> LRScheduler:
    """From a 25th up and down to almost nothing: Smith and Topin, Super-Convergence, 2018.

    The momentum stays as it is: it may be searched over.
    """
    highest = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=highest, total_steps=total, pct_start=warmup, cycle_momentum=False)


def _warmup(optimizer: Optimizer, total: int, *, warmup: float) -> LRScheduler:
    """Up in a straight line, then constant."""
    return _rise(optimizer, steps=_warmup_steps(total, warmup))


def _warmup_cosine(optimizer: Optimizer, total: int, *, warmup: float) -> LRScheduler:
    """Up in a straight line, then half a cosine down to zero: Goyal et al. 2017 and Loshchilov and Hutter 2017."""
    steps = _warmup_steps(total, warmup)
    parts = [_rise(optimizer, steps=steps), _cosine(optimizer, total - steps)]
    return SequentialLR(optimizer, parts, milestones=[steps])


def _rise(optimizer: Optimizer, *, steps: int) -> LRScheduler:
    """Step i (from 0) has (i + 1) / steps of the learning rate."""
    return LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)


def _warmup_steps(total: int, share: float) -> int:
    return min(max(1, round(share * total)), max(1, total - 1))


SCHEDULES: dict[str, _Schedule] = {
    "constant": _Schedule(make=_constant, options={}),
    "step": _Schedule(make=_step, options={"gamma": 0.1, "drops": 2}),
    "cosine": _Schedule(make=_cosine, options={}),
    "one_cycle": _Schedule(make=_one_cycle, options={"warmup": 0.3}),
    "warmup": _Schedule(make=_warmup, options={"warmup": 0.05}),
    "warmup_cosine": _Schedule(make=_warmup_cosine, options={"warmup": 0.05}),
}


def make_schedule(name: str, optimizer: Optimizer, *, total_steps: float, **options: float) -> LRScheduler:
    """The schedule of that name, to be stepped `total_steps` times, e.g. `make_schedule("cosine", optimizer, ...)`.

    In `configure_optimizers` of a LightningModule:

        schedule = make_schedule("cosine", optimizer, total_steps=self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    Raises ParameterMismatchError for a name or option that there is not, for a share that is none, and where training
    has no end, for which Lightning's total is infinite.
    """
    check_schedule_options(name, options)
    if total_steps < 1 or math.isinf(total_steps):
        raise ParameterMismatchError(
            f"schedule {name} needs to know when training ends, and total_steps = {total_steps}; set `max_epochs`"
        )
    given = {**SCHEDULES[name].options, **options}
    if not 0 < given.get("warmup", 0.5) < 1:
        raise ParameterMismatchError(f"schedule {name}: warmup = {given['warmup']} is no share between 0 and 1")
    return SCHEDULES[name].make(optimizer, int(total_steps), **given)


def check_schedule_options(name: str, options: Iterable[str]) -> None:
    """Whether there is a schedule of that name with these options. Raises ParameterMismatchError."""
    check_choice("schedule", name, options, {each: schedule.options for each, schedule in SCHEDULES.items()})
