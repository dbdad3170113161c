"""How studies and trials look in MLflow: a study is a run, and each attempt at a trial a run nested in it.

Sending anything twice changes nothing: a run is looked up by its key before it is created, and metrics carry the time
at which they were reported.
"""

import logging
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select

from storage.database import Store, insert_if_absent
from storage.models import UNFINISHED, mlflow_runs, studies, trials

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("storage.outbox")

METRICS_PER_CALL = 1_000  # MLflow's limits for one log_batch
PARAMS_PER_CALL = 100
PARAM_LENGTH = 6_000
TAG_LENGTH = 5_000
RUN_KEY_TAG = "hindsight.run_key"
NOTE_TAG = "mlflow.note.content"  # what MLflow's UI shows as the description of a run, in Markdown
ORIGINAL_NAME_TAG = "hindsight.name."  # and the name in MLflow; its value is the name that MLflow does not take
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_\-. :/]")
IS_GONE = "RESOURCE_DOES_NOT_EXIST"


def study_run_key(name: str, created_at: float) -> str:
    """The key of a study's run, unlike any other study's, also in another store that sends to the same MLflow."""
    return f"{name}@{created_at!r}"


def known_run(store: Store, study_id: int, number: int | None, attempt: int | None, *, mlflow_uri: str) -> str | None:
    """The id of the run of an attempt at a trial, or of the study (no number), where that MLflow was told of it."""
    with store.read() as connection:
        study = connection.execute(select(studies.c.name, studies.c.created_at).where(studies.c.id == study_id)).one()
        key = study_run_key(study.name, study.created_at)
        key = key if number is None else _attempt_key(key, number, attempt)
        query = select(mlflow_runs.c.run_id).filter_by(mlflow_uri=mlflow_uri, run_key=key)
        found: str | None = connection.execute(query).scalar()
    return found


def _attempt_key(study_key: str, number: int | None, attempt: int | None) -> str:
    return f"{study_key}/{number}/{attempt}"


