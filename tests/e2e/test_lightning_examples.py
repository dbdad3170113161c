"""Are modules tuned that know nothing of Hindsight, written as Lightning's own examples are?

They are in tests/examples/lightning_modules, each with a study file, and are copied from there unchanged.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import optuna
import pytest
import torch

import hpo
from tests.warm_python import WarmPython

pytestmark = pytest.mark.usefixtures("warm_templates")
EXAMPLES = Path(__file__).parents[1] / "examples" / "lightning_modules"


def tune(example: str, folder: Path) -> optuna.Study:
    """Two trials of an example's study, with everything in a copy of its folder."""
    shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    study = hpo.tune(
        folder / "study.yaml",
        storage=f"sqlite:///{folder / 'hpo.db'}",
        mlflow="none",
        runs=folder / "runs",
        trials=2,
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    return study


def checkpoints(folder: Path) -> list[Path]:
    found = sorted((folder / "runs").rglob("best.ckpt"))
    assert len(found) == 2
    return found


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lightning_cli_project_over_the_keys_of_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tune("autoencoder", tmp_path)
    assert set(study.trials[0].params) >= {"model.learning_rate", "data.batch_size", "trainer.gradient_clip_val"}
    values = [trial.value for trial in study.trials]
    assert all(value is not None and 0 < value < 0.2 for value in values)
    assert values[0] != values[1]
    kept = torch.load(checkpoints(tmp_path)[1], weights_only=True)
    assert kept["state_dict"]["encoder.0.weight"].shape[0] == study.trials[1].params["model.hidden_dim"]


def test_the_project_also_runs_without_us(warm_python: WarmPython, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "autoencoder", tmp_path, dirs_exist_ok=True)
    words = ["main.py", "fit", "-c", "config.yaml", "--trainer.max_epochs=1"]
    done = warm_python.run(words, folder=tmp_path, environment=os.environ, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "`max_epochs=1` reached" in done.stderr + done.stdout


def test_a_gan_that_optimizes_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tune("gan", tmp_path)
    assert all(len(trial.intermediate_values) == 5 for trial in study.trials)
    path = checkpoints(tmp_path)[1]
    kept = torch.load(path, weights_only=True)
    assert len(kept["optimizer_states"]) == 2  # the generator's and the discriminator's
    gan = import_file(tmp_path / "gan.py").GAN.load_from_checkpoint(path)
    assert gan.hparams.latent_dim == study.trials[1].params["latent_dim"]
    images = gan(torch.randn(3, gan.hparams.latent_dim))
    assert images.shape == (3, 1, 8, 8) and images.abs().max() <= 1


def test_a_language_model_on_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tune("transformer", tmp_path)
    assert all(trial.value is not None and trial.value < 3.0 for trial in study.trials)
    kept = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    assert kept["loops"]["fit_loop"]["epoch_progress"]["total"]["completed"] > 0
    batches = kept["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
    assert batches == 7 * (kept["epoch"] + 1)  # of 200 pieces in batches of 16, half for each rank
