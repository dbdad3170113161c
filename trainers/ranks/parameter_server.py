"""How do workers train one model through a server that holds its parameters, without waiting for each other?

A worker computes the gradients of its share of the data and pushes them; the server takes a step of the module's own
optimizer with them and answers with what the parameters are now. Meanwhile others may have pushed: by how many steps
the gradients came late is logged as `staleness`. For models that are small beside their batches: each step sends all.
Dean et al., Large Scale Distributed Deep Networks, NIPS 2012 (Downpour SGD).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import rpc
from torch.distributed.rpc import _is_current_rpc_agent_set  # type: ignore[attr-defined]
from torch.optim import Optimizer

from trainers.errors import TrainerError
from trainers.ranks.forked import is_rank

SERVER = "parameter_server"
STALENESS = "staleness"  # the metric's name

Tensors = list[torch.Tensor]
Groups = list[dict[str, Any]]


# The server


class _Held:
    """What the server's process holds. Calls come from threads."""

    def __init__(self) -> None:
        self.optimizers: list[Optimizer] = []
        self.steps = 0
        self.lock = threading.Lock()


_held = _Held()


def serve(workers: int, *, seconds: float) -> NoReturn:
    """Be the server until the process is ended. seconds: the longest that a call may take."""
    _join(SERVER, rank=workers, workers=workers, seconds=seconds)
    while True:
        threading.Event().wait()


def _adopt(packed: bytes) -> None:
    """Hold the parameters of these optimizers from now on."""
    optimizers = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)  # a rank of this trial sent it
    with _held.lock:
        _held.optimizers, _held.steps = optimizers, 0


def _push(index: int, gradients: dict[int, torch.Tensor], groups: Groups, seen: int) -> tuple[Tensors, int, int]:
    """Take a step. seen: steps that the worker's parameters had seen. Returns parameters, steps and staleness."""
    with _held.lock:
        optimizer = _held.optimizers[index]
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(settings)  # the worker's schedule may have changed the learning rate
        for number, parameter in enumerate(_parameters(optimizer)):
            parameter.grad = gradients.get(number)
        optimizer.step()
        staleness = _held.steps - seen
        _held.steps += 1
        return _copies(_parameters(optimizer)), _held.steps, staleness


def _pull() -> tuple[list[Tensors], int]:
    with _held.lock:
        return [_copies(_parameters(optimizer)) for optimizer in _held.optimizers], _held.steps


def _state(index: int) -> dict[str, Any]:
    with _held.lock:
        return _held.optimizers[index].state_dict()


# The workers


class ParameterServerStrategy(DDPStrategy):
    """Workers that share nothing but the server, except where a metric is reduced or a decision is told.

    They meet where Lightning lets them: at a validation, before which each takes the newest parameters.
    """

    def __init__(self, timeout: timedelta, process_group_backend: str | None = None) -> None:
        super().__init__(timeout=timeout, process_group_backend=process_group_backend)
        self._seconds = timeout.total_seconds()
        self._seen = 0
        self.staleness = 0

    def setup_environment(self) -> None:
        """Join the other workers, and the server."""
        if not is_rank():
            raise TrainerError("strategy 'parameter_server' trains on one machine, and not under torchrun or srun")
        super().setup_environment()
        if not _is_current_rpc_agent_set():  # else by an earlier fit of this process
            _join(f"worker{self.global_rank}", rank=self.global_rank, workers=self.world_size, seconds=self._seconds)

    def configure_ddp(self) -> None:
        """The model is not wrapped: gradients are not shared."""
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:
            raise TrainerError("strategy 'parameter_server' needs automatic optimization, and the model steps by hand")

    def setup(self, trainer: lightning.Trainer) -> None:
        """Have the staleness logged."""
        super().setup(trainer)
        trainer.callbacks.insert(0, _LogStaleness(self))  # type: ignore[attr-defined]

    def on_train_start(self) -> None:
        """Hand the optimizers over, restored as they may be, and take the parameters back."""
        if self.is_global_zero:
            with _told("the optimizer cannot be sent to the parameter server"):
                packed = io.BytesIO()
                torch.save(self.optimizers, packed)
                self._call(_adopt, packed.getvalue())
        self.barrier()
        self._take()

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: lightning.LightningModule | torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """As Lightning's, but the step itself is the server's."""
        remote: Any = _RemoteOptimizer(optimizer, self._push)
        return super().optimizer_step(remote, closure, model, **kwargs)

    def on_validation_start(self) -> None:
        """All judge the same model."""
        super().on_validation_start()
        self.barrier()
        if self._seen:  # else it is the sanity check, before the training
            self._take()
            assert self.model is not None
            for buffer in self.model.buffers():  # such as running means, which each worker has its own of
                dist.broadcast(buffer, src=0)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is saved is newest."""
        if self._seen:
            self._take()
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state is at the server; rank 0 saves it."""
        if not self._seen or not self.is_global_zero:
            return super().optimizer_state(optimizer)
        state: dict[str, Any] = self._call(_state, self.optimizers.index(optimizer))
        return state

    def _push(self, optimizer: Optimizer) -> None:
        gradients = {
            number: parameter.grad.detach().cpu()
            for number, parameter in enumerate(_parameters(optimizer))
            if parameter.grad is not None
        }
        if not gradients:
            return  # the batch was skipped
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        index = self.optimizers.index(optimizer)
        parameters, self._seen, self.staleness = self._call(_push, index, gradients, groups, self._seen)
        _fill(_parameters(optimizer), parameters)

    def _take(self) -> None:
        """Take the newest parameters."""
        all_parameters, self._seen = self._call(_pull)
        for optimizer, parameters in zip(self.optimizers, all_parameters, strict=True):
            _fill(_parameters(optimizer), parameters)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return rpc.rpc_sync(SERVER, function, args=args, timeout=self._seconds)


class _RemoteOptimizer:
    """An optimizer whose step is taken elsewhere; all else is the local one's."""

    def __init__(self, optimizer: Optimizer, push: Callable[[Optimizer], None]) -> None:
        self._optimizer = optimizer
        self._push = push

    def step(self, closure: Callable[[], Any], **_: Any) -> Any:
        """Compute the gradients, and push them."""
        loss = closure()
        self._push(self._optimizer)
        self._optimizer._opt_called = True  # type: ignore[attr-defined]  # else schedules warn that no step was taken
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


class _LogStaleness(Callback):
    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self._strategy = strategy

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        pl_module.log(
            STALENESS, float(self._strategy.staleness), on_step=False, on_epoch=True, sync_dist=True, batch_size=1
        )


# Both


def _join(name: str, *, rank: int, workers: int, seconds: float) -> None:
    # By sockets: shared memory, which it would choose on one machine, is polled by a spinning thread of each process.
    options = rpc.TensorPipeRpcBackendOptions(rpc_timeout=seconds, _transports=["uv"], _channels=["basic"])
    rpc.init_rpc(name, rank=rank, world_size=workers + 1, rpc_backend_options=options)  # type: ignore[no-untyped-call]


def _parameters(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _copies(tensors: Iterator[torch.Tensor]) -> Tensors:
    return [tensor.detach().clone() for tensor in tensors]


def _fill(tensors: Iterator[torch.Tensor], values: Tensors) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise TrainerError(f"{what}: {error}") from error
