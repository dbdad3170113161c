"""Which code a study of the service may name."""

from pathlib import Path
from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.service.allowed_code import check_code
from hpo.studies.study_file import parse_spec

SPACE = {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}}


def check(projects: Path, trainer: dict[str, Any], packages: tuple[str, ...] = ()) -> None:
    task = {"name": "digits", "metric": "val_loss", "direction": "minimize"}
    content = {"study": "s", "task": task, "trainer": trainer, "space": SPACE, "budget": {"trials": 1}}
    check_code(parse_spec(content), projects=projects, packages=packages)


def callback(path: str, **arguments: Any) -> dict[str, Any]:
    return {
        "recipe": "digits_mlp/all",
        "arguments": {"callbacks": [{"class_path": path, "init_args": arguments}]},
    }


@pytest.mark.parametrize(
    "path",
    [
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
        "lightning.pytorch.loggers.CSVLogger",
        "torch.optim.AdamW",
        "torch.nn.ReLU",
        "torchmetrics.Accuracy",
        "torchmetrics.classification.Accuracy",
    ],
)
def test_parts_of_lightning_and_torch_may_be_used(path: str, tmp_path: Path) -> None:
    check(tmp_path, callback(path, monitor="val_loss"))


@pytest.mark.parametrize(
    "path",
    [
        "torch.load",
        "torch.os.system",
        "torch.hub.load",
        "torch.nn.os.PathLike",
        "torch.utils.cpp_extension.load_inline",
        "torch.package.PackageImporter",
        "lightning.pytorch.strategies.launchers.subprocess_script.subprocess.Popen",
        "lightning.pytorch.callbacksX.Evil",
        "mine.Callback",
    ],
)
def test_what_runs_other_code_may_not(path: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not allowed"):
        check(tmp_path, callback(path))
    with pytest.raises(SpecError, match="is not allowed"):
        check(tmp_path, {"model": path, "data": path, "max_epochs": 1})


def test_ones_own_modules_and_allowed_packages_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    trainer = {"model": "mine.Net", "data": "theirs.Data", "max_epochs": 1}
    with pytest.raises(SpecError, match=r"trainer\.data\.class_path: 'theirs\.Data' is not allowed"):
        check(tmp_path, trainer)
    check(tmp_path, trainer, packages=("theirs",))
    check(tmp_path, callback("mine.Callback"))
