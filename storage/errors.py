"""What can go wrong with the history.

StorageError
├── StoreUnavailableError (ConnectionError)   the database cannot be reached, read or written
├── SchemaOutdatedError   (RuntimeError)      the database is older than this program
├── SchemaTooNewError     (RuntimeError)      the database is newer than this program
├── RevisionError         (ValueError)        the database cannot go back to that version
├── BackupError           (ValueError)        no backup, or a damaged one; or it would overwrite something
├── StudyExistsError      (ValueError)        a study of that name is there already
├── StudyNotFoundError    (KeyError)          there is no such study
├── TrialNotFoundError    (KeyError)          there is no such trial
├── StaleAttemptError     (RuntimeError)      the trial was given to somebody else in the meantime
├── SenderBusyError       (RuntimeError)      another process is sending to MLflow
├── ImportFailedError     (ValueError)        nothing could be imported: no such file, a damaged one, no metric chosen
├── SourceNotFoundError   (KeyError)          nothing was imported from a source of that name
├── SealKeyError          (ValueError)        the history is sealed with another key than the one at hand
├── PrivacyError          (ValueError)        the rules of privacy cannot be read, or forbid what is to be stored
├── FamilyNotFoundError   (KeyError)          there is no such family
├── TokenNotFoundError    (KeyError)          there is no such token
├── JobNotFoundError      (KeyError)          there is no such job in the background
└── LaunchError           (RuntimeError)      a study that a service runs is in no state for it
"""

from collections.abc import Iterable
from difflib import get_close_matches


class StorageError(Exception):
    """Base of everything `storage` raises."""


class StoreUnavailableError(StorageError, ConnectionError):
    """The database cannot be reached, read or written."""

    is_passing = False  # whether it may be there again in a moment


class SchemaOutdatedError(StorageError, RuntimeError):
    """The database was made by an older version and must be upgraded first."""


class SchemaTooNewError(StorageError, RuntimeError):
    """The database was made by a newer version of this program."""


class RevisionError(StorageError, ValueError):
    """The database cannot go back to that version."""


class BackupError(StorageError, ValueError):
    """A file that is no backup or a damaged one, or one that must not be written because something is there."""


class StudyExistsError(StorageError, ValueError):
    """A study of that name is there already."""


class PrivacyError(StorageError, ValueError):
    """The rules of privacy cannot be read, or forbid what is to be stored."""


class SealKeyError(StorageError, ValueError):
    """The history is sealed with another key than the one at hand, or that one can be guessed."""


class _NotFoundError(StorageError, KeyError):
    def __str__(self) -> str:  # KeyError shows the repr of its message
        return str(self.args[0])


def did_you_mean(name: str, existing: Iterable[str]) -> str:
    """A hint at names that look like it, with a space before; empty where none does."""
    near = get_close_matches(name, list(existing), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


class StudyNotFoundError(_NotFoundError):
    """There is no study of that name or id."""

    @classmethod
    def named(cls, name: str, existing: Iterable[str]) -> "StudyNotFoundError":
        """The error for a name, which lists those that look like it."""
        return cls(f"There is no study named {name!r}.{did_you_mean(name, existing)}")


class TrialNotFoundError(_NotFoundError):
    """There is no trial with that id or number."""


class StaleAttemptError(StorageError, RuntimeError):
    """The attempt is not the trial's current one: its lease ended, or the trial is finished."""


class SenderBusyError(StorageError, RuntimeError):
    """Another process is sending what waits for MLflow."""


class ImportFailedError(StorageError, ValueError):
    """Nothing could be imported from there."""


class SourceNotFoundError(_NotFoundError):
    """Nothing was imported from a source of that name."""


class FamilyNotFoundError(_NotFoundError):
    """There is no family of that name."""

    @classmethod
    def named(cls, name: str, existing: Iterable[str]) -> "FamilyNotFoundError":
        """The error for a name, which lists those that look like it."""
        return cls(f"There is no family named {name!r}.{did_you_mean(name, existing)}")


class TokenNotFoundError(_NotFoundError):
    """There is no token of that id."""


class JobNotFoundError(_NotFoundError):
    """There is no job of that id in the background."""


class LaunchError(StorageError, RuntimeError):
    """A study whose state does not allow what is asked: one that is over is not resumed, one that runs not deleted."""
