"""How do the processes of one trial work together?

A study names a strategy, and options of it, as Lightning calls them; the space may choose among them as `strategy.x`.
However Lightning would start the ranks (`ddp_spawn`, `ddp_fork`), here the trial's process forks them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from trainers.errors import TrainerError
from trainers.job import TrainerConfig
from trainers.processes.watchdog import COLLECTIVE_MARGIN_SECONDS
from trainers.ranks import communication
from trainers.ranks.communication import CommunicatingDDPStrategy, Communication
from trainers.ranks.forked import is_rank
from trainers.ranks.parameter_server import ParameterServerStrategy, serve

ROLE = "strategy."  # how parameters of a space begin that are settings of the strategy
OURS: dict[str, type[ParallelStrategy]] = {
    "tensor_parallel": ModelParallelStrategy,
    "model_parallel": ModelParallelStrategy,
    "parameter_server": ParameterServerStrategy,
}  # names beside those of Lightning's registry
USUAL = ("auto", "ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3", *OURS)
FIXED = {
    *("self", "kwargs", "accelerator", "parallel_devices", "cluster_environment", "checkpoint_io", "precision_plugin"),
    *("timeout", "start_method", "communication", "ddp_comm_state", "ddp_comm_hook", "ddp_comm_wrapper"),
    *("model_averaging_period", "module", "device_ids", "output_device", "process_group", "device_mesh"),
}  # arguments that follow from elsewhere, or are no plain data
# The hook of PowerSGD sends anew whenever something has come. With several buckets gloo's ranks do so in different
# orders, and wait for each other for ever; with one, however large, there is one order.
ONE_BUCKET_MB = 2**20
WHOLE_CHECKPOINTS: dict[type[Strategy], dict[str, Any]] = {
    ModelParallelStrategy: {"save_distributed_checkpoint": False},
}  # so that a checkpoint is one file, whatever the strategy
SHARDED_BY: dict[type[Strategy], tuple[str | None, Any]] = {
    DeepSpeedStrategy: (None, None),
    FSDPStrategy: ("state_dict_type", "sharded"),
    ModelParallelStrategy: ("save_distributed_checkpoint", True),
}  # where it is a folder nevertheless: by which value of which option; None: always


def strategy_settings(config: TrainerConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The name and options of a trial's strategy: the study's, and over them what the space chose."""
    chosen = {name.removeprefix(ROLE): value for name, value in params.items() if name.startswith(ROLE)}
    return {"name": "auto", **config.strategy, **chosen}


def without_strategy(names: Collection[str]) -> list[str]:
    """The names of parameters that are none of the strategy's."""
    return [name for name in names if not name.startswith(ROLE)]


def settings_to_try(config: TrainerConfig) -> Iterator[dict[str, Any]]:
    """What is to be tried before a study starts: the fixed settings, and each choice that its space has."""
    names = config.strategy_choices.get("name", [config.strategy.get("name", "auto")])
    for name in names:
        yield {**config.strategy, "name": name}
    for option, choices in config.strategy_choices.items():
        if option != "name":
            takers = [name for name in names if option in _options(_resolved(name, config))]
            yield from ({**config.strategy, "name": name, option: choice} for name in takers for choice in choices)


def check_option_names(config: TrainerConfig, options: Collection[str]) -> None:
    """Whether each option that the space has belongs to a strategy that a trial may have. Raises TrainerError."""
    names = [str(name) for name in config.strategy_choices.get("name", [config.strategy.get("name", "auto")])]
    known = {option for name in names for option in _options(_resolved(name, config))}
    for option in options:
        if option != "name" and option not in known:
            hint = (
                f"known: {_listed(known)}"
                if known
                else "it has none on one device; set `devices: 2` or `strategy: ddp`"
            )
            raise TrainerError(f"strategy.{option} is no option of {', '.join(names)}; {hint}")


def check_whole_checkpoints(config: TrainerConfig, settings: Mapping[str, Any], *, is_compressed: bool) -> None:
    """Whether what is done with the best model can read its checkpoint, which must be one file. Raises TrainerError."""
    if not (is_compressed or config.is_measured):
        return
    name = _resolved(settings["name"], config)
    cls, _ = _class_of(name)
    for kind, (option, sharded) in SHARDED_BY.items():
        if issubclass(cls, kind) and (option is None or settings.get(option) == sharded):
            cause = "trainer.compress" if is_compressed else "task.against"
            instead = "use ddp or fsdp" if option is None else f"remove the strategy's `{option}`"
            raise TrainerError(
                f"{cause}: the best model is read from a checkpoint of one file, and strategy {name!r} shards it "
                f"over many: {instead}, or remove `{cause}`"
            )


def check_model(config: TrainerConfig, settings: Mapping[str, Any], model: type[LightningModule] | None) -> None:
    """Whether a model can be divided as the strategy does it; None: nothing is known of it. Raises TrainerError."""
    cls, _ = _class_of(_resolved(settings["name"], config))
    is_silent = model is not None and model.configure_model is LightningModule.configure_model
    if is_silent and issubclass(cls, ModelParallelStrategy):
        raise TrainerError(
            f"strategy {settings['name']!r} divides a model as its `configure_model` says, and {config.subject} has "
            "none: write one that parallelizes the layers by `self.device_mesh`, or use ddp or fsdp"
        )


