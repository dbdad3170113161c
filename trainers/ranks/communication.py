"""What do the ranks of `ddp` tell each other of their gradients, and how often?

`none` is DDP's own all-reduce. `fp16` and `bf16` send half as many bytes. `powersgd` sends a factorisation of low rank
(Vogels et al., PowerSGD, NeurIPS 2019). `post_local_sgd` sends no gradients once it has started, and averages the
weights from time to time (Lin et al., Don't Use Large Mini-Batches, Use Local SGD, ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.nn.parallel import DistributedDataParallel

from trainers.errors import TrainerError

KINDS = ("none", "fp16", "bf16", "powersgd", "post_local_sgd")
FIRST_POWERSGD_STEP = 2  # that torch allows


@dataclass(frozen=True, kw_only=True)
class Communication:
    """The options of a `ddp` strategy that are about communication."""

    communication: str = "none"
    powersgd_rank: int = 1  # of the factors that are sent; more is more exact and slower
    powersgd_start: int = 100  # step from which on gradients are factorised; the first are rough
    local_sgd_start: int = 100  # step from which on each machine goes its own way
    averaging_period: int = 8  # steps from one averaging of the weights to the next

    def __post_init__(self) -> None:
        if self.communication not in KINDS:
            raise TrainerError(f"communication = {self.communication!r} is not one of {', '.join(KINDS)}")
        for name, least in (
            ("powersgd_rank", 1),
            ("powersgd_start", FIRST_POWERSGD_STEP),
            ("local_sgd_start", 0),
            ("averaging_period", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TrainerError(f"{name} = {value!r} is no whole number from {least} on")


OPTIONS = tuple(field.name for field in fields(Communication))


class CommunicatingDDPStrategy(DDPStrategy):
    """DDP with one of our communications. Lightning would register its hook on GPUs only."""

    def __init__(self, communication: Communication, **options: Any) -> None:
        super().__init__(**options)
        self._communication = communication
        self._averager: PeriodicModelAverager | None = None

    def configure_ddp(self) -> None:
        """Wrap the model, and tell the wrapper what to send."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        if (hook := self._hook()) is not None:
            self.model.register_comm_hook(*hook)

    def optimizer_step(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        model: lightning.LightningModule | torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """A step, and what is averaged after it."""
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        if self._averager is not None:
            self._averager.average_parameters(self._trained())
        return output

    def on_validation_start(self) -> None:
        """One model is judged, not one per rank."""
        super().on_validation_start()
        self._average_now()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """One model is saved, not that of rank 0; every rank asks for it."""
        self._average_now()
        return super().lightning_module_state_dict()

    def _hook(self) -> tuple[object, Callable[..., Any]] | None:
        asked = self._communication
        match asked.communication:
            case "fp16":
                return None, fp16_compress_hook
            case "bf16":
                return None, bf16_compress_hook
            case "powersgd":
                return (
                    PowerSGDState(
                        process_group=None,
                        matrix_approximation_rank=asked.powersgd_rank,
                        start_powerSGD_iter=asked.powersgd_start,
                    ),
                    powerSGD_hook,
                )
            case "post_local_sgd":
                return self._start_local_sgd(), post_localSGD_hook
        return None

    def _start_local_sgd(self) -> PostLocalSGDState:
        """Ranks of one machine go on exchanging gradients, where there are several machines."""
        asked = self._communication
        self._averager = PeriodicModelAverager(period=asked.averaging_period, warmup_steps=asked.local_sgd_start)
        shares = self.num_nodes > 1
        subgroups = dist.new_subgroups(group_size=self.num_processes) if shares else [None]  # type: ignore[no-untyped-call]
        return PostLocalSGDState(  # type: ignore[no-untyped-call]
            process_group=None,
            subgroup=subgroups[0],
            start_localSGD_iter=asked.local_sgd_start,
            post_local_gradient_allreduce=shares,
        )

    def _average_now(self) -> None:
        group = dist.group.WORLD  # None once the processes have parted
        if self._averager is not None and group is not None:
            average_parameters(iter(self._trained()), group)

    def _trained(self) -> list[torch.nn.Parameter]:
        assert self.model is not None
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]
