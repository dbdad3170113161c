"""How does a study come into the history? As its file says, in the place of one of that name that had no result."""

from __future__ import annotations

from pathlib import Path

from hpo.studies.provenance import git_commit, hardware
from hpo.studies.spec import StudySpec
from storage import studies
from storage.audit import Doer
from storage.database import Store
from storage.errors import StudyNotFoundError
from storage.families import METRIC_NAMES
from storage.optuna_storage import HistoryStorage


def make_way(store: Store, name: str) -> bool | None:
    """Delete a study of that name without results; whether it had none. None: there is no such study."""
    try:
        return studies.delete_study_without_results(store, name)
    except StudyNotFoundError:
        return None


def create_study(
    store: Store,
    spec: StudySpec,
    *,
    folder: Path,
    mlflow_uri: str | None,
    is_planned: bool = False,
    doer: Doer | None = None,
) -> int:
    """The id of a new study. folder: where the user's code is. is_planned: no tuner proposes its trials. doer: a user.

    Raises StudyExistsError; StorageError where the task is known with the opposite direction.
    """
    task = spec.task
    study_id = studies.create_study(
        store,
        name=spec.study,
        directions=task.directions,
        task=task.name,
        metric=task.metric,
        space=None if is_planned else spec.search_space().to_json(),
        spec=None if is_planned else spec.model_dump(mode="json", exclude_defaults=True),
        mlflow_uri=mlflow_uri,
        provenance={"code_version": git_commit(folder), "hardware": hardware(), "folder": str(folder)},
        doer=doer,
    )
    name_objectives(store, study_id, spec)
    return study_id


def name_objectives(store: Store, study_id: int, spec: StudySpec) -> None:
    """What Study.set_metric_names does, without its warning that it is experimental."""
    HistoryStorage(store).set_study_system_attr(study_id, METRIC_NAMES, spec.task.metrics)