def count_ranks(config: TrainerConfig) -> int:
    """Processes of this machine that share a trial's training; 1: the trial's process trains itself."""
    return config.devices


def server_of(config: TrainerConfig, settings: Mapping[str, Any]) -> Callable[[], None] | None:
    """What a process beside the ranks is to do, where the strategy has one."""
    if settings["name"] != "parameter_server":
        return None
    return partial(serve, config.devices, seconds=_timeout(config).total_seconds())


def choose_strategy(config: TrainerConfig, settings: Mapping[str, Any]) -> str | Strategy:
    """How the ranks of a trial work together, whoever started them. Raises TrainerError."""
    name = _resolved(settings["name"], config)
    options = {option: value for option, value in settings.items() if option != "name"}
    _check(name, options, config)
    cls, implied = _class_of(name)
    if not issubclass(cls, ParallelStrategy):
        return name
    if _communicates(cls):
        talk = Communication(**{option: options.pop(option) for option in communication.OPTIONS if option in options})
        make: Callable[..., Strategy] = partial(CommunicatingDDPStrategy, talk)
        if talk.communication == "powersgd" and not _has_gpus(config):
            options["bucket_cap_mb"] = ONE_BUCKET_MB
    else:
        make = cls
    return _made(name, make, {**implied, **_environment(cls, config), **options})


def _made(name: str, make: Callable[..., Strategy], arguments: Mapping[str, Any]) -> Strategy:
    try:
        strategy = make(**arguments)
    except Exception as error:  # Lightning and torch say in many ways what they do not take
        raise TrainerError(f"strategy {name!r}: {error}") from error
    if is_rank() and isinstance(strategy, ParallelStrategy):
        strategy.cluster_environment = LightningEnvironment()  # else SLURM's would be found in a job of SLURM
    return strategy


def _environment(cls: type[Strategy], config: TrainerConfig) -> dict[str, Any]:
    """The arguments that the trial's circumstances give."""
    if "timeout" not in inspect.signature(cls.__init__).parameters:
        return {}
    return {"timeout": _timeout(config)}


def _timeout(config: TrainerConfig) -> timedelta:
    """How long ranks wait for each other."""
    return timedelta(seconds=config.stall_minutes * 60 + COLLECTIVE_MARGIN_SECONDS)


def _check(name: str, options: Mapping[str, Any], config: TrainerConfig) -> None:
    ranks = config.devices * config.nodes
    cls, _ = _class_of(name)
    if ranks > 1 and name != "auto" and not issubclass(cls, ParallelStrategy):
        raise TrainerError(f"strategy {name!r} trains on one device, and the trial has {ranks}")
    if ranks == 1 and issubclass(cls, ParameterServerStrategy):
        raise TrainerError("strategy 'parameter_server' is for several workers: set `devices` to 2 or more")
    if options.get("communication") == "bf16" and not _has_gpus(config):
        raise TrainerError("communication = 'bf16' needs GPUs with NCCL; on other devices use fp16")
    if options.get("communication") == "powersgd" and "bucket_cap_mb" in options and not _has_gpus(config):
        raise TrainerError("communication = 'powersgd' sends all in one bucket without GPUs: remove `bucket_cap_mb`")
    known = _options(name)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {_listed(known)}"
            raise TrainerError(f"strategy {name!r} has no option {option!r}; {hint}")


def _has_gpus(config: TrainerConfig) -> bool:
    return config.accelerator != "cpu" and torch.cuda.device_count() > 0


def _resolved(name: Any, config: TrainerConfig) -> str:
    if name == "auto" and config.devices * config.nodes > 1:
        return "ddp"
    return str(name)


def _class_of(name: str) -> tuple[type[Strategy], dict[str, Any]]:
    """A strategy's class, and the arguments that its name implies."""
    if name == "auto":
        return Strategy, {}
    if name in OURS:
        return OURS[name], WHOLE_CHECKPOINTS.get(OURS[name], {})
    if name not in StrategyRegistry:
        known = ["auto", *OURS, *StrategyRegistry]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(USUAL)} and Lightning's others"
        raise TrainerError(f"there is no strategy {name!r}; {hint}")
    entry = StrategyRegistry[name]
    implied = {argument: value for argument, value in entry["init_params"].items() if argument not in FIXED}
    return entry["strategy"], implied


def _options(name: str) -> set[str]:
    """The options that a study file may give a strategy."""
    cls, _ = _class_of(name)
    if not issubclass(cls, ParallelStrategy):
        return set()
    classes: list[Any] = [cls]
    if _communicates(cls):
        classes.append(DistributedDataParallel)
    if issubclass(cls, FSDPStrategy):
        classes.append(FullyShardedDataParallel)
    named = {name for each in classes for name in inspect.signature(each.__init__).parameters} - FIXED
    return named | (set(communication.OPTIONS) if _communicates(cls) else set())


def _communicates(cls: type[Strategy]) -> bool:
    """Whether it is DDP itself, which leaves open how gradients are sent; others are subclasses, too."""
    return cls is DDPStrategy


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
