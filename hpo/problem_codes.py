"""What is an error called for programs, and which error is meant by such a word?

The API answers with the word, the client raises the error: `study-not-found` for `StudyNotFoundError`.
"""

from __future__ import annotations

import re

from hpo import errors
from storage import errors as storage_errors
from trainers import errors as trainer_errors

BASES = (errors.HpoError, storage_errors.StorageError, trainer_errors.TrainerError)


def code_of(kind: type[Exception]) -> str:
    """The word for a kind of error."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__.removesuffix("Error")).lower()


def known_errors() -> dict[str, type[Exception]]:
    """The kinds of errors that this project raises on purpose, by their word."""
    kinds = [kind for module in (errors, storage_errors, trainer_errors) for kind in vars(module).values()]
    return {code_of(kind): kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BASES)}
