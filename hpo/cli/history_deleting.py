"""What is said before and after a study is deleted."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from hpo.cli.show import print_json
from hpo.cli.text import visible
from hpo.errors import SettingsError

if TYPE_CHECKING:
    from hpo.running.deletion import Deletion


def confirm(study: str, trials: int, *, files: bool, mlflow_runs: bool) -> None:
    """Ask whether it is meant. Raises SettingsError where nobody can be asked, typer.Abort for a no."""
    also = [what for what, wanted in (("its files", files), ("its runs in MLflow", mlflow_runs)) if wanted]
    what = " and ".join([f"study {visible(study)} with its {_counted(trials)}, their replicates", *also])
    if not sys.stdin.isatty():
        raise SettingsError(f"{what} would be deleted; say --yes, for nobody can be asked here")
    typer.confirm(f"delete {what}, for good?", abort=True, err=True)


def deleted(done: Deletion, *, as_json: bool) -> None:
    """What went, and where the rest is."""
    if as_json:
        print_json(asdict(done))
        return
    went = f"its {_counted(done.trials)}" + (f" and {done.replicates:,} replicates" if done.replicates else "")
    print(f"deleted study {visible(done.study)} with {went}; nothing learns from it any more")
    for folder in done.folders:
        print(f"  files     {'removed' if done.are_folders_removed else 'are still in'} {visible(folder)}")
    if done.mlflow_runs:
        where = ", ".join(map(visible, done.mlflow_uris))
        what = "marked as deleted" if done.are_runs_deleted else "are still"
        print(f"  MLflow    {done.mlflow_runs:,} runs {what} at {where}")


def _counted(trials: int) -> str:
    return f"{trials:,} trial{'' if trials == 1 else 's'}"
