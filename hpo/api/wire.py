"""What studies and trials look like in JSON: the words of `hpo show --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hpo.answers.plain import jsonable
from hpo.answers.studies import study_fields
from hpo.api.kept import Receipt, StudyFile
from storage.history import StudySummary, TrialRecord
from storage.launches import Launch
from storage.studies import NOTES_ATTRIBUTE

RECEIPT_ATTRIBUTE = "hindsight:receipt"
TOLD_BY_NAME = {RECEIPT_ATTRIBUTE, NOTES_ATTRIBUTE}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]  # JSON has no NaN and no infinity: they are null


class Launched(BaseModel):
    """How far a study is that the service runs, or has run."""

    state: Literal["queued", "running", "paused", "stopped", "done", "failed"]
    wanted: Literal["run", "pause", "stop"]  # of one that runs: what it is about to do
    place: Literal["server", "workers"]  # a process of its own on the server, or workers that pull its trials
    owner: str
    priority: int  # the larger, the sooner
    jobs: int  # trials side by side
    message: str | None
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Study(BaseModel):
    """A study at a glance."""

    id: int  # in URLs, where a name may hold anything
    name: str
    task: str | None
    family: str
    metric: str | None
    objectives: list[str]
    directions: list[Literal["minimize", "maximize"]]
    source: str  # hindsight, optuna, or the import that it came with
    trials: dict[str, int]  # by state; states without one are left out
    best_value: Number  # null too where there are several objectives
    created_at: datetime
    finished_at: datetime | None  # when its last trial did
    launch: Launched | None = None  # null: the service has never run it


class StudyInFull(Study):
    """A study with what it was asked to do."""

    space: dict[str, Any] | None  # as declared
    spec: StudyFile | None = Field(description="The study file as it was written.")
    provenance: dict[str, Any] | None  # code, data and hardware
    stopped: dict[str, Any] | None  # why it ended before its budget was spent


class Trial(BaseModel):
    """A trial as it went."""

    number: int
    state: Literal["running", "complete", "pruned", "fail", "waiting"]
    value: Number
    values: list[Number]
    params: dict[str, Any]
    attempt: int
    epochs: int | None
    cost_seconds: Number
    seed: int | None
    started_at: datetime | None
    finished_at: datetime | None
    checkpoint: str | None
    error: str | None
    notes: list[str]
    intermediate_values: dict[int, Number]  # by step
    receipt: Receipt | None = Field(description="Why it was proposed; `/receipt` says it in full.")
    user_attrs: dict[str, Any]  # what the training code noted
    system_attrs: dict[str, Any]  # Optuna's, and ours: why it was pruned, which results came too late


class LateResultToAccept(BaseModel):
    """Which of the values that came too late for a trial is to count."""

    model_config = ConfigDict(extra="forbid")

    result: int | None = Field(
        None, ge=1, le=1_000, description="Its place among them, from 1; null: the only one with a value."
    )


def study_of(summary: StudySummary, launch: Launch | None = None) -> Study:
    """A study's fields. launch: how the service runs it."""
    return Study(id=summary.study_id, **study_fields(summary), launch=launched_of(launch))


def study_in_full(
    summary: StudySummary, stopped: Mapping[str, Any] | None, launch: Launch | None = None
) -> StudyInFull:
    """All fields of a study. stopped: why it ended before its budget was spent."""
    asked = {"space": summary.space, "spec": summary.spec, "provenance": summary.provenance, "stopped": stopped}
    plain = {name: jsonable(value) for name, value in asked.items()}
    return StudyInFull(id=summary.study_id, **study_fields(summary), **plain, launch=launched_of(launch))


def launched_of(launch: Launch | None) -> Launched | None:
    """The fields of a launch."""
    return None if launch is None else Launched.model_validate(launch, from_attributes=True)


def trial_of(record: TrialRecord) -> Trial:
    """A trial's fields."""
    system: Mapping[str, Any] = record.system_attrs
    return Trial(
        number=record.number,
        state=record.state.name.lower(),  # type: ignore[arg-type]  # pydantic checks it
        value=record.value,
        values=list(record.values),
        params=jsonable(record.params),
        attempt=record.attempt,
        epochs=record.epochs,
        cost_seconds=record.cost_seconds,
        seed=record.seed,
        started_at=record.started_at,
        finished_at=record.finished_at,
        checkpoint=record.checkpoint,
        error=record.error,
        notes=list(system.get(NOTES_ATTRIBUTE, [])),
        intermediate_values=dict(record.intermediate_values),
        receipt=system.get(RECEIPT_ATTRIBUTE),
        user_attrs=jsonable(record.user_attrs),
        system_attrs=jsonable({name: system[name] for name in system if name not in TOLD_BY_NAME}),
    )
