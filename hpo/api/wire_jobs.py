"""What background jobs look like in JSON: what is asked for, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hpo.answers.history import HistoryVerified
from hpo.answers.job_results import ExportDone, ImportDone, ReplayDone, SummarizeDone
from hpo.decisions.promotion import Promotion
from storage.background_jobs import Job
from storage.masking import without_secrets

Text = Annotated[str, Field(min_length=1, max_length=1_000)]
Method = Literal[
    "history", "gp", "gp+portfolio", "random", "portfolio", "tpe", "tpe+portfolio", "gpsampler", "cma"
]  # of hpo.replay, which a server need not import
Regime = Literal["full", "thin", "few", "permuted", "reversed", "junk", "rescaled", "shifted-space", "none"]
Direction = Literal["minimize", "maximize"]
Kind = Literal["import", "replay", "export", "verify", "summarize", "promotion"]
State = Literal["queued", "running", "done", "failed", "cancelled"]


class JobRecord(BaseModel):
    """Something that is done in the background."""

    id: int
    kind: Kind = Field(description="summarize: what the tuner needs of each family is made ready")
    state: State
    owner: str
    settings: dict[str, Any]  # what was asked for, without passwords
    done: int = Field(description="Of whatever it counts: runs of an import, runs of a replay, families.")
    total: int | None = Field(description="null: not known")
    result: Any  # what came of it, by its kind; null: nothing yet
    error: str | None = Field(description="Why it failed.")
    attempt: int = Field(description="How often it was begun: a job goes on after a crash.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class ImportJob(JobRecord):
    """Past runs are brought in."""

    kind: Literal["import"]
    result: ImportDone | None


class ReplayJob(JobRecord):
    """Recorded tasks are tuned again."""

    kind: Literal["replay"]
    result: ReplayDone | None


class ExportJob(JobRecord):
    """Past runs are written as recorded tables, which `/file` hands out."""

    kind: Literal["export"]
    result: ExportDone | None


class VerifyJob(JobRecord):
    """It is looked for what is not whole."""

    kind: Literal["verify"]
    result: HistoryVerified | None


class SummarizeJob(JobRecord):
    """What the tuner needs of each family is made ready."""

    kind: Literal["summarize"]
    result: SummarizeDone | None


class PromotionJob(JobRecord):
    """A trial's model becomes the champion."""

    kind: Literal["promotion"]
    result: Promotion | None


AnyJob = Annotated[
    ImportJob | ReplayJob | ExportJob | VerifyJob | SummarizeJob | PromotionJob, Field(discriminator="kind")
]
"""By which routes describe what they answer: `JobRecord` tells what was kept, whatever version has kept it."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Import(_Request):
    mapping: dict[str, Any] | None = Field(None, description="Renames, scales, replaces, drops; a mapping file's keys.")
    source: Text | None = Field(None, description="What to call the place in the history.")
    dry_run: bool = Field(False, description="Only say what would be taken; write nothing.")


class _Judged(_Import):
    metric: Text | None = Field(None, description="The metric the runs are judged by; guessed if it is not given.")
    direction: Direction | None = Field(None, description="Guessed if it is not given.")
    task: Text | None = Field(None, description="What a run's task is called: a template, a column or one name.")


class MlflowImport(_Judged):
    """Runs of an MLflow server, database or folder."""

    kind: Literal["mlflow"]
    uri: Text | None = Field(
        None,
        description="An address whose host the service's settings allow, sqlite:///PATH or a path among the projects; "
        "the service's own MLflow if it is not given.",
        examples=["http://mlflow.example.org:5000", "mlruns"],
    )
    experiments: list[Text] = Field([], max_length=1_000, description="Names or ids; all that are active if none.")
    filter: str = Field("", max_length=10_000, description="Only runs that meet this filter, as MLflow writes it.")
    since: datetime | None = Field(None, description="Only runs that began then or later; UTC if without zone.")


class OptunaImport(_Import):
    """Studies of another Optuna storage."""

    kind: Literal["optuna"]
    storage: Text = Field(
        description="A path among the projects (a database or a journal's log), or the URL of a database whose host "
        "the service's settings allow.",
        examples=["optuna.db", "postgresql://reader@db.example.org/optuna"],
    )
    studies: list[Text] = Field([], max_length=1_000, description="Names; all if there are none.")


class TableImport(_Judged):
    """A table of runs."""

    kind: Literal["table"]
    path: Text = Field(description="A CSV or Parquet file, a recorded table, or a folder of these, among the projects.")


class LightningImport(_Judged):
    """What Lightning has logged."""

    kind: Literal["lightning"]
    folder: Text = Field(description="Where CSVLogger or TensorBoardLogger has written, among the projects.")


ImportRequest = Annotated[MlflowImport | OptunaImport | TableImport | LightningImport, Field(discriminator="kind")]


class UploadSettings(_Judged):
    """How an uploaded table is read."""


class ReplayRequest(_Request):
    """Which recorded tasks are tuned again, and by whom."""

    methods: list[Method] = Field(
        ["history", "gp+portfolio", "portfolio", "tpe", "random"], min_length=1, max_length=20
    )
    regime: Regime = Field("full", description="What the history is made of.")
    budget: int = Field(30, ge=1, le=10_000, description="Trials in a run.")
    seeds: int = Field(10, ge=1, le=100, description="Runs of each method on each task.")
    tasks: str | None = Field(None, max_length=10_000, description="A number of each family, or names with commas.")
    rows: int = Field(1_000, ge=10, le=100_000, description="At most so many configurations of a task.")
    family: Text | None = Field(None, description="Only this family.")
    baseline: Text | None = Field(None, description="What the others are compared with; history by default.")


class PromotionRequest(_Request):
    """Whose model becomes the champion."""

    trial: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Its number; the best, as judged, if none is given."
    )
    name: str | None = Field(
        None, min_length=1, max_length=200, description="Of the model in the registry; the task's if none is given."
    )


class ExportRequest(_Request):
    """What is to be written as recorded tables."""

    target: Text = Field(description="A family, a task, a study or a source.")


def job_of(job: Job) -> JobRecord:
    """A job's fields."""
    return JobRecord(
        id=job.job_id,
        kind=job.kind,  # type: ignore[arg-type]  # pydantic checks it
        state=job.state,
        owner=job.owner,
        settings=told_settings(job.settings),
        done=job.done,
        total=job.total,
        result=job.result,
        error=job.error,
        attempt=job.attempt,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
    )


def told_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, without secrets."""
    given = {name: value for name, value in settings.items() if value not in (None, [], "")}
    return {name: without_secrets(value) if isinstance(value, str) else value for name, value in given.items()}
