"""What goes with a study that is deleted, and what stays? The history of it goes; files, and runs in MLflow, stay.

They go too where that is asked for: the folder of its checkpoints and outputs, and its runs, which MLflow marks as
deleted. MLflow is asked first whether it is there, so that a study whose runs cannot be deleted stays whole.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import MlflowUnavailableError
from hpo.running.attempts import study_folder
from storage import history, launches
from storage.audit import Doer
from storage.database import Store
from storage.masking import without_secrets
from storage.mlflow_deletion import clients_for, mark_deleted, runs_of_study

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What became of what belonged to a study that was deleted."""

    study: str
    trials: int
    folder: str | None  # of its checkpoints and outputs; None: it has none here
    is_folder_removed: bool
    mlflow_uris: tuple[str, ...]  # where it has runs, without secrets
    mlflow_runs: int  # of the study and of its trials
    are_runs_deleted: bool


def delete_study(
    store: Store,
    study_id: int,
    *,
    runs: Path,
    with_files: bool = False,
    with_mlflow_runs: bool = False,
    doer: Doer | None = None,
) -> Deletion:
    """Delete a study with its trials, and what else is asked for. runs: where the folders of studies are.

    Raises StudyNotFoundError; LaunchError while it or a trial of it runs; MlflowUnavailableError, with nothing deleted.
    """
    study = history.study_of_id(store, study_id)
    folder = study_folder(runs, study.name, store_url=store.url, created_at=study.created_at)
    known = runs_of_study(store, study_id)
    shown = tuple(map(without_secrets, known))
    try:
        clients = clients_for(known) if with_mlflow_runs else {}
    except Exception as error:  # MLflow raises what its server, its database or the network do
        log.warning("MLflow at %s: %s", ", ".join(shown), without_secrets(str(error)))
        raise MlflowUnavailableError(
            f"MLflow at {', '.join(shown)} does not answer, so its runs cannot be deleted; nothing was. Leave them, or "
            "try again later"
        ) from None
    launches.remove_study(store, study_id, doer=doer)
    done = [_deleted(client, known[uri]) for uri, client in clients.items()]
    is_there = folder.is_dir() and not folder.is_symlink()
    if is_there and with_files:
        shutil.rmtree(folder, ignore_errors=True)  # follows no links
    return Deletion(
        study=study.name,
        trials=study.trials,
        folder=str(folder) if is_there else None,
        is_folder_removed=is_there and not folder.exists(),
        mlflow_uris=shown,
        mlflow_runs=sum(map(len, known.values())),
        are_runs_deleted=bool(done) and all(done),
    )


def _deleted(client: MlflowClient, run_ids: list[str]) -> bool:
    try:
        mark_deleted(client, run_ids)
    except Exception as error:  # as above; the study is gone by now, and the log says what is left
        log.warning("of the runs %s in MLflow some are left: %s", ", ".join(run_ids), without_secrets(str(error)))
        return False
    return True
