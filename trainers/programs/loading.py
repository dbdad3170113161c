"""Which program do the settings of a study name?"""

from __future__ import annotations

from trainers.job import TrainerConfig
from trainers.programs import LightningProgram
from trainers.programs.functions import FunctionProgram
from trainers.programs.modules import ModuleProgram

Program = LightningProgram | FunctionProgram


def load_program(config: TrainerConfig) -> Program:
    """Import what a study trains. Raises ModelImportError."""
    if config.function is not None:
        return FunctionProgram.load(config)
    if config.cli is not None:
        from trainers.programs.lightning_cli import CliProgram  # noqa: PLC0415  its parser, for those who use it

        return CliProgram.load(config)
    return ModuleProgram.load(config)
