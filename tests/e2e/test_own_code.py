"""Does `hpo tune` run what people have already: a LightningCLI project, a function, a module with callbacks?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Project

CONFIG = {
    "trainer": {
        "max_epochs": 2,
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "their-logs"}},
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss"}}
        ],
    },
    "model": {"class_path": "user_models.Net", "init_args": {"lr": 0.1}},
    "data": {"class_path": "user_models.Line", "init_args": {"batch_size": 16}},
}
FUNCTION = '''
"""Trains without Lightning, saves where it is, and is killed once."""
import os, signal

def train(config, report):
    kept = report.directory / "step"
    first = int(kept.read_text()) if kept.exists() else 0
    for step in range(first, 4):
        kept.write_text(str(step + 1))
        if config["slope"] < 0.5 and not first and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        report(step=step, loss=config["offset"] + config["slope"] * (4 - step), went_on=float(first > 0))
    print("done", config)
'''


def float_range(low: float, high: float) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high}


def states(trials: list[dict[str, Any]]) -> list[str]:
    return [trial["state"] for trial in trials]


@pytest.fixture
def cli(project: Project) -> Project:
    (project.code / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return project


def test_a_lightning_cli_project_as_it_is(cli: Project) -> None:
    space = {
        "model.init_args.lr": {**float_range(1e-3, 0.5), "log": True},
        "data.init_args.batch_size": {"type": "int", "low": 8, "high": 32},
        "trainer.gradient_clip_val": float_range(0.5, 5.0),
    }
    study = cli.study("cli", trainer={"cli": "config.yaml"}, space=space, budget={"trials": 3})
    cli.hpo("tune", study)
    trials = cli.json("show", "cli")["all_trials"]
    assert states(trials) == ["complete"] * 3
    assert all(set(trial["params"]) == set(space) and trial["epochs"] == 2 for trial in trials)
    assert len({trial["value"] for trial in trials}) == 3
    assert all(Path(trial["checkpoint"]).is_file() for trial in trials)
    assert len(list((cli.work / "their-logs").rglob("metrics.csv"))) == 3


def test_a_key_that_the_config_has_not_is_said_before_the_first_trial(cli: Project) -> None:
    study = cli.study("typo", trainer={"cli": "config.yaml"}, space={"model.init_args.rate": float_range(0, 1)})
    refused = cli.hpo("tune", study, code=2)
    assert "config.yaml: model: user_models.Net: Option 'rate' is not accepted" in refused.stderr
    assert cli.json("studies") == []


def test_a_function_that_is_pruned_and_goes_on_after_it_was_killed(project: Project) -> None:
    (project.code / "plain.py").write_text(FUNCTION)
    study = project.study(
        "function",
        task={"name": "function", "metric": "loss", "direction": "minimize"},
        trainer={"function": "plain.train", "arguments": {"slope": 1.0}},
        space={"offset": float_range(0, 9), "slope": {"type": "categorical", "choices": [0.1, 1.0]}},
        budget={"trials": 10},
        pruner={"name": "median", "startup_trials": 2},
    )
    project.hpo("tune", study)
    trials = project.json("show", "function")["all_trials"]
    assert set(states(trials)) == {"complete", "pruned"}
    killed = [trial for trial in trials if trial["attempt"] == 2]
    assert killed
    assert all(trial["params"]["slope"] == 0.1 for trial in killed)
    assert all(max(map(int, trial["intermediate_values"])) == 3 for trial in killed if trial["state"] == "complete")
    for trial in trials:
        last = list(trial["intermediate_values"].values())[-1]
        assert trial["value"] == pytest.approx(last)
        assert last >= trial["params"]["offset"]


def test_optimizers_schedules_and_callbacks_by_name(project: Project) -> None:
    trainer = {
        **project.trainer("Net"),
        "scale_lr": {"rule": "sqrt", "batch": 64},
        "arguments": {"callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"filename": "mine"}}]},
    }
    space = {
        "optimizer": {"type": "optimizer", "choices": ["nesterov", "lion"]},
        "optimizer.lion.lr": float_range(1e-3, 1e-2),
        "schedule": {"type": "schedule"},
    }
    study = project.study("named", trainer=trainer, space=space, budget={"trials": 4}, pruner="none")
    project.hpo("tune", study)
    trials = project.json("show", "named")["all_trials"]
    assert states(trials) == ["complete"] * 4
    for trial in trials:
        chosen = trial["params"]["optimizer"]
        assert {name.split(".")[1] for name in trial["params"] if name.startswith("optimizer.")} == {chosen}
        assert list(Path(trial["checkpoint"]).parent.rglob("mine.ckpt"))
    assert len({trial["params"]["optimizer"] for trial in trials}) == 2
