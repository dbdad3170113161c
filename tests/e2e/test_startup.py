"""Do questions start fast: without torch, Lightning or MLflow?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from hpo import HistoryStorage

HEAVY = "torch lightning mlflow pandas sklearn matplotlib ray"


def loaded_modules(code: str, folder: Path) -> set[str]:
    """Which of the heavy packages a piece of code imports."""
    report = f"import sys; print('LOADED', *[name for name in {HEAVY!r}.split() if name in sys.modules])"
    wrapped = f"try:\n    exec({code!r})\nexcept SystemExit as end:\n    assert not end.code\nfinally:\n    {report}"
    done = subprocess.run(
        [sys.executable, "-c", wrapped], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["tune", "--help"], ["studies"], ["show", "past"], ["stats", "value-"], ["recipes"]]
)
def test_commands_that_only_ask_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    storage = HistoryStorage(f"sqlite:///{tmp_path / 'hpo.db'}")
    study = optuna.create_study(storage=storage, study_name="past")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    if arguments[0] == "stats":
        from storage import history

        arguments = ["stats", history.get_study(storage.store, "past").family]
    command = ["hpo", *arguments]
    assert loaded_modules(f"import sys; sys.argv = {command!r}\nfrom hpo.cli import main\nmain()", tmp_path) == set()


def test_importing_hpo_and_its_sampler_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_modules("import hpo", tmp_path) == set()
    assert loaded_modules("from hpo import HistorySampler, HistoryStorage, tune", tmp_path) == set()
