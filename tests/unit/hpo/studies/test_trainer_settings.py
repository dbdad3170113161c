"""What do the trainers get of a study file, and of the config of a LightningCLI project?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.errors import SpecError
from hpo.studies.study_file import parse_spec
from hpo.studies.trainer_settings import describe_data, trainer_config
from trainers.job import TrainerConfig

CONTENT = {
    "task": {"name": "t", "metric": "val_loss", "direction": "minimize"},
    "space": {
        "depth": {"type": "int", "low": 2, "high": 4, "when": {"kind": "deep"}},
        "kind": {"type": "categorical", "choices": ["flat", "deep"]},
        "lr": {"type": "float", "low": 0.1, "high": 0.2},
    },
    "budget": {"trials": 1},
}


def settings(folder: Path, **trainer: Any) -> TrainerConfig:
    return trainer_config(parse_spec({**CONTENT, "trainer": trainer}), folder=folder)


def write(folder: Path, **content: Any) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def test_a_project_settles_what_the_study_file_leaves_open(tmp_path: Path) -> None:
    write(tmp_path, trainer={"devices": "2", "num_nodes": 3, "strategy": "ddp"})
    config = settings(tmp_path, cli="config.yaml")
    assert (config.devices, config.nodes, config.strategy) == (2, 3, {"name": "ddp"})
    assert (config.cli, config.max_epochs, config.model) == (str(tmp_path / "config.yaml"), None, None)
    said = settings(tmp_path, cli="config.yaml", devices=1, nodes=1, strategy="fsdp", max_epochs=4)
    assert (said.devices, said.nodes, said.strategy, said.max_epochs) == (1, 1, {"name": "fsdp"}, 4)


@pytest.mark.parametrize("devices", ["auto", -1, None, [0], "all"])
def test_a_trial_gets_one_device_of_a_project_that_takes_all(tmp_path: Path, devices: Any) -> None:
    write(tmp_path, trainer={"devices": devices, "strategy": {"class_path": "x.Y"}})
    config = settings(tmp_path, cli="config.yaml")
    assert (config.devices, config.strategy) == (1, {"name": "auto"})


def test_a_project_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"trainer.cli: there is no file config.yaml in {tmp_path} or"):
        settings(tmp_path, cli="config.yaml")
    (tmp_path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(SpecError, match="a LightningCLI config is a mapping of keys"):
        settings(tmp_path, cli="config.yaml")


def test_data_are_those_that_the_config_names(tmp_path: Path) -> None:
    write(tmp_path, data={"class_path": "m.Data", "init_args": {"n": 3}})
    spec = parse_spec({**CONTENT, "trainer": {"cli": "config.yaml"}})
    assert describe_data(spec, folder=tmp_path) == {"class_path": "m.Data", "init_args": {"n": 3}}
    assert describe_data(parse_spec({**CONTENT, "trainer": {"function": "m.train"}}), folder=tmp_path) is None


def test_a_function_may_be_silent_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, function="m.train").stall_minutes == math.inf
    assert settings(tmp_path, function="m.train", stall_minutes=5).stall_minutes == 5
    assert settings(tmp_path, model="m.Net", max_epochs=1).stall_minutes == 30


def test_one_configuration_is_tried_at_the_start(tmp_path: Path) -> None:
    assert settings(tmp_path, model="m.Net", max_epochs=1).sample == {"kind": "flat", "lr": 0.1}


def test_learning_rates_are_scaled_as_the_file_says(tmp_path: Path) -> None:
    config = settings(tmp_path, model="m.Net", max_epochs=1, scale_lr={"rule": "sqrt", "batch": 64})
    assert (config.scale_rule, config.scale_batch) == ("sqrt", 64)
    assert settings(tmp_path, model="m.Net", max_epochs=1).scale_rule is None
