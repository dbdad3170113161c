"""What is sent to launch studies, and how the queue looks, in JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hpo.api.problems import PlaceProblem
from hpo.api.wire import Launched, launched_of
from hpo.service.launching import MOST_JOBS, MOST_PRIORITY, LaunchOptions
from hpo.service.turns import is_trained_here, places_of
from storage.launches import Launch

EXAMPLE: dict[str, Any] = {
    "file": {"task": {"name": "digits"}, "trainer": {"recipe": "digits_mlp/all"}, "budget": {"trials": 20}},
    "launch": {"place": "server", "jobs": 1},
}


class LaunchRequest(BaseModel):
    """How a study is to be run."""

    model_config = ConfigDict(extra="forbid")

    place: Literal["server", "workers"] = Field("server", description="On the server, or by workers that pull trials.")
    jobs: int = Field(1, ge=1, le=MOST_JOBS, description="Trials side by side, of a study on the server.")
    priority: int = Field(0, ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="The larger, the sooner.")
    executor: Literal["local", "ray"] | None = Field(None, description="On the server; null: as the service is set.")
    ray_address: str | None = Field(None, max_length=300, description="Null, or the service's own cluster.")

    def options(self) -> LaunchOptions:
        """As the service takes it."""
        return LaunchOptions(**self.model_dump())


class NewStudy(BaseModel):
    """A study file, as its content or as text, and how the study is to be run."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    file: dict[str, Any] | None = Field(None, description="The content of a study file: see `StudySpec`.")
    yaml: str | None = Field(None, max_length=1_000_000, description="Its text, instead.")
    launch: LaunchRequest | None = Field(None, description="Null: it is created, and started later.")


class StartStudy(BaseModel):
    """How a study is to be run from now on; nothing: as before, or on the server."""

    model_config = ConfigDict(extra="forbid")

    launch: LaunchRequest | None = None


class NewReplicates(BaseModel):
    """How often the contenders of a study are to be trained again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"replicates": 12, "jobs": 2}]})

    replicates: int = Field(ge=1, le=10_000, description="In all, those that there are included; fewer may do.")
    against: int | None = Field(
        None, ge=0, le=2**31 - 1, description="A trial that is among the contenders, whatever it came to."
    )
    jobs: int = Field(1, ge=1, le=MOST_JOBS, description="Replicates side by side.")
    priority: int = Field(0, ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="The larger, the sooner.")
    executor: Literal["local", "ray"] | None = Field(None, description="Null: as the service is set.")

    def options(self) -> LaunchOptions:
        """As the service takes it."""
        return LaunchOptions(jobs=self.jobs, priority=self.priority, executor=self.executor)


class NewPriority(BaseModel):
    """When a study's turn is to be."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="The larger, the sooner.")


class Checked(BaseModel):
    """What is wrong with a study, and what it would reach and cost."""

    errors: list[PlaceProblem]
    plan: dict[str, Any] | None  # as `hpo plan --json`; null where something is wrong, or nothing can be said


class DeletedStudy(BaseModel):
    """What became of what belonged to a study that is deleted."""

    study: str
    trials: int  # that went with it
    replicates: int  # of its trials, which went too
    folders: list[str]  # on the server, of its checkpoints and outputs
    are_folders_removed: bool
    mlflow_uris: list[str]  # where it has runs
    mlflow_runs: int  # of the study and of its trials
    are_runs_deleted: bool


class Queued(BaseModel):
    """A study that waits or runs."""

    study_id: int
    study: str
    launch: Launched
    trials: int  # that run now
    places: int  # that it takes of the limits
    devices: int  # of each trial
    is_on_server: bool  # whether it trains on the server's own processors
    waits: str | None  # why it takes no more places now; null: it may


class LimitsInForce(BaseModel):
    """How much may run at once; null is no limit."""

    trials: int | None
    devices: int | None
    trials_per_owner: int | None
    devices_per_owner: int | None
    trials_on_server: int | None


class OwnersShare(BaseModel):
    """What an owner has of all places: his launched studies, and the trials that his programs ask for."""

    owner: str
    trials: int
    devices: int
    studies: int  # of his that are queued or running


class Queue(BaseModel):
    """What runs and what waits, in the order of their turns, and who has how much."""

    items: list[Queued]
    limits: LimitsInForce
    shares: list[OwnersShare]  # who has most first


class LogTail(BaseModel):
    """The last lines of what was printed."""

    lines: list[str]


def queued_of(launch: Launch, *, waits: str | None) -> Queued:
    """The fields of a study in the queue."""
    told = launched_of(launch)
    assert told is not None
    return Queued(
        study_id=launch.study_id,
        study=launch.study,
        launch=told,
        trials=launch.trials,
        places=places_of(launch),
        devices=launch.devices,
        is_on_server=is_trained_here(launch),
        waits=waits,
    )
