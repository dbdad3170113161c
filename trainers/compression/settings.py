"""What is to be done to a model beside and after its training? Plain data, as a study file and its space say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from trainers.errors import CompressionError
from trainers.job import TrainerConfig

Prune: TypeAlias = Literal["none", "magnitude", "structured"]
Quantize: TypeAlias = Literal["none", "int8_dynamic", "int8_weight_only", "qat"]

ROLE = "compress."  # begins the names of a space's parameters that are meant here
DISTIL = "distil."  # begins the names of what concerns the teacher: compress.distil.temperature


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained model that another learns from."""

    checkpoint: str  # path
    config: dict[str, Any]  # of its trainer, as `TrainerConfig.to_json` gives it
    params: dict[str, Any] = field(default_factory=dict)  # of its trial


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How much is learned from a teacher."""

    teacher: Teacher
    temperature: float = 4.0  # softens both distributions; Hinton et al. 2015 use 2.5 to 20
    mixing: float = 0.9  # share of the teacher in the loss

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise CompressionError(f"compress.distil.temperature = {self.temperature:g} is not above 0")
        if not 0 <= self.mixing <= 1:
            raise CompressionError(f"compress.distil.mixing = {self.mixing:g} is outside [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Compression:
    """All steps for one trial."""

    prune: Prune = "magnitude"  # where sparsity is above 0
    sparsity: float = 0.0  # share of the weights, or of each layer's output channels, that become zero
    schedule_steps: int = 3  # in which the sparsity grows
    finetune_epochs: int = 1  # after each step, and of `qat`
    quantize: Quantize = "none"
    hash_ratio: float = 1.0  # parameters per weight of the linear layers; 1: they are left as they are
    distil: Distillation | None = None

    def __post_init__(self) -> None:
        for name, known in (("prune", get_args(Prune)), ("quantize", get_args(Quantize))):
            if getattr(self, name) not in known:
                raise CompressionError(f"compress.{name} = {getattr(self, name)!r} is none of {', '.join(known)}")
        if not 0 <= self.sparsity < 1:
            raise CompressionError(f"compress.sparsity = {self.sparsity:g} is outside [0, 1)")
        if not 0 < self.hash_ratio <= 1:
            raise CompressionError(f"compress.hash_ratio = {self.hash_ratio:g} is outside (0, 1]")
        if self.schedule_steps < 1:
            raise CompressionError(f"compress.schedule_steps = {self.schedule_steps} is not at least 1")
        if self.finetune_epochs < 0:
            raise CompressionError(f"compress.finetune_epochs = {self.finetune_epochs} is below 0")
        if self.quantize == "qat" and self.finetune_epochs == 0:
            raise CompressionError("compress.quantize = 'qat' trains the rounding: finetune_epochs must be at least 1")

    @property
    def is_pruned(self) -> bool:
        """Whether any weight is to become zero."""
        return self.prune != "none" and self.sparsity > 0

    @property
    def changes_the_trained_model(self) -> bool:
        """Whether there is a step after the training."""
        return self.is_pruned or self.quantize != "none" or self.hash_ratio < 1


PARAMETERS = frozenset(
    {each.name for each in fields(Compression)} - {"distil"} | {DISTIL + name for name in ("temperature", "mixing")}
)  # what a space may search over, behind `compress.`


def compression_of(section: Mapping[str, Any] | None, params: Mapping[str, Any]) -> Compression:
    """The steps that a study file fixes, and a trial's parameters (without `compress.`) on top of them.

    Raises CompressionError that says which is wrong.
    """
    unknown = sorted(set(params) - PARAMETERS)
    if unknown:
        raise CompressionError(f"compress.{unknown[0]} is no step; there are {', '.join(sorted(PARAMETERS))}")
    fixed = dict(section or {})
    taught = dict(fixed.pop("distil", None) or {})
    of_teacher = {name.removeprefix(DISTIL): value for name, value in params.items() if name.startswith(DISTIL)}
    if of_teacher and not taught:
        raise CompressionError(
            "compress.distil.* is searched over, but `trainer.compress.distil.teacher` names no teacher"
        )
    distil = None
    if taught:
        taught |= of_teacher
        distil = Distillation(**taught | {"teacher": Teacher(**taught["teacher"])})
    own = {name: value for name, value in params.items() if not name.startswith(DISTIL)}
    return Compression(**fixed | own, distil=distil)


def check_compression(config: TrainerConfig, names: Collection[str]) -> list[str]:
    """Whether a study can compress what it trains; the names of a space that are left to the training.

    Raises CompressionError.
    """
    training, compression = split_params(dict.fromkeys(names))
    if config.function is not None and (config.compress is not None or compression):
        raise CompressionError(
            f"{config.subject} is a function, and only a LightningModule can be compressed: remove `trainer.compress` "
            "and the parameters that begin with `compress.`, or do it in the function"
        )
    return list(training)


def split_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial's parameters: those of its training, and those of compression without `compress.`."""
    ours = {name.removeprefix(ROLE): value for name, value in params.items() if name.startswith(ROLE)}
    return {name: value for name, value in params.items() if not name.startswith(ROLE)}, ours
