"""How do the `class_path` and `init_args` of callbacks, loggers, plugins and profilers become objects?

As in a LightningCLI config, by the same parser, which also checks the types of the Trainer's other arguments.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser
from lightning import Trainer
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from trainers.errors import TrainerError
from trainers.programs.argument_errors import one_line

NEED_A_LOGGER = (LearningRateMonitor, DeviceStatsMonitor)  # and record with the study as well what they log


def make_components(arguments: Mapping[str, Any], *, directory: str) -> dict[str, Any]:
    """Arguments of the Trainer as a study file has them, made into those that the Trainer takes.

    directory: of the trial; a logger that needs a `save_dir`, and is given none, writes there. Raises TrainerError.
    """
    if not arguments:
        return {}
    given = copy.deepcopy(dict(arguments))  # the parser changes what it is given
    if "logger" in given:
        given["logger"] = _with_folder(given["logger"], directory)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    try:
        made = parser.instantiate_classes(parser.parse_object({"trainer": given}))["trainer"]
    except Exception as error:  # argparse's, or that of a constructor
        raise TrainerError(f"trainer.arguments: {one_line(error).removeprefix('trainer.')}") from error
    objects = {name: made[name] for name in given}
    if objects.get("logger") is None and any(isinstance(each, NEED_A_LOGGER) for each in listed(objects, "callbacks")):
        objects["logger"] = CSVLogger(directory)
    return objects


def listed(arguments: Mapping[str, Any], name: str) -> list[Any]:
    """An argument that may be one object, a list of them, or absent."""
    given = arguments.get(name)
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _with_folder(logger: Any, directory: str) -> Any:
    """The logger, or each of several, with the trial's directory where it needs one."""
    if isinstance(logger, list):
        return [_with_folder(each, directory) for each in logger]
    written = {"class_path": logger} if isinstance(logger, str) else logger
    if not isinstance(written, dict) or not isinstance(written.get("class_path"), str):
        return logger
    arguments = written.get("init_args") or {}
    if "save_dir" in arguments or not _takes_folder(written["class_path"]):
        return logger
    return {**written, "init_args": {**arguments, "save_dir": directory}}


def _takes_folder(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module) if module else loggers, name, None)
    except Exception:  # the parser will say it better
        return False
    return found is not None and "save_dir" in inspect.signature(found).parameters
