"""How does a trial run an existing LightningCLI project?

As `python main.py fit --config config.yaml --model.init_args.lr=0.1 …` would: the parameters of the space are keys of
the config, and Lightning's own parser puts them in, so that links, defaults and checks of types are the project's.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentError
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from trainers.errors import ModelImportError, TrainerError
from trainers.job import TrainerConfig
from trainers.optimization.chosen import Optimization, chosen_roles, impose, take_choices
from trainers.programs import ACCUMULATED, Complete, Parts
from trainers.programs.argument_errors import one_line
from trainers.programs.components import listed
from trainers.programs.imports import import_subclass

ONLY_OF_FIT = ("ckpt_path", "weights_only")  # keys of a saved config that belong to the subcommand, not to the classes
NO_CLASS_PATH = "class_path 'lightning.LightningModule'"  # what is said where a model has arguments but no class
ADVICE = "beside a config without `class_path`, the study's trainer section names the classes as `model` and `data`"
APPENDED = ("callbacks",)  # arguments that a study file adds to those of the config


@dataclass(frozen=True, kw_only=True)
class CliProgram:
    """A LightningCLI, or a subclass of the user's, with its config."""

    config: TrainerConfig
    cli: type[LightningCLI]
    model: type[LightningModule] | None  # None: the config names it by `class_path`
    data: type[LightningDataModule] | None

    @classmethod
    def load(cls, config: TrainerConfig) -> CliProgram:
        """Raises ModelImportError."""
        path = config.cli_class
        return cls(
            config=config,
            cli=import_subclass(path, LightningCLI, role="LightningCLI") if path else LightningCLI,
            model=import_subclass(config.model, LightningModule, role="model") if config.model else None,
            data=import_subclass(config.data, LightningDataModule, role="data module") if config.data else None,
        )

    def check(self, names: Collection[str], complete: Complete) -> None:
        """Whether the config, with one configuration of the space, is one that the project takes."""
        params = {name: value for name, value in self.config.sample.items() if name in names}
        chosen_roles(names)
        _, left = self._choices(params)
        self._run(_checking(self.cli), self._arguments(left, seed=0))

    def make(self, params: Mapping[str, Any], complete: Complete, *, seed: int, directory: str) -> Parts:
        """The project's own CLI makes the parts; its Trainer is given what is ours as well."""
        optimization, left = self._choices(params)
        made = self._run(_making(self.cli, complete, optimization), self._arguments(left, seed=seed))
        return Parts(model=made.model, data=made.datamodule, trainer=made.trainer)

    def accumulates(self, params: Mapping[str, Any]) -> int:
        """By the config, with the trial's parameters in it."""
        _, left = self._choices(params)
        return int(self._run(_checking(self.cli), self._arguments(left, seed=0)).config[f"trainer.{ACCUMULATED}"])

    def _choices(self, params: Mapping[str, Any]) -> tuple[Optimization, dict[str, Any]]:
        """The optimizer and schedule that the study chose, if it did, and the keys of the config."""
        return take_choices(params, taken=(), config=self.config)

    def _arguments(self, params: Mapping[str, Any], *, seed: int) -> list[str]:
        """Written as on a command line; what comes later wins."""
        config = self.config
        fixed = {f"trainer.{name}": value for name, value in config.trainer_args.items()}
        if config.max_epochs is not None:
            fixed["trainer.max_epochs"] = config.max_epochs
        arguments = ["--config", str(config.cli)]
        for name, value in {**fixed, **params}.items():
            appended = name.removeprefix("trainer.") in APPENDED
            for each in value if appended and isinstance(value, list) else [value]:
                arguments.append(
                    f"--{name}{'+' if appended else ''}={each if isinstance(each, str) else json.dumps(each)}"
                )
        return [*arguments, f"--seed_everything={seed}"]

    def _run(self, cli: type[LightningCLI], arguments: Sequence[str]) -> LightningCLI:
        classes = {"model_class": self.model, "datamodule_class": self.data}
        given: dict[str, Any] = {name: found for name, found in classes.items() if found is not None}
        try:
            with _no_command_line():
                return cli(**given, run=False, save_config_callback=None, args=list(arguments))
        except ArgumentError as error:
            hint = "" if self.model or NO_CLASS_PATH not in str(error) else f"; {ADVICE}"
            told = one_line(error)
            raise TrainerError(f"{self._place_of(told)}: {self.config.cli}: {told}{hint}") from error
        except TypeError as error:
            if f"{self.cli.__name__}.__init__() got" not in str(error):
                raise
            raise ModelImportError(
                f"{self.cli.__name__} must pass on the arguments of LightningCLI (`run`, `args`, …): {error}"
            ) from error

    def _place_of(self, told: str) -> str:
        """The key of the study file that leads to what is told: the config's own keys belong to `trainer.cli`."""
        places = {f"trainer.{name}": f"trainer.arguments.{name}" for name in self.config.trainer_args}
        places |= {"trainer.max_epochs": "trainer.max_epochs"} if self.config.max_epochs is not None else {}
        places |= {name: f"space.{name}" for name in self.config.sample}
        said = {
            key: (key, key.rpartition(".")[2]) for key in places
        }  # of a class's arguments only the last part is said
        for part in (0, 1):
            for key in sorted(places, key=len, reverse=True):
                if re.search(rf"(?<![\w.]){re.escape(said[key][part])}(?!\w)", told):
                    return places[key]
        return "trainer.cli"


def _checking(base: type[LightningCLI]) -> type[LightningCLI]:
    """A CLI that parses and makes nothing."""

    class Checking(_quiet(base)):  # type: ignore[misc]  # made when the user's class is known
        def before_instantiate_classes(self) -> None: ...

        def instantiate_classes(self) -> None: ...

        def after_instantiate_classes(self) -> None: ...

    return Checking


def _making(base: type[LightningCLI], complete: Complete, optimization: Optimization) -> type[LightningCLI]:
    """A CLI whose Trainer has our arguments as well."""

    class Making(_quiet(base)):  # type: ignore[misc]
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            given = {**self._get(self.config_init, "trainer", default={}), **kwargs}
            if given.get("logger") is None:
                given["logger"] = True  # Lightning's default, on which callbacks of the project may count
            callbacks = [*listed(given, "callbacks"), *impose(self.model, optimization)]
            made: Trainer = super().instantiate_trainer(**complete({**given, "callbacks": callbacks}))
            return made

    return Making


def _quiet(base: type[LightningCLI]) -> type[LightningCLI]:
    """A CLI that raises where it would print its usage and exit, and takes a config that `fit` has saved."""

    class Quiet(base):  # type: ignore[valid-type,misc]
        def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
            parser: LightningArgumentParser = super().init_parser(**kwargs)
            parser.exit_on_error = False
            return parser

        def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_default_arguments_to_parser(parser)
            for name in ONLY_OF_FIT:
                parser.add_argument(f"--{name}", type=Any, default=None)

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            super().parse_arguments(parser, args)
            if self.config.get("ckpt_path") is not None:
                raise TrainerError("the LightningCLI config has a ckpt_path, and every trial begins anew: remove it")

    return Quiet


@contextmanager
def _no_command_line() -> Iterator[None]:
    """LightningCLI warns where this process has arguments of its own."""
    arguments = sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments
