"""The study file: what to tune, how to train it, over which space, for how long."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hpo.errors import SpaceError, SpecError
from hpo.spaces.space import SearchSpace, likely_values
from hpo.studies.written import OR_FALSE, OR_MACRO, OR_TEXT, needs_only
from storage.distributions import distribution_of
from trainers.compression.settings import ROLE, Prune, Quantize, compression_of
from trainers.errors import CompressionError
from trainers.job import OnOutOfMemory
from trainers.recipes import find_recipe

Choice = bool | int | float | str | None

STEP_TOLERANCE = 1e-6  # of a step, for rounding
LARGEST_INT = 2**53  # that a double holds exactly


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a character that cannot be printed; use one line of text")
    return text


def _jsonable(arguments: dict[str, Any]) -> dict[str, Any]:
    for name, value in arguments.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f"{name}: {value!r} is no number, text, list or mapping; put it in quotes") from error
    return arguments


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Arguments = Annotated[dict[str, Any], AfterValidator(_jsonable)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Objective(_Section):
    """What is to be good beside the metric: another one, or what is measured of a model, such as size_bytes."""

    metric: Name
    direction: Literal["minimize", "maximize"]


class Task(_Section):
    """What is tuned: tasks with the same space, metric and direction learn from each other."""

    model_config = ConfigDict(json_schema_extra=needs_only())

    name: Name
    metric: Name  # as the model logs it, e.g. val_loss
    direction: Literal["minimize", "maximize"]
    against: list[Objective] = Field(default_factory=list)  # further objectives: the metric decides the best epoch

    @field_validator("against")
    @classmethod
    def _differ(cls, against: list[Objective], info: ValidationInfo) -> list[Objective]:
        names = [info.data.get("metric"), *(objective.metric for objective in against)]
        for position, name in enumerate(names):
            if name in names[:position]:
                raise ValueError(f"{name!r} is an objective already; every metric once")
        return against

    @property
    def metrics(self) -> list[str]:
        """Of all objectives, the metric first."""
        return [self.metric, *(objective.metric for objective in self.against)]

    @property
    def directions(self) -> list[str]:
        """Of all objectives, the metric's first."""
        return [self.direction, *(objective.direction for objective in self.against)]


def _import_path(path: str, *, example: str = "package.module.ClassName") -> str:
    if not is_import_path(path):
        raise ValueError(f"{path!r} is no import path; write `{example}`")
    return path


class Component(_Section):
    """A class of the user's own, as in a LightningCLI config."""

    model_config = ConfigDict(json_schema_extra=needs_only())

    class_path: str
    init_args: Arguments = Field(default_factory=dict)

    @field_validator("class_path")
    @classmethod
    def _is_import_path(cls, path: str) -> str:
        return _import_path(path)


class CliProject(_Section):
    """An existing LightningCLI project."""

    config: str  # its config file; from this file's folder or the working one
    class_path: str | None = None  # its subclass of LightningCLI

    @field_validator("class_path")
    @classmethod
    def _is_import_path(cls, path: str | None) -> str | None:
        return None if path is None else _import_path(path)


class ScaleLr(_Section):
    """How the learning rate grows with the effective batch: batch size x devices x nodes x accumulated batches."""

    rule: Literal["none", "linear", "sqrt"]
    batch: int = Field(default=256, ge=1)  # that learning rates of the space are meant for


class TeacherFile(_Section):
    """A trained model by the path of its checkpoint, of the study's own class unless another is named."""

    checkpoint: str
    model: Annotated[Component | None, OR_TEXT] = None

    @field_validator("model", mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"class_path": value} if isinstance(value, str) else value


class Distil(_Section):
    """Learning from the probabilities of a trained model."""

    teacher: str | TeacherFile  # STUDY or STUDY#TRIAL of the history, or a checkpoint
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    mixing: float = Field(default=0.9, ge=0, le=1)  # share of the teacher in the loss

    @field_validator("teacher", mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) and value.endswith(".ckpt") else value


