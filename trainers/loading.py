"""Which program do the settings of a study name?"""

from __future__ import annotations

from trainers.functions import FunctionProgram
from trainers.job import TrainerConfig
from trainers.modules import ModuleProgram
from trainers.programs import LightningProgram

Program = LightningProgram | FunctionProgram


def load_program(config: TrainerConfig) -> Program:
    """Import what a study trains. Raises ModelImportError."""
    if config.function is not None:
        return FunctionProgram.load(config)
    if config.cli is not None:
        from trainers.lightning_cli import CliProgram  # noqa: PLC0415  its parser, for those who use it

        return CliProgram.load(config)
    return ModuleProgram.load(config)
