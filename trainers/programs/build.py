"""Which constructor takes which parameter?"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer

from trainers.errors import ParameterMismatchError
from trainers.job import TrainerConfig
from trainers.optimization.chosen import ROLES, Optimization, chosen_roles, take_choices
from trainers.programs.imports import UserClasses

OURS = {
    "devices": "set `trainer.devices`",
    "accelerator": "set `trainer.accelerator`",
    "strategy": "set `trainer.strategy`",
    "num_nodes": "set `trainer.nodes`",
    "enable_checkpointing": "the best epoch of a trial is always kept",
    "barebones": "it would switch off what a study needs: metrics and checkpoints",
    "fast_dev_run": "set `max_epochs` and `limit_train_batches` instead",
    "default_root_dir": "each trial has a folder of its own; `hpo tune --runs` says where",
}  # arguments of the Trainer that a study cannot set, and what to do instead
FIXED_ELSEWHERE = {"max_epochs": "set `trainer.max_epochs`"}  # that it can search, but fixes by a key of their own
FILE_KEYS = {"model": "model.init_args", "data": "data.init_args", "trainer": "trainer.arguments"}  # of the study file
SIMILAR = 0.75  # difflib's share of two names that are probably one, heuristic


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The keyword arguments of each constructor, and what the study chose in place of the model's own optimizer."""

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    optimization: Optimization = field(default_factory=Optimization)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a constructor accepts by name."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_rest: bool  # has **kwargs

    def accepts(self, name: str) -> bool:
        """Whether it can be given an argument of that name."""
        return name in self.names or self.takes_rest


def route(classes: UserClasses, config: TrainerConfig, params: dict[str, Any]) -> Arguments:
    """Give each parameter to the constructors that name it, on top of the fixed arguments.

    `model.x`, `data.x` and `trainer.x` name their constructor; a bare name goes to the model, the data module or
    both, whichever names it, and otherwise to the model's **kwargs. What the study chooses as optimizer and
    schedule goes to neither: see `trainers.optimization.chosen`. Raises ParameterMismatchError.
    """
    optimization, left = take_choices(params, taken=_taken(classes), config=config)
    arguments = replace(_send(classes, config, left), optimization=optimization)
    for role, constructor, given in (
        ("model", classes.model, arguments.model),
        ("data", classes.data, arguments.data),
    ):
        missing = [name for name in signature_of(constructor).required if name not in given] if constructor else []
        if missing and constructor:
            raise ParameterMismatchError(
                f"{constructor.__name__} needs {_listed(missing)}: add it to the space or to `{FILE_KEYS[role]}`"
            )
    return arguments


def check_names(classes: UserClasses, config: TrainerConfig, names: Collection[str]) -> None:
    """Whether every parameter of a space, and every fixed argument, has a constructor: ParameterMismatchError."""
    roles = chosen_roles(names, taken=_taken(classes))
    _send(classes, config, dict.fromkeys(name for name in names if name.partition(".")[0] not in roles))


def build(classes: UserClasses, arguments: Arguments) -> tuple[LightningModule, LightningDataModule | None]:
    """Make the model and the data module of a trial."""
    data = classes.data(**arguments.data) if classes.data else None
    return classes.model(**arguments.model), data


def signature_of(constructor: type) -> Signature:
    """What the `__init__` of a class accepts."""
    parameters = inspect.signature(constructor).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Signature(
        names=tuple(p.name for p in named),
        required=tuple(p.name for p in named if p.default is p.empty),
        takes_rest=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _taken(classes: UserClasses) -> list[str]:
    """Roles whose names a constructor takes as an argument of its own."""
    signatures = [signature_of(constructor) for constructor in (classes.model, classes.data) if constructor]
    takes_rest = signatures[0].takes_rest
    return [role for role in ROLES if takes_rest or any(role in signature.names for signature in signatures)]


def _send(classes: UserClasses, config: TrainerConfig, params: dict[str, Any]) -> Arguments:
    signatures = {"model": signature_of(classes.model), "trainer": signature_of(Trainer)}
    if classes.data:
        signatures["data"] = signature_of(classes.data)
    fixed = {"model": config.model_args, "data": config.data_args, "trainer": config.trainer_args}
    arguments: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "trainer": {}}
    for role, args in fixed.items():
        for name, value in args.items():
            asked = f"`{FILE_KEYS[role]}` has {name!r}"
            if role == "trainer" and name in FIXED_ELSEWHERE:
                raise ParameterMismatchError(f"{asked}: {FIXED_ELSEWHERE[name]} instead")
            _check(role, name, signatures, asked=asked)
            arguments[role][name] = value
    for parameter, value in params.items():
        for role, name in _receivers(parameter, signatures):
            arguments[role][name] = value
    return Arguments(model=arguments["model"], data=arguments["data"], trainer=arguments["trainer"])


def _receivers(parameter: str, signatures: dict[str, Signature]) -> list[tuple[str, str]]:
    role, _, name = parameter.partition(".")
    if name and role in ("model", "data", "trainer"):
        _check(role, name, signatures, asked=f"parameter {parameter!r}")
        return [(role, name)]
    roles = [role for role in ("model", "data") if role in signatures and parameter in signatures[role].names]
    if not roles and signatures["model"].takes_rest:
        roles = ["model"]
    if not roles:
        raise ParameterMismatchError(
            f"no constructor takes parameter {parameter!r}: {_accepted(signatures, ('model', 'data'))}; "
            "write `trainer.x` for an argument of the Trainer, and `type: optimizer` for a choice of optimizers"
        )
    return [(role, parameter) for role in roles]


def _check(role: str, name: str, signatures: dict[str, Signature], *, asked: str) -> None:
    if role == "trainer" and name in OURS:
        raise ParameterMismatchError(f"{asked}, which a study cannot set: {OURS[name]}")
    if role not in signatures:
        raise ParameterMismatchError(f"{asked}, but the study has no data module")
    if not signatures[role].accepts(name):
        near = difflib.get_close_matches(name, signatures[role].names, n=1, cutoff=SIMILAR)
        hint = f"; did you mean `{near[0]}`?" if near else f", but {_accepted(signatures, (role,))}"
        raise ParameterMismatchError(asked + hint)


def _accepted(signatures: dict[str, Signature], roles: Iterable[str]) -> str:
    names = {"model": "the model", "data": "the data module", "trainer": "the Trainer"}
    return ", ".join(
        f"{names[role]} takes {_listed(signatures[role].names) or 'none'}" for role in roles if role in signatures
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
