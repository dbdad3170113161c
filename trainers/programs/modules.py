"""How does a trial train a module, and the data module beside it, that a study names by import path?"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import lightning

from trainers.errors import TrainerError
from trainers.job import TrainerConfig
from trainers.optimization.chosen import impose
from trainers.programs import ACCUMULATED, Complete, Parts
from trainers.programs.build import build, check_names, route
from trainers.programs.components import listed, make_components
from trainers.programs.imports import UserClasses, import_user_classes


@dataclass(frozen=True, kw_only=True)
class ModuleProgram:
    """A LightningModule, and a LightningDataModule unless the model brings its data."""

    config: TrainerConfig
    classes: UserClasses

    @classmethod
    def load(cls, config: TrainerConfig) -> ModuleProgram:
        """Raises ModelImportError."""
        return cls(config=config, classes=import_user_classes(config))

    def check(self, names: Collection[str], complete: Complete) -> None:
        """Whether each name has a constructor that takes it, and Lightning a Trainer for the fixed arguments."""
        check_names(self.classes, self.config, names)
        check_files = getattr(self.classes.data, "check_files", None)  # of a data module that knows its files at once
        if check_files is not None:
            searched = {name.rpartition(".")[2] for name in names}
            if not searched & set(inspect.signature(check_files).parameters):
                check_files(**self.config.data_args)
        make_trainer(complete(make_components(self.config.trainer_args, directory=".")))

    def make(self, params: Mapping[str, Any], complete: Complete, *, seed: int, directory: str) -> Parts:
        """The user's constructors are called with the trial's parameters on top of the fixed arguments."""
        arguments = route(self.classes, self.config, dict(params))
        model, data = build(self.classes, arguments)
        callbacks = impose(model, arguments.optimization)
        given = make_components(arguments.trainer, directory=directory)
        trainer = make_trainer(complete({**given, "callbacks": [*listed(given, "callbacks"), *callbacks]}))
        return Parts(model=model, data=data, trainer=trainer)

    def accumulates(self, params: Mapping[str, Any]) -> int:
        """By the trial's parameters, or the fixed arguments."""
        return int(params.get(f"trainer.{ACCUMULATED}", self.config.trainer_args.get(ACCUMULATED, 1)))


def make_trainer(arguments: Mapping[str, Any]) -> lightning.Trainer:
    """Raises TrainerError with what Lightning says against the arguments."""
    try:
        return lightning.Trainer(**arguments)
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise TrainerError(f"Lightning makes no Trainer of this study's settings: {reason}") from error
