"""A user's project in a folder of its own, and the command line run on it as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.cli import main
from storage.schema import Store
from tests.warm_python import WarmPython

MODELS = '''
"""A user's own code; it knows nothing of Hindsight."""
import time
import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Line(L.LightningDataModule):
    def __init__(self, batch_size: int = 16, n: int = 64):
        super().__init__()
        self.save_hyperparameters()

    def _loader(self):
        x = torch.linspace(-1, 1, self.hparams.n).unsqueeze(1)
        return DataLoader(TensorDataset(x, 3 * x + 1), batch_size=self.hparams.batch_size)

    def train_dataloader(self):
        return self._loader()

    def val_dataloader(self):
        return self._loader()


class Net(L.LightningModule):
    def __init__(self, lr: float = 0.1, optimizer: str = "sgd", momentum: float = 0.0, nap: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        loss = torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch):
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1]))

    def on_train_epoch_start(self):
        time.sleep(self.hparams.nap)

    def configure_optimizers(self):
        if self.hparams.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=self.hparams.momentum)
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class Raises(Net):
    def training_step(self, batch):
        raise RuntimeError("the sensor is unplugged")


class RaisesAtTimes(Net):
    def on_fit_start(self):
        if self.hparams.lr > 0.01:
            raise RuntimeError("the sensor is unplugged")


class Diverges(Net):
    def validation_step(self, batch):
        self.log("val_loss", torch.tensor(float("nan")))


class Offset(Net):
    """Its loss is its parameter, whatever it learns."""

    def __init__(self, offset: float, nap: float = 0.0):
        super().__init__(nap=nap)
        self.offset = offset

    def validation_step(self, batch):
        self.log("val_loss", torch.tensor(self.offset))


class NotAModule:
    def __init__(self, lr: float = 0.1):
        pass
'''

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.5, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
    "batch_size": {"type": "int", "low": 8, "high": 32, "log": True},
}


@dataclass(frozen=True, kw_only=True)
class Project:
    """A folder with the user's module and study files, and another from which the commands are run."""

    code: Path
    work: Path
    python: WarmPython

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.work / 'hpo.db'}"

    @property
    def mlflow(self) -> str:
        return f"sqlite:///{self.work / 'mlflow.db'}"

    def study(self, name: str, **changes: Any) -> Path:
        """Write a study file; `changes` replace top-level keys."""
        content = {
            "study": name,
            "task": {"name": name, "metric": "val_loss", "direction": "minimize"},
            "trainer": {"model": "user_models.Net", "data": "user_models.Line", "max_epochs": 3},
            "space": SPACE,
            "budget": {"trials": 4},
            **changes,
        }
        path = self.code / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def trainer(self, model: str, nap: float = 0.0, max_epochs: int = 3) -> dict[str, Any]:
        """The `trainer:` section for one of the user's classes."""
        return {
            "model": {"class_path": f"user_models.{model}", "init_args": {"nap": nap} if nap else {}},
            "data": "user_models.Line",
            "max_epochs": max_epochs,
        }

    def environment(self, mlflow: str) -> Mapping[str, str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HPO_", "MLFLOW_"))}
        return {**environment, "HPO_STORAGE": self.storage, "MLFLOW_TRACKING_URI": mlflow}

    def start(self, *arguments: str | Path, mlflow: str = "none") -> subprocess.Popen[str]:
        """Start `hpo ARGUMENTS` in the working folder, as a shell does."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpo", *map(str, arguments)],
            cwd=self.work,
            env=self.environment(mlflow),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hpo(self, *arguments: str | Path, mlflow: str = "none", code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `hpo ARGUMENTS` to its end and check its exit code; no error may come unforeseen."""
        words = ["-m", "hpo", *map(str, arguments)]
        done = self.python.run(words, folder=self.work, environment=self.environment(mlflow), timeout=240)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "unforeseen" not in done.stderr, done.stderr
        assert "Traceback" not in done.stdout, done.stdout
        return done

    def json(self, *arguments: str | Path, **options: Any) -> Any:
        """The JSON that `hpo ARGUMENTS --json` prints."""
        return json.loads(self.hpo(*arguments, "--json", **options).stdout)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell that runs tests in the background has them ignore Ctrl-C, and all that they start: not here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path, warm_python: WarmPython) -> Project:
    code, work = tmp_path / "their project", tmp_path / "elsewhere"
    code.mkdir()
    work.mkdir()
    (code / "user_models.py").write_text(MODELS)
    return Project(code=code, work=work, python=warm_python)


# The command line in this process, on a small history

Hpo = Callable[..., tuple[str, str]]


@pytest.fixture
def hpo(
    sqlite_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Hpo:
    """`hpo ARGUMENTS`, run in this process; what it printed on standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPO_STORAGE", f"sqlite:///{tmp_path / 'history.db'}")

    def run(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["hpo", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            main()
        signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, f"{out}\n{err}"
        assert "unforeseen" not in err, err
        return out, err

    return run


def answer(hpo: Hpo, *arguments: str | Path, code: int = 0) -> Any:
    return json.loads(hpo(*arguments, "--json", code=code)[0])
