"""What can go wrong before a trial trains.

    TrainerError
    ├── ModelImportError        (ImportError)  the model or data module cannot be used
    ├── ParameterMismatchError  (TypeError)    a parameter has no constructor that takes it
    ├── DeviceError             (ValueError)   trials, or a trial, need devices that are not there
    ├── CompressionError        (ValueError)   a model cannot be compressed as asked
    ├── RecipeError             (KeyError)     there is no such ready task
    └── DataFileError           (ValueError)   a file of a ready task's data is missing or damaged

What goes wrong inside a trial is no exception here but an event: `trainers.job.Failed`.
"""

from __future__ import annotations


class TrainerError(Exception):
    """The trainers cannot do what was asked."""


class ModelImportError(TrainerError, ImportError):
    """A model or data module cannot be imported, or is not what Lightning needs."""


class ParameterMismatchError(TrainerError, TypeError):
    """A parameter fits no constructor, or a constructor misses one."""


class DeviceError(TrainerError, ValueError):
    """Trials need devices that this machine does not have."""


class CompressionError(TrainerError, ValueError):
    """A step of compression that makes no sense, or that a model cannot take."""


class RecipeError(TrainerError, KeyError):
    """There is no recipe, or no variant, of that name."""

    __str__ = Exception.__str__  # KeyError's would put the message in quotes


class DataFileError(TrainerError, ValueError):
    """A file that a recipe reads is missing, damaged, or of another kind."""


ERRORS_BY_NAME: dict[str, type[TrainerError]] = {
    error.__name__: error
    for error in (TrainerError, ModelImportError, ParameterMismatchError, DeviceError, CompressionError)
}  # how an error crosses from one process to another
