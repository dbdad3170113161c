"""Which runs has a study in MLflow, and how are they marked as deleted? MLflow itself keeps them until `mlflow gc`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from storage.database import Store
from storage.mlflow_runs import IS_GONE, mlflow_client, study_run_key
from storage.models import mlflow_runs, studies
from storage.retries import retried

if TYPE_CHECKING:
    from mlflow import MlflowClient


@retried
def runs_of_study(store: Store, study_id: int) -> dict[str, list[str]]:
    """The ids of its runs, of the study itself and of its trials, by MLflow's address."""
    with store.read() as connection:
        study = connection.execute(select(studies.c.name, studies.c.created_at).where(studies.c.id == study_id)).first()
        if study is None:
            return {}
        keys, key = mlflow_runs.c.run_key, study_run_key(study.name, study.created_at)
        is_its_run = or_(keys == key, keys.startswith(f"{key}/", autoescape=True))
        found = connection.execute(
            select(mlflow_runs.c.mlflow_uri, mlflow_runs.c.run_id).where(is_its_run).order_by(keys)
        ).all()
    runs: dict[str, list[str]] = {}
    for uri, run_id in found:
        runs.setdefault(uri, []).append(run_id)
    return runs


def clients_for(runs: Mapping[str, list[str]]) -> dict[str, MlflowClient]:
    """A client of each MLflow, which answers. Raises what MLflow raises."""
    clients = {uri: mlflow_client(uri) for uri in runs}
    for client in clients.values():
        client.search_experiments(max_results=1)
    return clients


def mark_deleted(client: MlflowClient, run_ids: Iterable[str]) -> None:
    """Delete runs, of which some may be gone already. Raises what MLflow raises."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - takes seconds

    for run_id in run_ids:
        try:
            client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code != IS_GONE:
                raise
