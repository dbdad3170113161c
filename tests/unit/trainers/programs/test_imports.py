"""Which classes do the import paths of a study name, and what is said when they name none?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainers.errors import ModelImportError
from trainers.job import TrainerConfig
from trainers.programs.imports import import_user_classes

SOURCE = """
import lightning
import lightning.pytorch as pl

class Net(lightning.LightningModule):
    class Inner(pl.LightningModule): ...

class LightningModule: ...
class Foreign(LightningModule): ...
class Plain: ...
class Data(lightning.LightningDataModule): ...
net = Plain()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "some_net", SOURCE)
    return tmp_path


def write(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source)
    sys.modules.pop(name, None)


def import_model(path: str, data: str | None = None) -> str:
    classes = import_user_classes(TrainerConfig(model=path, data=data, max_epochs=1))
    return classes.model.__qualname__ + (f" {classes.data.__qualname__}" if classes.data else "")


def message_of(path: str, data: str | None = None) -> str:
    with pytest.raises(ModelImportError) as caught:
        import_model(path, data)
    return str(caught.value)


def test_both_ways_to_write_a_path() -> None:
    assert import_model("some_net.Net") == "Net"
    assert import_model("some_net:Net.Inner", "some_net:Data") == "Net.Inner Data"


@pytest.mark.parametrize("path", ["Net", "", "some_net.", ".Net", "some_net:", "some net.Net", "../x.Net", "a:b:c"])
def test_what_is_no_path_at_all(path: str) -> None:
    assert message_of(path) == f"model {path!r} is not an import path such as `package.module.Class`"


def test_what_is_not_there(folder: Path) -> None:
    assert message_of("no_net.Net").startswith(
        f"cannot import model 'no_net.Net': no module named 'no_net' in {folder}"
    )
    assert message_of("some_net.Nett").endswith("'some_net' has no class 'Nett'; it has Net")


def test_what_is_no_lightning_module() -> None:
    assert message_of("some_net.Plain") == "model 'some_net.Plain' is not a LightningModule: it is a subclass of object"
    assert message_of("some_net.net").endswith("it is a Plain, not a class")
    assert message_of("some_net.Net", "some_net.Net").startswith("data module 'some_net.Net' is not a LightningData")
    assert "write `import lightning` and subclass `lightning.LightningModule`" in message_of("some_net.Foreign")


def test_an_import_that_raises_shows_where(folder: Path) -> None:
    write(folder, "broken_net", "def f():\n    return 1 / 0\nf()\n")
    message = message_of("broken_net.Net")
    first, *rest = message.splitlines()
    assert first == "cannot import model 'broken_net.Net': ZeroDivisionError: division by zero"
    assert "return 1 / 0" in message
    assert len(rest) <= 6
    assert "importlib" not in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class Net(:", "SyntaxError"),
    ],
)
def test_an_import_that_fails_in_other_ways(folder: Path, source: str, expected: str) -> None:
    write(folder, "failing_net", source)
    assert expected in message_of("failing_net.Net")