class Compress(_Section):
    """What is done beside and after the training to make a model small; the value is that of the small model."""

    prune: Prune = "magnitude"
    sparsity: float = Field(default=0.0, ge=0, lt=1)  # share of the weights, or of each layer's channels
    schedule_steps: int = Field(default=3, ge=1)
    finetune_epochs: int = Field(default=1, ge=0)  # after each step, and of `qat`
    quantize: Quantize = "none"
    hash_ratio: float = Field(default=1.0, gt=0, le=1)  # parameters per weight of the linear layers
    distil: Distil | None = None


class Trainer(_Section):
    """How one configuration is trained: a recipe, a model by import path, a LightningCLI project, or a function."""

    recipe: str | None = None  # name/variant, e.g. digits_mlp/odd-even
    model: Annotated[Component | None, OR_TEXT] = None
    data: Annotated[Component | None, OR_TEXT] = None
    cli: Annotated[CliProject | None, OR_TEXT] = None  # whose config the parameters of the space are keys of
    function: str | None = None  # import path of `train(config, report)`
    max_epochs: int | None = Field(default=None, ge=1)  # None: as the LightningCLI config or the function says
    devices: int | None = Field(default=None, ge=1)  # per trial and node; None: as the LightningCLI config says, or 1
    nodes: int | None = Field(default=None, ge=1)  # machines that a trial spans; None: likewise
    accelerator: str = "auto"
    strategy: Annotated[Arguments, OR_TEXT] = Field(
        default_factory=dict
    )  # how its devices work together: `name` and options
    report: Literal["epoch", "validation"] = "epoch"  # after what it tells its value, and may be pruned
    stall_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # None: 30; of a function: no limit
    trials_per_device: int | Literal["auto"] = 1  # that share a GPU; auto: as many as fit
    on_out_of_memory: OnOutOfMemory = "fail"  # or try the trial once more at half the batch
    folds: int = Field(default=1, ge=1)  # of cross-validation: a trial trains as many fits, its value is their mean
    keep_folds: bool = False  # the best checkpoint of each fold, not only of the one that stands for the trial
    threads: int | None = Field(default=None, ge=1)  # of torch, per process; by default the cores, shared among jobs
    resources: dict[str, Amount] = Field(default_factory=dict)  # Ray's custom ones, that a trial needs besides
    scale_lr: Annotated[ScaleLr | None, OR_TEXT] = None
    compress: Compress | None = None
    arguments: Arguments = Field(default_factory=dict)  # further arguments of lightning.Trainer, or of the function

    @field_validator("model", "data", mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"class_path": value} if isinstance(value, str) else value

    @field_validator("cli", mode="before")
    @classmethod
    def _from_config(cls, value: Any) -> Any:
        return {"config": value} if isinstance(value, str) else value

    @field_validator("trials_per_device", mode="plain")
    @classmethod
    def _is_a_number_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError(f"{value!r} is neither a whole number from 1 on nor `auto`")
        return value

    @field_validator("resources")
    @classmethod
    def _are_custom(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in resources:
            if name in ("CPU", "GPU", "memory"):
                raise ValueError(f"{name} is none of Ray's custom resources; CPUs are threads x devices, GPUs devices")
        return resources

    @field_validator("strategy", mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping):
            raise ValueError(f"{value!r} names no strategy; write e.g. ddp, or {{name: ddp, communication: fp16}}")
        return {"name": value} if isinstance(value, str) else value

    @field_validator("strategy")
    @classmethod
    def _has_a_name(cls, options: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(options.get("name", ""), str):
            raise ValueError(f"name = {options['name']!r} is no name of a strategy, such as ddp")
        return options

    @field_validator("scale_lr", mode="before")
    @classmethod
    def _from_rule(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value

    @field_validator("function")
    @classmethod
    def _is_import_path(cls, path: str | None) -> str | None:
        return None if path is None else _import_path(path, example="package.module.function")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {"recipe": self.recipe, "model": self.model and not self.cli, "cli": self.cli, "function": self.function}
        given = [way for way, value in ways.items() if value]
        if len(given) != 1:
            instead = f", not with {' and '.join(f'`{way}`' for way in given)} together" if given else ""
            raise ValueError(
                f"say in one way what is trained{instead}: `recipe` (a ready task), `model` (the import path of your "
                "LightningModule), `cli` (the config of a LightningCLI project) or `function` (the import path of one)"
            )
        if self.function is not None and self.on_out_of_memory == "halve_batch":
            raise ValueError("a function minds its own batch: `on_out_of_memory: halve_batch` is for Lightning modules")
        if self.recipe is not None:
            self._check_data_of(self.recipe)
        if self.cli is not None and any(part and part.init_args for part in (self.model, self.data)):
            raise ValueError(
                "beside `cli`, `model` and `data` are import paths only: their arguments are in its config"
            )
        if self.function is not None and self.folds > 1:
            raise ValueError("a function divides its own data: `folds` is for Lightning modules")
        if self.function is not None and (self.data or self.max_epochs or self.scale_lr):
            raise ValueError(
                "`function` trains by itself: remove `data`, `max_epochs` and `scale_lr`; its own go to `arguments`"
            )
        if self.max_epochs is None and not (self.cli or self.function or "max_steps" in self.arguments):
            raise ValueError("max_epochs is missing; e.g. max_epochs: 10, or arguments: {max_steps: 10_000}")
        return self

    def _check_data_of(self, text: str) -> None:
        recipe, _ = find_recipe(text)
        if self.data is not None and self.data.class_path != recipe.data:
            raise ValueError("a recipe brings its own data: remove `data`, or give your own `model` as well")
        for name, example in recipe.needs.items():
            if self.data is None or name not in self.data.init_args:
                raise ValueError(
                    f"recipe {recipe.name} needs to know `{name}`; e.g. data: {{init_args: {{{name}: {example}}}}}"
                )


class _Parameter(_Section):
    when: dict[str, Choice | list[Choice]] | None = None  # active only where the parent has one of these values

    @field_validator("when")
    @classmethod
    def _names_a_value(cls, when: dict[str, Any] | None) -> dict[str, Any] | None:
        if when is not None and (not when or [] in when.values()):
            raise ValueError("name a parent and its values, as in `when: {optimizer: [sgd]}`, or drop `when`")
        return when

    def _check_likely(self) -> None:
        """Raises ValueError where `likely`, which the kinds of parameters have, is not in the range."""
        likely = getattr(self, "likely")  # noqa: B009 (subclasses')
        if likely is not None:
            likely_values(distribution_of("it", self.model_dump()), likely)


class _Range(_Parameter):
    log: bool = False

    @field_validator("low", "high", "step", mode="before", check_fields=False)
    @classmethod
    def _is_a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"{str(value).lower()} is no number")
        return value

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high, step = getattr(self, "low"), getattr(self, "high"), getattr(self, "step")  # noqa: B009 (subclasses')
        if not math.isfinite(high - low):
            raise ValueError(f"low = {low:g} and high = {high:g} must be finite, and so must their distance")
        if low >= high:
            fix = "swap them" if low > high else "a range of one value is a fixed argument: put it under init_args"
            raise ValueError(f"low = {low:g} is not below high = {high:g}; {fix}")
        if self.log and low <= 0:
            raise ValueError(f"log needs low > 0, and low = {low:g}; use e.g. low: {high / 1000:g}, or drop `log`")
        if self.log and step is not None:
            raise ValueError("log and step exclude each other; drop one of them")
        if step is not None and step > high - low:
            raise ValueError(f"step = {step:g} is wider than the range {low:g} … {high:g}")
        if step is not None and abs((high - low) / step - round((high - low) / step)) > STEP_TOLERANCE:
            last = low + step * math.floor((high - low) / step)
            raise ValueError(f"steps of {step:g} from {low:g} do not end at {high:g}; write high: {last:.6g}")
        self._check_likely()
        return self


class FloatParameter(_Range):
    """A real number."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    likely: list[float] | None = None  # the ends of an interval: where good values are hoped for


class IntParameter(_Range):
    """A whole number."""

    type: Literal["int"]
    low: int = Field(ge=-LARGEST_INT, le=LARGEST_INT)
    high: int = Field(ge=-LARGEST_INT, le=LARGEST_INT)
    step: int | None = Field(default=None, ge=1)
    likely: list[int] | None = None  # the ends of an interval, both in it


class CategoricalParameter(_Parameter):
    """One of a few choices."""

    type: Literal["categorical"]
    choices: list[Choice] = Field(min_length=1)
    likely: list[Choice] | None = None  # some of the choices

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: list[Choice]) -> list[Choice]:
        seen: set[Choice] = set()
        for choice in choices:
            if choice in seen:  # 1, 1.0 and true are one to Optuna
                raise ValueError(f"the choices repeat {choice!r} (1, 1.0 and true are equal); every choice once")
            seen.add(choice)
        return choices

    @model_validator(mode="after")
    def _likely_is_possible(self) -> Self:
        self._check_likely()
        return self


Parameter = Annotated[FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")]


class Budget(_Section):
    """When a study is over: whichever comes first."""

    trials: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.trials is None and self.hours is None:
            raise ValueError("give `trials`, `hours`, or both")
        return self


class Pruner(_Section):
    """Which trials are stopped early."""

    name: Literal["history", "halving", "median", "none"] = "median"
    startup_trials: int = Field(default=5, ge=0)  # trials before the first may be pruned
    warmup_epochs: int = Field(default=0, ge=0)  # epochs before a trial may be pruned
    false_prunes: float | None = Field(default=None, gt=0, lt=1)  # studies that may lose their best trial: of the two
    # that learn from past curves, `history` (5%) and `halving` (10%)

    @model_validator(mode="after")
    def _promises_what_it_can(self) -> Self:
        if self.false_prunes is not None and self.name not in ("history", "halving"):
            raise ValueError(f"false_prunes is for `history` and `halving`; the {self.name} pruner promises no rate")
        if self.name == "halving" and "startup_trials" in self.model_fields_set:
            raise ValueError("startup_trials is not for `halving`, which compares the first trials with past ones")
        return self


class Stop(_Section):
    """When a study ends before its budget is spent, because what is left to gain is not worth it."""

    model_config = ConfigDict(json_schema_extra=needs_only())

    rule: Literal["none", "auto", "gain", "cost"]
    gain: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # in the metric's units
    price_per_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # of training, one trial at a time
    worth: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # of one unit of the metric, in that money

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        """`auto`, `gain=0.002`, or a mapping whose keys tell the rule."""
        if value is False:  # YAML's `off`
            return {"rule": "none"}
        if isinstance(value, str):
            rule, separator, gain = value.partition("=")
            return {"rule": rule.strip(), "gain": gain.strip()} if separator else {"rule": value}
        if isinstance(value, Mapping) and "rule" not in value:
            if "gain" in value:
                return {"rule": "gain", **value}
            if "price_per_hour" in value or "worth" in value:
                return {"rule": "cost", **value}
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.rule == "gain") != (self.gain is not None):
            raise ValueError("a gain goes with the rule `gain`, as in `stop: gain=0.002` (in the metric's units)")
        if (self.price_per_hour is None) != (self.worth is None):
            raise ValueError(
                "`price_per_hour` (of training) and `worth` (of 1.0 of the metric, in the same money) go together: "
                "`stop: {rule: cost, price_per_hour: 2.5, worth: 4000}`"
            )
        if self.price_per_hour is not None and self.rule != "cost":
            raise ValueError("`price_per_hour` and `worth` go with the rule `cost`")
        return self


class Seeds(_Section):
    """Where randomness starts: the same seeds and history give the same study."""

    tuner: int = Field(default=0, ge=0, lt=2**32)
    training: int = Field(default=0, ge=0, lt=2**32)


class StudySpec(_Section):
    """A whole study file, valid."""

    model_config = ConfigDict(json_schema_extra=needs_only("budget"))

    study: Name
    task: Task
    trainer: Trainer | None = None  # None: programs of the user's own ask for trials, and train them
    space: dict[str, Annotated[Parameter, OR_MACRO]] = Field(min_length=1)
    budget: Budget
    pruner: Annotated[Pruner, OR_TEXT] = Pruner()
    stop: Annotated[Stop, OR_TEXT, OR_FALSE] = Stop(rule="none")
    cost: Literal["seconds"] | None = None  # of a trial: gain per second is what counts; None: each counts the same
    seeds: Seeds = Seeds()

    @field_validator("pruner", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _reports_fit_the_pruner_and_stop(self) -> Self:
        if self.task.against and "pruner" in self.model_fields_set and self.pruner.name != "none":
            raise ValueError(
                f"pruner: {self.pruner.name} stops trials by one metric, and this study has "
                f"{len(self.task.metrics)} objectives; write `pruner: none`, or remove `task.against`"
            )
        if self.trainer is not None and self.trainer.folds > 1 and self.pruner.name in ("history", "halving"):
            raise ValueError(
                f"pruner: {self.pruner.name} goes by what trials report after each epoch, and these report after each "
                "of their folds; write `pruner: median` or `pruner: none`"
            )
        if self.task.against and self.stop.rule != "none":
            raise ValueError("stop: the gain that is left is told for one objective; remove `stop` or `task.against`")
        return self

    @model_validator(mode="after")
    def _compression_makes_sense(self) -> Self:
        if self.trainer is None:
            return self
        section = {} if self.trainer.compress is None else self.trainer.compress.model_dump(exclude_defaults=True)
        if "distil" in section:
            section["distil"]["teacher"] = {"checkpoint": "", "config": {}}  # it is looked up when the study starts
        for name, parameter in self.space.items():
            bounds = (getattr(parameter, "low", None), getattr(parameter, "high", None))
            for value in getattr(parameter, "choices", bounds) if name.startswith(ROLE) else ():
                try:
                    compression_of(section, {name.removeprefix(ROLE): value})
                except CompressionError as error:
                    raise ValueError(f"space.{name}: {error}") from error
        return self

    @model_validator(mode="after")
    def _space_holds_together(self) -> Self:
        if any(not name.strip() for name in self.space):
            raise ValueError("space: a parameter has no name; give it that of an argument, such as lr")
        try:
            self.search_space()
        except SpaceError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def training(self) -> Trainer:
        """The trainer. Raises SpecError where the file has none: then there is nothing to be trained here."""
        if self.trainer is None:
            raise SpecError(
                f"study {self.study!r} has no `trainer`: its trials are asked for, and trained, by programs of yours "
                "(`hpo serve`, then POST /api/v1/studies/ID/ask, or `hpo.Client`). To let Hindsight train it, add "
                "`trainer`: a recipe, or model and data by import path, and max_epochs"
            )
        return self.trainer

    def search_space(self) -> SearchSpace:
        """The space as Optuna distributions with conditions."""
        return SearchSpace.from_json(self.space_json())

    def space_json(self) -> dict[str, dict[str, Any]]:
        """The space as plain JSON, defaults left out."""
        return {name: parameter.model_dump(exclude_defaults=True) for name, parameter in self.space.items()}


def is_import_path(text: str) -> bool:
    """Whether text has the form `package.module.Class` or `package.module:Class`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*[.:][^\W\d]\w*", text) is not None
