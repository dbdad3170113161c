"""Which program do the settings of a study name?"""

from __future__ import annotations

from lightning import LightningModule

from trainers.job import TrainerConfig
from trainers.programs import LightningProgram
from trainers.programs.functions import FunctionProgram
from trainers.programs.modules import ModuleProgram

Program = LightningProgram | FunctionProgram


def model_class(program: LightningProgram) -> type[LightningModule] | None:
    """The class of the model that is trained; None where only the config of a LightningCLI names it."""
    return program.classes.model if isinstance(program, ModuleProgram) else getattr(program, "model", None)


def load_program(config: TrainerConfig) -> Program:
    """Import what a study trains. Raises ModelImportError."""
    if config.function is not None:
        return FunctionProgram.load(config)
    if config.cli is not None:
        from trainers.programs.lightning_cli import CliProgram  # noqa: PLC0415  its parser, for those who use it

        return CliProgram.load(config)
    return ModuleProgram.load(config)
