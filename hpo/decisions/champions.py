"""Which models are champions in MLflow's registry, and what is known of each?"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hpo.errors import MlflowUnavailableError
from storage.importers.logged.mlflow_server import mlflow_errors
from storage.masking import without_secrets

log = logging.getLogger(__name__)

ALIAS = "champion"
PREFIX = "hindsight."  # of the tags that `hpo promote` leaves
VALUE = f"{PREFIX}value."
MODELS_AT_A_TIME = 100
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered model with the alias, by what its version's tags say; None where they do not."""

    name: str
    version: str
    versions: int  # that the model has
    description: str
    made_at: datetime
    run_id: str | None
    study: str | None
    trial: int | None
    params: Mapping[str, Any] | None
    objectives: Mapping[str, float]  # what its training run came to
    expected: float | None  # of another training run
    interval95: tuple[float, float] | None

    @property
    def model_uri(self) -> str:
        """What loads it, whichever version has the alias then."""
        return f"models:/{self.name}@{ALIAS}"


def list_champions(mlflow_uri: str) -> list[Champion]:
    """The champions by name. Raises MlflowUnavailableError where MLflow does not answer; the log says why."""
    os.environ.update({name: os.environ.get(name, value) for name, value in PATIENCE.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

        try:
            found = list(_champions(MlflowClient(tracking_uri=mlflow_uri)))
        except mlflow_errors() as error:
            where = without_secrets(mlflow_uri)
            log.warning("the registry of MLflow at %s: %s", where, without_secrets(str(error)))
            raise MlflowUnavailableError(f"MLflow's registry at {where} does not answer as it should") from None
    return sorted(found, key=lambda champion: champion.name)


def _champions(client: Any) -> Iterator[Champion]:
    token = None
    while True:
        models = client.search_registered_models(max_results=MODELS_AT_A_TIME, page_token=token)
        for model in models:
            if ALIAS in (model.aliases or {}):
                yield _champion(client.get_model_version(model.name, str(model.aliases[ALIAS])), model)
        token = models.token
        if not token:
            return


def _champion(version: Any, model: Any) -> Champion:
    tags = dict(version.tags or {})
    trial = tags.get(f"{PREFIX}trial", "")
    newest = max((int(each.version) for each in model.latest_versions or ()), default=0)
    return Champion(
        name=version.name,
        version=str(version.version),
        versions=max(newest, int(version.version)),
        description=version.description or "",
        made_at=datetime.fromtimestamp(version.creation_timestamp / 1000.0, UTC),
        run_id=version.run_id or None,
        study=tags.get(f"{PREFIX}study"),
        trial=int(trial) if trial.isdecimal() else None,
        params=_object(tags.get(f"{PREFIX}params")),
        objectives={
            name.removeprefix(VALUE): number
            for name, text in tags.items()
            if name.startswith(VALUE) and (number := _number(text)) is not None
        },
        expected=_number(tags.get(f"{PREFIX}expected")),
        interval95=_interval(tags.get(f"{PREFIX}interval95")),
    )


def _number(text: str | None) -> float | None:
    """Tags are anybody's to write."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _interval(text: str | None) -> tuple[float, float] | None:
    ends = [_number(end) for end in (text or "").split("…")]
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None


def _object(text: str | None) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
