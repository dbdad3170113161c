"""What is sent by those who train trials elsewhere, and what they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hpo.service.desk import Assignment, Held
from storage.machines import Machine
from storage.privacy import PROCESS

LONGEST_STEP = 2**63 - 1
LARGEST_ID = 2**31 - 1


def _of_a_service(name: str) -> str:
    """With its owner before it, the name of a worker must not look like one that no service knows."""
    if PROCESS.fullmatch(name):
        raise ValueError("a name NUMBER/NUMBER/8 HEX DIGITS is reserved; put another part before or after it")
    return name


WorkerName = Annotated[
    str,
    Field(min_length=1, max_length=200, description="Of the process that asks; the same until it ends."),
    AfterValidator(_of_a_service),
]
Lease = Annotated[
    float, Field(ge=1.0, le=86_400.0, description="Seconds without a word after which the trial is somebody else's.")
]
Attempt = Annotated[int, Field(ge=1, le=LARGEST_ID, description="As it was given with the trial.")]
Text = Annotated[str, Field(max_length=10_000)]
MetricName = Annotated[str, Field(min_length=1, max_length=500)]
Value = Annotated[float, Field(description='A number; what is none is sent as "nan", "inf" or "-inf".')]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ask(_Sent):
    """Who asks for a trial, and for how long he holds it without a word."""

    worker: WorkerName
    lease_seconds: Lease = 60.0
    hardware: str | None = Field(default=None, max_length=200, description="On what it will be trained, in words.")
    code_version: str | None = Field(default=None, max_length=200, description="Of the training code.")


class AskForWork(Ask):
    """The same, of any study whose trials workers train."""

    devices: int = Field(default=1, ge=1, le=LARGEST_ID, description="That a trial may have.")
    study: str | None = Field(default=None, max_length=200, description="Only of the study of this name.")
    without: list[Annotated[int, Field(ge=1, le=LARGEST_ID)]] = Field(
        default_factory=list, max_length=1_000, description="Studies that the worker cannot train, by id."
    )


class Report(_Sent):
    """What a trial reports at a step."""

    attempt: Attempt
    step: int = Field(ge=0, le=LONGEST_STEP)
    value: Value | None = None  # of the metric; None: it was not measured at this step
    metrics: dict[MetricName, Value] = Field(default_factory=dict, max_length=1_000)


class ShouldPrune(_Sent):
    """Whose trial it is."""

    attempt: Attempt


class Tell(_Sent):
    """How a trial ended."""

    attempt: Attempt
    state: Literal["complete", "pruned", "fail"]
    value: Value | None = None
    values: list[Value] | None = Field(default=None, min_length=1, max_length=100)  # of several objectives
    error: Text | None = None
    study_error: Text | None = Field(
        default=None, description="Why no trial of the study can do better: launched for workers, it has failed then."
    )
    cost_seconds: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    epochs: int | None = Field(default=None, ge=0, le=LARGEST_ID)
    peak_memory_bytes: int | None = Field(default=None, ge=0, le=LONGEST_STEP)
    checkpoint: Text | None = None
    notes: list[Text] = Field(default_factory=list, max_length=100)
    measured: dict[MetricName, float] = Field(default_factory=dict, max_length=1_000)

    @model_validator(mode="after")
    def _is_one_thing(self) -> Tell:
        if self.value is not None and self.values is not None:
            raise ValueError("give `value`, or `values` where the study has several objectives, not both")
        if self.state == "complete" and self.value is None and self.values is None:
            raise ValueError('a complete trial has a `value` (`values` for several objectives); "nan" if it is none')
        return self


class Release(_Sent):
    """Why a trial is given back."""

    attempt: Attempt
    reason: Text = "given back"
    counts: bool = False  # whether its process died: after three deaths it fails
    halve_batch: bool = False  # it ran out of memory: tried once more with half the batch, else it fails


class ClaimOf(_Sent):
    """A trial that somebody holds."""

    study: int = Field(ge=1, le=LARGEST_ID)
    trial: int = Field(ge=0, le=LARGEST_ID)
    attempt: Attempt


class Leases(_Sent):
    """The trials whose leases are to be extended."""

    worker: WorkerName
    claims: list[ClaimOf] = Field(max_length=1_000)
    lease_seconds: Lease = 60.0


class JoinMachine(_Sent):
    """A worker that comes, or comes back."""

    worker: WorkerName
    host: str = Field(min_length=1, max_length=200)
    devices: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=1_000)
    jobs: int = Field(default=1, ge=1, le=LARGEST_ID)
    version: str = Field(default="", max_length=100)


class LeaveMachine(_Sent):
    """A worker that says goodbye."""

    worker: WorkerName


class EarlierAttempt(BaseModel):
    """An attempt at the same trial that came to no end."""

    attempt: int


class StudyToTrain(BaseModel):
    """What a trial belongs to."""

    id: int
    name: str
    spec: dict[str, Any]  # the study file
    created_at: float  # seconds since the epoch


class StudyToAsk(BaseModel):
    """The study of a name."""

    id: int


class Given(BaseModel):
    """A trial to train."""

    trial: int  # its number
    attempt: int
    params: dict[str, Any]
    seed: int
    lease_seconds: float
    halve_batch: bool  # it ran out of memory before: train with half the batch
    earlier: list[EarlierAttempt]


class GivenWork(Given):
    """The same, with what is trained."""

    study: StudyToTrain


class Verdict(BaseModel):
    """Whether a trial is to stop here."""

    prune: bool


class Released(BaseModel):
    """Whether a trial that was given back is tried again."""

    is_tried_again: bool


class HeldLeases(BaseModel):
    """The trials that are still the worker's; he must stop all others."""

    held: list[ClaimOf]


class MachineRecord(BaseModel):
    """A worker, the machine that it runs on, and what it trains."""

    worker: str
    owner: str
    host: str
    devices: list[str]
    jobs: int
    version: str
    joined_at: str
    seen_at: str
    left_at: str | None
    is_here: bool
    holds: list[ClaimOf]


def given_fields(given: Assignment) -> dict[str, Any]:
    """The fields of `Given`."""
    return {
        "trial": given.trial,
        "attempt": given.attempt,
        "params": dict(given.params),
        "seed": given.seed,
        "lease_seconds": given.lease_seconds,
        "halve_batch": given.halve_batch,
        "earlier": [EarlierAttempt(attempt=number) for number in range(1, given.attempt)],
    }


def study_to_train(given: Assignment) -> StudyToTrain:
    """What the trial belongs to."""
    return StudyToTrain(id=given.study_id, name=given.study, spec=dict(given.content), created_at=given.created_at)


def held_of(claim: ClaimOf) -> Held:
    """A claim as the desk takes it."""
    return Held(study_id=claim.study, trial=claim.trial, attempt=claim.attempt)


def claim_of(held: Held) -> ClaimOf:
    """The inverse of `held_of`."""
    return ClaimOf(study=held.study_id, trial=held.trial, attempt=held.attempt)


def machine_record(machine: Machine) -> MachineRecord:
    """A machine's fields."""
    return MachineRecord(
        worker=machine.worker,
        owner=machine.owner,
        host=machine.host,
        devices=list(machine.devices),
        jobs=machine.jobs,
        version=machine.version,
        joined_at=machine.joined_at.isoformat(),
        seen_at=machine.seen_at.isoformat(),
        left_at=None if machine.left_at is None else machine.left_at.isoformat(),
        is_here=machine.is_here,
        holds=[ClaimOf(study=each.study_id, trial=each.number, attempt=each.attempt) for each in machine.holds],
    )
