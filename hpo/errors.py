"""Everything that can go wrong, in one tree.

HpoError
├── SpecError (ValueError)             the study file is wrong: which key, what is wrong, what would be right
├── SpaceError (ValueError)            the search space contradicts itself
├── DirectionError (ValueError)        a metric is minimised where history maximises it, or the reverse
├── StudyFailedError (RuntimeError)    no trial of a study succeeds
├── NoHistoryError (LookupError)       a question about past runs that are not there
├── SettingsError (ValueError)         an option or an environment variable is wrong
├── MlflowUnavailableError (ConnectionError)   MLflow does not answer, or not as it should
└── ServiceError (RuntimeError)        a service refused what it was asked, for a reason of its own
    ├── NotAllowedError (PermissionError)          without a valid token, or with a role that may not do it
    ├── StudyOverError                             a study hands out no more trials
    ├── StudyPausedError                           a study hands out no trials until it goes on
    └── ServiceUnavailableError (ConnectionError)  a service does not answer; a `StoreUnavailableError` too
        └── BusyError                              it has too much to do at this moment

`storage.errors.StorageError` and `trainers.errors.TrainerError` are the trees of the two layers below.
"""

from __future__ import annotations

from storage.errors import StoreUnavailableError


class HpoError(Exception):
    """What Hindsight raises on purpose; its message is meant to be read by a person."""


class SpecError(HpoError, ValueError):
    """A study file that cannot be run."""


class SpaceError(HpoError, ValueError):
    """A search space that contradicts itself."""


class DirectionError(HpoError, ValueError):
    """A direction that contradicts the history of the same task or family."""


class StudyFailedError(HpoError, RuntimeError):
    """A study of which no trial succeeds."""


class NoHistoryError(HpoError, LookupError):
    """A question about past runs that are not there."""


class SettingsError(HpoError, ValueError):
    """An option or an environment variable that makes no sense."""


class MlflowUnavailableError(HpoError, ConnectionError):
    """MLflow does not answer, or not as it should."""


class ServiceError(HpoError, RuntimeError):
    """A service that refused what it was asked."""

    code = ""  # its word for why, where it gave one


class NotAllowedError(ServiceError, PermissionError):
    """A token that is missing, unknown, expired or revoked, or whose role may not do it."""

    __str__ = Exception.__str__  # of an OSError it is made of its number and its file


class StudyOverError(ServiceError):
    """A study that hands out no more trials: its budget is spent, or it was stopped."""


class StudyPausedError(ServiceError):
    """A study that hands out no trials until somebody lets it go on."""


class ServiceUnavailableError(ServiceError, StoreUnavailableError):
    """A service that does not answer, so that its history cannot be reached."""

    is_passing = True


class BusyError(ServiceUnavailableError):
    """A service that has too much to do at this moment; asked again later, it answers."""
