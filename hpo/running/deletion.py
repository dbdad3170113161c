"""What goes with a study that is deleted, and what stays? The history of it and of its replicates goes.

Files, and runs in MLflow, stay, unless they are to go too: the folders of its checkpoints and outputs, and its runs,
which MLflow marks as deleted. It does so first, so that a study whose runs cannot be deleted stays whole, and whoever
deletes it again after whatever came between has all of it deleted.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hpo.errors import MlflowUnavailableError
from hpo.running.attempts import study_folder
from hpo.studies.replicates import study_of_replicates
from storage import history, launches
from storage.audit import Doer
from storage.database import Store
from storage.masking import without_secrets
from storage.mlflow_deletion import clients_for, mark_deleted, runs_of_study
from storage.schema import open_store

log = logging.getLogger(__name__)

Mark: TypeAlias = Callable[[Sequence[int]], None]
"""Has MLflow mark the runs of these studies as deleted. Raises MlflowUnavailableError."""


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What became of what belonged to a study that was deleted."""

    study: str
    trials: int
    replicates: int  # of its trials, which were kept in a study of their own
    folders: tuple[str, ...]  # of checkpoints and outputs, as far as there were some here
    are_folders_removed: bool
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
    mark: Mark | None = None,
) -> Deletion:
    """Delete a study with its trials and their replicates, and what else is asked for.

    runs: where the folders of studies are. mark: None: as `mark_runs` does, here. Raises StudyNotFoundError;
    LaunchError while it or a trial of it runs, or a replicate is trained; MlflowUnavailableError, with nothing deleted
    here. A study that is started while its runs are marked stays; in MLflow they can be restored.
    """
    study = history.study_of_id(store, study_id)
    held = study_of_replicates(store, study)
    whole = [study] if held is None else [study, held]
    ids = [each.study_id for each in whole]
    launches.check_at_rest(store, ids)
    known = _runs_of(store, ids)
    if with_mlflow_runs and known:
        _mark(store, ids) if mark is None else mark(ids)
    launches.remove_study(store, study_id, also=ids[1:], doer=doer)
    folders = [study_folder(runs, each.name, store_url=store.url, created_at=each.created_at) for each in whole]
    there = [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]
    for folder in there if with_files else ():
        shutil.rmtree(folder, ignore_errors=True)  # follows no links
    return Deletion(
        study=study.name,
        trials=study.trials,
        replicates=0 if held is None else held.trials,
        folders=tuple(map(str, there)),
        are_folders_removed=bool(there) and not any(folder.exists() for folder in there),
        mlflow_uris=tuple(map(without_secrets, known)),
        mlflow_runs=sum(map(len, known.values())),
        are_runs_deleted=with_mlflow_runs and bool(known),
    )


def mark_runs(store_url: str, *, study_ids: Sequence[int]) -> None:
    """Have MLflow mark the runs of these studies as deleted. It is imported for that, and asked once for each run."""
    store = open_store(store_url, upgrade=False)
    try:
        _mark(store, study_ids)
    finally:
        store.dispose()


def _mark(store: Store, study_ids: Sequence[int]) -> None:
    known = _runs_of(store, study_ids)
    shown, done = ", ".join(map(without_secrets, known)), "nothing was"
    try:
        for uri, client in clients_for(known).items():
            done = "the study is as it was, though some of its runs may be marked"
            mark_deleted(client, known[uri])
    except Exception as error:  # MLflow raises what its server, its database or the network do
        log.warning("MLflow at %s: %s", shown, without_secrets(str(error)))
        raise MlflowUnavailableError(
            f"MLflow at {shown} does not answer, so its runs cannot be deleted; {done}. Leave them, or try again later"
        ) from None


def _runs_of(store: Store, study_ids: Sequence[int]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for study_id in study_ids:
        for uri, run_ids in runs_of_study(store, study_id).items():
            found.setdefault(uri, []).extend(run_ids)
    return found
