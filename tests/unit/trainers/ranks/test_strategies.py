"""Is the strategy the one that was asked for, and does a wrong one say what would be right?"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import pytest
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry

from trainers.errors import TrainerError
from trainers.job import TrainerConfig
from trainers.ranks.communication import CommunicatingDDPStrategy
from trainers.ranks.strategies import (
    check_model,
    check_option_names,
    check_whole_checkpoints,
    choose_strategy,
    server_of,
    settings_to_try,
    strategy_settings,
    without_strategy,
)


def make_config(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"model": "m.M", "max_epochs": 1, "devices": 2, "accelerator": "cpu", **changes})


def choose(name: str = "auto", *, config: TrainerConfig | None = None, **options: Any) -> Any:
    return choose_strategy(config or make_config(), {"name": name, **options})


def test_auto_is_what_the_devices_need() -> None:
    assert choose(config=make_config(devices=1)) == "auto"
    assert isinstance(choose(), CommunicatingDDPStrategy)
    assert isinstance(choose(config=make_config(devices=1, nodes=2)), CommunicatingDDPStrategy)


@pytest.mark.parametrize("name", ["ddp", "ddp_spawn", "ddp_fork_find_unused_parameters_true", "model_parallel"])
def test_ranks_wait_a_little_longer_than_the_watchdog(name: str) -> None:
    strategy = choose(name, config=make_config(stall_minutes=0.5))
    assert strategy._timeout == timedelta(seconds=40)
    assert getattr(strategy, "_start_method", "popen") == "popen"  # whatever the name says, ranks are forked by us


def test_what_a_name_implies_and_what_is_asked_reach_torch() -> None:
    strategy = choose("ddp_find_unused_parameters_true", bucket_cap_mb=3, communication="fp16")
    assert strategy._ddp_kwargs == {"find_unused_parameters": True, "bucket_cap_mb": 3}
    assert choose("tensor_parallel", tensor_parallel_size=2)._tensor_parallel_size == 2
    assert isinstance(choose("tensor_parallel"), ModelParallelStrategy)


@pytest.mark.parametrize("name", StrategyRegistry.available_strategies())
def test_every_name_of_lightning_is_known(name: str) -> None:
    with suppress(TrainerError):  # of devices, or a package that is missing
        choose(name)
    check_option_names(make_config(strategy={"name": name}), [])


@pytest.mark.parametrize(
    ("name", "options", "changes", "reason"),
    [
        ("dpp", {}, {}, "there is no strategy 'dpp'; did you mean ddp"),
        ("horovod", {}, {}, "there is no strategy 'horovod'; known are auto, ddp, fsdp"),
        ("ddp", {"bucket_cap": 1}, {}, "'ddp' has no option 'bucket_cap'; did you mean bucket_cap_mb?"),
        ("ddp", {"colour": 1}, {}, "'ddp' has no option 'colour'; known: averaging_period"),
        ("ddp", {"communication": "fp8"}, {}, "'fp8' is not one of none, fp16, bf16, powersgd, post_local_sgd"),
        ("ddp", {"communication": "bf16"}, {}, "'bf16' needs GPUs with NCCL"),
        ("ddp", {"communication": "powersgd", "bucket_cap_mb": 5}, {}, "remove `bucket_cap_mb`"),
        ("ddp", {"powersgd_rank": 0}, {}, "powersgd_rank = 0 is no whole number from 1 on"),
        ("ddp", {"powersgd_start": 1}, {}, "powersgd_start = 1 is no whole number from 2 on"),
        ("ddp", {"averaging_period": 2.5}, {}, "averaging_period = 2.5 is no whole number"),
        ("fsdp", {"sharding_strategy": "HALF"}, {}, "strategy 'fsdp': .*HALF"),
        ("fsdp", {"communication": "fp16"}, {}, "'fsdp' has no option 'communication'"),
        ("single_device", {}, {}, "'single_device' trains on one device, and the trial has 2"),
        ("parameter_server", {}, {"devices": 1}, "set `devices` to 2 or more"),
        ("parameter_server", {"communication": "fp16"}, {}, "has no option 'communication'; known: process_group"),
    ],
)
def test_what_cannot_be_says_what_would_be_right(
    name: str, options: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TrainerError, match=reason):
        choose(name, config=make_config(**changes), **options)


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="it is installed")
def test_deepspeed_names_its_package() -> None:
    with pytest.raises(TrainerError, match="you must have DeepSpeed installed"):
        choose("deepspeed_stage_2")


def test_what_the_space_chose_wins() -> None:
    config = make_config(strategy={"name": "ddp", "communication": "none"})
    settings = strategy_settings(config, {"lr": 0.1, "strategy.communication": "fp16"})
    assert settings == {"name": "ddp", "communication": "fp16"}
    assert without_strategy({"lr": 0.1, "strategy.communication": "fp16"}) == ["lr"]


def test_each_choice_of_the_space_is_tried_where_it_may_be() -> None:
    config = make_config(
        strategy={"bucket_cap_mb": 2},
        strategy_choices={"name": ["auto", "tensor_parallel"], "communication": ["none", "fp16"]},
    )
    assert list(settings_to_try(config)) == [
        {"name": "auto", "bucket_cap_mb": 2},
        {"name": "tensor_parallel", "bucket_cap_mb": 2},
        {"name": "auto", "bucket_cap_mb": 2, "communication": "none"},
        {"name": "auto", "bucket_cap_mb": 2, "communication": "fp16"},
    ]


def test_options_of_the_space_must_have_a_taker() -> None:
    config = make_config(strategy_choices={"name": ["ddp", "tensor_parallel"]})
    check_option_names(config, ["name", "powersgd_rank", "tensor_parallel_size"])
    with pytest.raises(TrainerError, match=r"strategy.colour is no option of ddp, tensor_parallel"):
        check_option_names(config, ["colour"])
    with pytest.raises(TrainerError, match=r"communication is no option of auto; it has none on one device"):
        check_option_names(make_config(devices=1), ["communication"])


def test_only_the_parameter_server_has_a_server() -> None:
    assert server_of(make_config(), {"name": "ddp"}) is None
    assert server_of(make_config(), {"name": "parameter_server"}) is not None


@pytest.mark.parametrize(
    ("settings", "cause", "instead"),
    [
        ({"name": "deepspeed_stage_2"}, "task.against", "use ddp or fsdp"),
        ({"name": "fsdp", "state_dict_type": "sharded"}, "trainer.compress", "remove the strategy's `state_dict_type`"),
        (
            {"name": "tensor_parallel", "save_distributed_checkpoint": True},
            "task.against",
            "remove the strategy.s `save_distributed",
        ),
    ],
)
def test_a_model_that_is_read_again_is_not_sharded(settings: dict[str, Any], cause: str, instead: str) -> None:
    config = make_config(is_measured=cause == "task.against")
    with pytest.raises(TrainerError, match=f"{cause}: .*shards it over many: {instead}"):
        check_whole_checkpoints(config, settings, is_compressed=cause == "trainer.compress")
    check_whole_checkpoints(make_config(), settings, is_compressed=False)  # nothing reads it
    for whole in ({"name": "fsdp"}, {"name": "auto"}, {"name": "tensor_parallel"}):
        check_whole_checkpoints(config, whole, is_compressed=True)


def test_a_model_that_does_not_say_how_it_is_divided() -> None:
    class Divided(LightningModule):
        def configure_model(self) -> None: ...

    tensor_parallel = {"name": "tensor_parallel"}
    with pytest.raises(TrainerError, match=r"as its `configure_model` says, and 'm\.M' has none"):
        check_model(make_config(), tensor_parallel, LightningModule)
    check_model(make_config(), tensor_parallel, Divided)
    check_model(make_config(), tensor_parallel, None)
    check_model(make_config(), {"name": "fsdp"}, LightningModule)
