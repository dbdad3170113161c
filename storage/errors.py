"""What can go wrong with the history.

StorageError
├── StoreUnavailableError (ConnectionError)   the database cannot be reached, read or written
├── SchemaOutdatedError   (RuntimeError)      the database is older than this program
├── SchemaTooNewError     (RuntimeError)      the database is newer than this program
├── StudyExistsError      (ValueError)        a study of that name is there already
├── StudyNotFoundError    (KeyError)          there is no such study
├── TrialNotFoundError    (KeyError)          there is no such trial
├── StaleAttemptError     (RuntimeError)      the trial was given to somebody else in the meantime
└── SenderBusyError       (RuntimeError)      another process is sending to MLflow
"""

from collections.abc import Iterable
from difflib import get_close_matches


class StorageError(Exception):
    """Base of everything `storage` raises."""


class StoreUnavailableError(StorageError, ConnectionError):
    """The database cannot be reached, read or written."""


class SchemaOutdatedError(StorageError, RuntimeError):
    """The database was made by an older version and must be upgraded first."""


class SchemaTooNewError(StorageError, RuntimeError):
    """The database was made by a newer version of this program."""


class StudyExistsError(StorageError, ValueError):
    """A study of that name is there already."""


class _NotFoundError(StorageError, KeyError):
    def __str__(self) -> str:  # KeyError shows the repr of its message
        return str(self.args[0])


class StudyNotFoundError(_NotFoundError):
    """There is no study of that name or id."""

    @classmethod
    def named(cls, name: str, existing: Iterable[str]) -> "StudyNotFoundError":
        """The error for a name, which lists those that look like it."""
        near = get_close_matches(name, list(existing), n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        return cls(f"There is no study named {name!r}.{hint}")


class TrialNotFoundError(_NotFoundError):
    """There is no trial with that id or number."""


class StaleAttemptError(StorageError, RuntimeError):
    """The attempt is not the trial's current one: its lease ended, or the trial is finished."""


class SenderBusyError(StorageError, RuntimeError):
    """Another process is sending what waits for MLflow."""