@dataclass(frozen=True, kw_only=True)
class FollowedStudy:
    """A study that is followed in MLflow."""

    study_id: int
    name: str
    task: str | None
    metric: str | None
    directions: Sequence[str]
    mlflow_uri: str
    created_at: float

    @property
    def run_key(self) -> str:
        """The key of the study's run."""
        return study_run_key(self.name, self.created_at)

    @property
    def result_name(self) -> str:
        """What the outcome of a trial is called, beside the metric's curve."""
        return f"best_{self.metric}" if self.metric else "value"


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something to tell MLflow."""

    message_id: int
    trial_id: int | None
    number: int | None  # of the trial
    attempt: int | None
    kind: str
    payload: dict[str, Any]
    created_at: float

    @property
    def milliseconds(self) -> int:
        """When it was left, as MLflow counts."""
        return int(self.created_at * 1000)


class StudyRuns:
    """The MLflow runs of one study."""

    def __init__(self, store: Store, study: FollowedStudy) -> None:
        self._store = store
        self._study = study
        self._client = mlflow_client(study.mlflow_uri)
        self._experiment_id = _experiment_id(self._client, study)
        self._parent_id: str | None = None  # once it is known to be there
        self._renamed: set[tuple[str, str]] = set()  # run and name, once MLflow knows the original

    def send(self, messages: Sequence[Message]) -> None:
        """Send the messages about one run, in the order in which they were left.

        A run that is gone, because MLflow's store was deleted, is made anew.
        """
        try:
            self._send(messages)
        except Exception as error:
            if getattr(error, "error_code", None) != IS_GONE:
                raise
            self._forget_runs()
            self._send(messages)

    def _send(self, messages: Sequence[Message]) -> None:
        parent = self._parent()
        if messages[0].trial_id is None:
            return  # the study has started: now there is a run that says so
        run_id = self._attempt(parent, messages[0])
        metrics: list[Any] = []
        for message in messages:
            match message.kind:
                case "run_started":
                    self._started(run_id, message)
                case "metrics":
                    metrics += self._metrics(run_id, message, message.payload["metrics"], message.payload["step"])
                case "run_finished":
                    self._log_metrics(run_id, metrics)
                    metrics = []
                    self._finished(parent, run_id, message)
        self._log_metrics(run_id, metrics)

    def settle_parent(self) -> None:
        """Let the study's run be over exactly while no trial is open."""
        in_study = trials.c.study_id == self._study.study_id
        with self._store.read() as connection:
            unfinished = select(func.count()).select_from(trials).where(in_study, trials.c.state.in_(UNFINISHED))
            is_over = connection.execute(unfinished).scalar_one() == 0
            last = connection.execute(select(func.max(trials.c.finished_at)).where(in_study)).scalar()
        if is_over and last is not None:
            self._client.set_terminated(self._parent(), "FINISHED", end_time=int(last * 1000))
        else:
            self._client.update_run(self._parent(), status="RUNNING")

    def _parent(self) -> str:
        if self._parent_id is None:
            run_id = self._create_parent()
            self._client.get_run(run_id)  # a run nested in one that is gone would be seen by nobody
            self._parent_id = run_id
        return self._parent_id

    def _create_parent(self) -> str:
        study = self._study
        tags = {"hindsight.study": study.name, "hindsight.directions": ",".join(study.directions)}
        tags[NOTE_TAG] = _note(f"study {study.name}", f"/studies/{study.study_id}")
        if study.metric:
            tags["hindsight.metric"] = study.metric
        return self._run_id(study.run_key, study.name, tags, int(study.created_at * 1000))

    def _attempt(self, parent: str, message: Message) -> str:
        name, here = str(message.number), f"/studies/{self._study.study_id}"
        if message.attempt is not None and message.attempt > 1:
            name += f" (attempt {message.attempt})"
        tags = {
            "mlflow.parentRunId": parent,
            "hindsight.study": self._study.name,
            "hindsight.trial": str(message.number),
            "hindsight.attempt": str(message.attempt),
            NOTE_TAG: _note(f"trial {message.number} of {self._study.name}", f"{here}/trials/{message.number}"),
        }
        key = _attempt_key(self._study.run_key, message.number, message.attempt)
        return self._run_id(key, name, tags, message.milliseconds)

    def _run_id(self, key: str, name: str, tags: dict[str, str], started_milliseconds: int) -> str:
        """The run of that key, created if MLflow does not have it."""
        here = {"mlflow_uri": self._study.mlflow_uri, "run_key": key}
        with self._store.read() as connection:
            known = connection.execute(select(mlflow_runs.c.run_id).filter_by(**here)).scalar()
        if known is not None:
            return str(known)
        tags = {tag: value[:TAG_LENGTH] for tag, value in tags.items()} | {RUN_KEY_TAG: key}
        run_id = self._find(key) or str(
            self._client.create_run(
                self._experiment_id, start_time=started_milliseconds, tags=tags, run_name=name or None
            ).info.run_id
        )
        with self._store.write(durable=False) as connection:
            connection.execute(insert_if_absent(self._store.dialect, mlflow_runs), {**here, "run_id": run_id})
        return run_id

    def _forget_runs(self) -> None:
        """Look them up, or create them, when they are needed next."""
        keys, study = mlflow_runs.c.run_key, self._study
        is_of_study = (keys == study.run_key) | keys.startswith(f"{study.run_key}/", autoescape=True)
        with self._store.write(durable=False) as connection:
            connection.execute(delete(mlflow_runs).where(mlflow_runs.c.mlflow_uri == study.mlflow_uri, is_of_study))
        self._experiment_id = _experiment_id(self._client, study)
        self._parent_id = None

    def _find(self, key: str) -> str | None:
        from mlflow.entities import ViewType  # noqa: PLC0415 - MLflow takes seconds to import

        quoted = key.replace("\\", "\\\\").replace('"', '\\"')
        query = f'tags.`{RUN_KEY_TAG}` = "{quoted}"'
        found = self._client.search_runs([self._experiment_id], query, run_view_type=ViewType.ALL, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _started(self, run_id: str, message: Message) -> None:
        from mlflow.entities import Param, RunTag  # noqa: PLC0415

        payload = message.payload
        names = mlflow_names(payload["params"])
        self._keep_original(run_id, names)
        params = [Param(names[name], str(value)[:PARAM_LENGTH]) for name, value in payload["params"].items()]
        facts = {
            "mlflow.source.git.commit": payload["code_version"],
            "hindsight.seed": payload["seed"],
            "hindsight.data_fingerprint": payload["data_fingerprint"],
            "hindsight.hardware": payload["hardware"],
        }
        tags = [RunTag(name, str(value)[:TAG_LENGTH]) for name, value in facts.items() if value is not None]
        self._client.log_batch(run_id, tags=tags)
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])

    def _finished(self, parent: str, run_id: str, message: Message) -> None:
        """Tell the outcome; should MLflow refuse a part of it, the run is over all the same."""
        try:
            self._tell_outcome(parent, run_id, message)
        finally:
            self._client.set_terminated(run_id, message.payload["status"], end_time=message.milliseconds)

    def _tell_outcome(self, parent: str, run_id: str, message: Message) -> None:
        payload = message.payload
        value = payload.get("value")
        measured = {name: payload.get(name) for name in ("cost_seconds", "epochs", "peak_memory_bytes")}
        measured |= payload.get("measured", {})
        if value is not None:
            measured[self._study.result_name] = value
        self._log_metrics(run_id, self._metrics(run_id, message, measured, step=payload.get("epochs") or 0))
        if payload["state"] == "COMPLETE" and message.number is not None:
            outcome = {
                self._study.metric or "value": value,
                **payload.get("measured", {}),
            }  # by trial: the last is shown
            self._log_metrics(parent, self._metrics(parent, message, outcome, step=message.number))
        self._client.set_tag(run_id, "hindsight.state", payload["state"])
        if payload.get("notes"):
            self._client.set_tag(run_id, "hindsight.notes", "; ".join(payload["notes"])[:TAG_LENGTH])
        if payload.get("error"):
            self._client.set_tag(run_id, "hindsight.error", payload["error"][:TAG_LENGTH])
        self._log_checkpoint(run_id, payload.get("checkpoint"))

    def _metrics(self, run_id: str, message: Message, values: Mapping[str, float | None], step: int) -> list[Any]:
        from mlflow.entities import Metric  # noqa: PLC0415

        names, at = mlflow_names(values), message.milliseconds
        self._keep_original(run_id, names)
        return [Metric(names[name], float(value), at, step) for name, value in values.items() if value is not None]

    def _keep_original(self, run_id: str, names: Mapping[str, str]) -> None:
        """Note in tags what was renamed, once for each run."""
        from mlflow.entities import RunTag  # noqa: PLC0415

        renamed = {(run_id, there): name for name, there in names.items() if name != there}
        new = {at: name for at, name in renamed.items() if at not in self._renamed}
        if new:
            tags = [RunTag(f"{ORIGINAL_NAME_TAG}{there}", name[:TAG_LENGTH]) for (_, there), name in new.items()]
            self._client.log_batch(run_id, tags=tags)
            self._renamed |= new.keys()

    def _log_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def _log_checkpoint(self, run_id: str, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        try:
            if Path(checkpoint).is_dir():
                self._client.log_artifacts(run_id, checkpoint, "checkpoint")
            elif Path(checkpoint).exists():
                self._client.log_artifact(run_id, checkpoint, "checkpoint")
            else:
                log.warning("The checkpoint %s is gone; its run in MLflow goes without.", checkpoint)
        except PermissionError as error:  # the server's folder for artifacts may be no folder of this machine
            log.warning("MLflow's artifacts cannot be written here, so its run goes without a checkpoint: %s", error)


def _note(what: str, path: str) -> str:
    """The way back to the page, for those who came to MLflow by the address of `hpo serve`."""
    plain = re.sub(r"([^\w ])", r"\\\1", " ".join(what.split()))
    return f"[{plain}]({path}), where `hpo serve` shows MLflow."


def mlflow_names(names: Iterable[str]) -> dict[str, str]:
    """What each name is called in MLflow, which does not take every character; names that differ stay different."""
    plain = {name: _plain(name) for name in names}
    there = list(plain.values())
    return {
        name: f"{new}_{sha256(name.encode()).hexdigest()[:6]}" if new != name and there.count(new) > 1 else new
        for name, new in plain.items()
    }


def _plain(name: str) -> str:
    plain = NOT_IN_NAMES.sub("_", name)
    if posixpath.normpath(plain) != plain or plain.startswith(("/", "..")) or plain == ".":  # names are paths, too
        return f"_{plain.replace('/', '_')}"
    return plain


def mlflow_client(uri: str) -> "MlflowClient":
    """A client that fails fast, keeps quiet, and reports to nobody."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # we do the repeating
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds, and only the sender needs it

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _experiment_id(client: "MlflowClient", study: FollowedStudy) -> str:
    name = study.task or study.name or "hindsight"
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(study.mlflow_uri)))
        except Exception:
            found = client.get_experiment_by_name(name)  # did another sender just create it?
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """Beside the file, where MLflow's store is one; else the server knows."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
