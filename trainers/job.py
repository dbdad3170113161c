"""What a trial is asked to do, and what it answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

STALL_MINUTES = 30.0
OUTPUT_LOG = "output.log"  # in a trial's directory: what it printed
BEST_CHECKPOINT = "best.ckpt"  # and the model after its best epoch
UPLOADED_CHECKPOINT = "uploaded.ckpt"  # the same from another machine: this name alone guards it from being unpickled
COMPRESSED_MODEL = "compressed.ckpt.gz"  # beside it, where the study compresses its models

FOLD, FOLDS = "data.fold", "data.folds"  # parameters of cross-validation: which one, from 0, and of how many
FOLD_FOLDER = "fold-"  # in a trial's directory, before the number: that fold's own checkpoints

Direction: TypeAlias = Literal["minimize", "maximize"]
OnOutOfMemory: TypeAlias = Literal["fail", "halve_batch"]
ScaleRule: TypeAlias = Literal["none", "linear", "sqrt"]
FailureKind: TypeAlias = Literal["exception", "nan", "missing_metric", "out_of_memory", "killed", "stalled"]
ReportAfter: TypeAlias = Literal["epoch", "validation"]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What all trials of a study share."""

    model: str | None = None  # import path of a LightningModule: `package.module.Class` or `package.module:Class`
    data: str | None = None  # import path of a LightningDataModule; None: the model has its own dataloaders
    cli: str | None = None  # the config file of a LightningCLI project, to which `model` and `data` may belong
    cli_class: str | None = None  # import path of its subclass of LightningCLI
    function: str | None = None  # import path of a plain function, instead of all these
    model_args: dict[str, Any] = field(default_factory=dict)  # fixed arguments; a trial's parameters win over them
    data_args: dict[str, Any] = field(default_factory=dict)
    trainer_args: dict[str, Any] = field(default_factory=dict)  # of lightning.Trainer; or those of the function
    max_epochs: int | None = None  # None: as the LightningCLI config or the function says
    devices: int = 1  # per trial; more than one trains with a process per device
    nodes: int = 1  # machines that a trial spans, with `devices` each
    accelerator: str = "auto"
    strategy: dict[str, Any] = field(default_factory=lambda: {"name": "auto"})  # its name and options
    strategy_choices: dict[str, list[Any]] = field(default_factory=dict)  # of these, what the space may choose
    report: ReportAfter = "epoch"  # after what a trial tells its value, and may be pruned
    stall_minutes: float = STALL_MINUTES  # without a step, after which a trial is ended; may be infinite
    threads: int = 1  # of torch, per process
    trials_per_device: int = 1  # that may share a GPU, those of other studies included
    on_out_of_memory: OnOutOfMemory = "fail"  # or try the trial once more at half the batch
    scale_rule: ScaleRule | None = None  # of the learning rate with the effective batch; None: neither scaled nor told
    scale_batch: int = 256  # that learning rates are meant for
    folds: int = 1  # of cross-validation; a trial trains as many fits, and its value is their mean
    sample: dict[str, Any] = field(default_factory=dict)  # a configuration of the space, to be tried at the start
    is_measured: bool = False  # its best model is loaded once more, and measured for further objectives
    compress: dict[str, Any] | None = None  # what is done beside and after the training: see trainers.compression
    python_path: tuple[str, ...] = ()  # folders that are searched first for the user's modules

    def __post_init__(self) -> None:
        if self.model is self.cli is self.function is None:
            raise ValueError("nothing to train: give `model`, `cli` or `function`")
        if not self.stall_minutes > 0:
            raise ValueError(f"stall_minutes = {self.stall_minutes} is not above 0")
        for name in ("max_epochs", "devices", "nodes", "threads", "trials_per_device", "scale_batch", "folds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not a positive number")

    @property
    def subject(self) -> str:
        """What is trained, for messages."""
        return repr(self.function or self.cli or self.model)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> TrainerConfig:
        """The inverse of `to_json`."""
        return cls(**{**fields, "python_path": tuple(fields["python_path"])})


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One trial: a configuration to train."""

    params: dict[str, Any]
    seed: int
    metric: str
    direction: Direction
    directory: str  # where it writes OUTPUT_LOG and BEST_CHECKPOINT
    against: tuple[str, ...] = ()  # metrics of further objectives, measured of the best epoch's model
    earlier: tuple[str, ...] = ()  # directories of earlier attempts, oldest first: it goes on from their checkpoints
    files: str | None = None  # folder for a function's own files, the same for each attempt
    halve_batch: bool = False  # it ran out of memory: train with half the batch, and accumulate twice as many

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> FitJob:
        """The inverse of `to_json`."""
        return cls(**{**fields, "against": tuple(fields["against"]), "earlier": tuple(fields["earlier"])})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial that trained to its end, or was pruned, came out."""

    value: float  # the metric of the best epoch, whose checkpoint is kept, or of its compressed model; always finite
    more_values: tuple[float, ...] = ()  # of `FitJob.against`
    measured: dict[str, float] = field(default_factory=dict)  # what else is known of the model, by name
    best_epoch: int  # counted from 0
    epochs: int  # that were trained
    seconds: float  # of the fit, without waiting for pruning decisions
    peak_memory_bytes: int  # of the first device, or of the first process on a CPU
    checkpoint: str | None  # path; None where checkpointing is off
    pruned: bool
    notes: tuple[str, ...] = ()  # how it ran, where that is not as asked: from which epoch, with which batch

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Outcome:
        """The inverse of `to_json`."""
        return cls(**{**fields, "more_values": tuple(fields["more_values"]), "notes": tuple(fields["notes"])})


@dataclass(frozen=True, kw_only=True)
class Reported:
    """An epoch is over; the trial waits to hear whether to go on."""

    key: int
    epoch: int
    value: float | None  # None: the metric was not logged in this epoch, so that nothing is to be decided
    metrics: dict[str, float]  # every number that was logged since the last report


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The trial's last event when it went well."""

    key: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The trial's last event when it did not."""

    key: int
    kind: FailureKind
    reason: str  # one line
    output_tail: str  # the last lines the trial printed, its traceback among them


Event: TypeAlias = Reported | Finished | Failed
