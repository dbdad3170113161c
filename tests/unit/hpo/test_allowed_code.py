"""Which code a study of the service may name."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.service.allowed_code import KINDS, _names_in, check_code
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


def test_parts_of_lightning_may_be_given_by_their_bare_names(tmp_path: Path) -> None:
    check(tmp_path, callback("EarlyStopping", monitor="val_loss"))
    by_kind = {"logger": {"class_path": "CSVLogger"}, "profiler": {"class_path": "SimpleProfiler"}}
    check(tmp_path, {"recipe": "digits_mlp/all", "arguments": by_kind})


@pytest.mark.parametrize("path", ["Popen", "CSVLogger", "earlystopping", "EarlyStopping\n", "LightningModule", "exit"])
def test_other_bare_names_may_not(path: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="write its whole import path"):
        check(tmp_path, callback(path))


def test_bare_names_are_looked_up_nowhere_but_in_their_place(tmp_path: Path) -> None:
    inner = {"class_path": "EarlyStopping"}
    for arguments in ({"callbacks": [callback("Timer"), {"of": inner}]}, {"enable_model_summary": inner}):
        with pytest.raises(SpecError, match="is not allowed"):
            check(tmp_path, {"recipe": "digits_mlp/all", "arguments": arguments})


def test_a_text_with_dots_that_is_no_import_path_is_a_text(tmp_path: Path) -> None:
    check(tmp_path, callback("lightning.pytorch.callbacks.EarlyStopping", monitor="val.loss", name="exp.v1"))
    for text in ("os.system", "json:loads", "yaml.load", "hpo.service.state", "torch.load", "test.v1"):
        with pytest.raises(SpecError, match="is not allowed"):
            check(tmp_path, callback("lightning.pytorch.callbacks.LambdaCallback", on_fit_start=text))


def test_the_bare_names_are_those_that_lightning_exports() -> None:
    for room in KINDS.values():
        assert _names_in(room) == set(import_module(room).__all__)
