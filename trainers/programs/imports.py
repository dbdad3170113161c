"""Which classes and functions do the import paths of a study name?"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from lightning import LightningDataModule, LightningModule

from trainers.errors import ModelImportError
from trainers.job import TrainerConfig
from trainers.processes.tracebacks import is_user_code

NEAR_NAMES = 3
LAST_FRAMES = 2  # of a failing import that its message shows

Base = TypeVar("Base")


@dataclass(frozen=True, kw_only=True)
class UserClasses:
    """The code that a study trains."""

    model: type[LightningModule]
    data: type[LightningDataModule] | None  # None: the model has its own dataloaders


def import_user_classes(config: TrainerConfig) -> UserClasses:
    """Raises ModelImportError."""
    return UserClasses(
        model=import_subclass(config.model or "", LightningModule, role="model"),
        data=import_subclass(config.data, LightningDataModule, role="data module") if config.data else None,
    )


def import_subclass(path: str, base: type[Base], *, role: str) -> type[Base]:
    """The class at an import path. Raises ModelImportError where it is none of that base."""
    found = import_object(path, role=role)
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise ModelImportError(f"{role} {path!r} is not a {base.__name__}: {_what_it_is(found, base)}")


def import_object(path: str, *, role: str) -> Any:
    """Whatever an import path names. Raises ModelImportError."""
    module_name, qualified_name = _split(path, role=role)
    found: Any = _import_module(module_name, wanted=f"{role} {path!r}")
    for name in qualified_name.split("."):
        found = _attribute(found, name, role=role, path=path)
    return found


def _split(path: str, *, role: str) -> tuple[str, str]:
    """`package.module:Outer.Class` or `package.module.Class` as module and class."""
    module, separator, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not (module and separator and name) or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
        raise ModelImportError(f"{role} {path!r} is not an import path such as `package.module.{_example(role)}`")
    return module, name


def _import_module(name: str, *, wanted: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ModelImportError(_last_lines(wanted, error)) from error
        folders = ", ".join(folder or "." for folder in sys.path[:2])
        raise ModelImportError(f"cannot import {wanted}: no module named {error.name!r} in {folders}, …") from error
    except BaseException as error:  # user code may raise anything, SystemExit too
        raise ModelImportError(_last_lines(wanted, error)) from error


def _last_lines(wanted: str, error: BaseException) -> str:
    """The error and where it was raised, without the machinery of the import."""
    what = "".join(traceback.format_exception_only(error)).rstrip()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_code(frame.filename)]
    where = "".join(traceback.format_list(frames[-LAST_FRAMES:])).rstrip()
    return f"cannot import {wanted}: {what}" + (f"\n{where}" if where else "")


def _attribute(owner: Any, name: str, *, role: str, path: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    is_wanted = inspect.isfunction if role == "function" else inspect.isclass
    known = [known for known, value in vars(owner).items() if is_wanted(value)]
    near = difflib.get_close_matches(name, known, n=NEAR_NAMES) or known[:NEAR_NAMES]
    hint = f"; it has {', '.join(near)}" if near else ""
    kind = "function" if role == "function" else "class"
    raise ModelImportError(f"cannot import {role} {path!r}: {owner.__name__!r} has no {kind} {name!r}{hint}")


def _example(role: str) -> str:
    return "function" if role == "function" else "Class"


def _what_it_is(found: Any, base: type) -> str:
    if not isinstance(found, type):
        return f"it is a {type(found).__name__}, not a class"
    namesakes = [parent for parent in found.__mro__ if parent.__name__ == base.__name__]
    if namesakes:
        package = namesakes[0].__module__.partition(".")[0]
        return f"it comes from `{package}`; write `import lightning` and subclass `lightning.{base.__name__}`"
    return f"it is a subclass of {', '.join(parent.__name__ for parent in found.__bases__)}"
