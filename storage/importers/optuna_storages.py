"""How another Optuna storage is opened only to be read: nothing in it is created, migrated or locked."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from sqlalchemy import URL, NullPool, create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from storage.errors import ImportFailedError
from storage.schema import VERSION_TABLE

SQLITE_MAGIC = b"SQLite format 3\0"
OWN_TABLE = "study_directions"  # which only Optuna has
_READ_ONLY: dict[str, dict[str, Any]] = {  # what a driver is told
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mysql": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}


@dataclass(frozen=True, kw_only=True)
class StoragePlace:
    """Where an Optuna storage is."""

    short: str  # its name
    location: str  # in full, without a password
    path: Path | None  # where it is a file
    url: URL | None  # where it is a database

    @property
    def is_journal(self) -> bool:
        """Whether it is the log of a JournalStorage."""
        return self.url is None


def place_of(storage: str) -> StoragePlace:
    """Where a storage is: the URL of a database, or the path of a database or of a journal's log.

    Raises ImportFailedError where there is none.
    """
    if "://" not in storage:
        path = Path(storage).expanduser().resolve()
        is_database = _start_of(path) == SQLITE_MAGIC
        url = URL.create("sqlite", database=str(path)) if is_database else None
        return StoragePlace(short=path.stem, location=str(path), path=path, url=url)
    try:
        url = make_url(storage)
    except ArgumentError as error:
        raise ImportFailedError(f"{storage!r:.80} is no database URL: use sqlite:///optuna.db or the like.") from error
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ImportFailedError("A storage in memory cannot be read by another program.")
        path = Path(str(url.database)).expanduser().resolve()
        if _start_of(path) != SQLITE_MAGIC:
            raise ImportFailedError(f"{path} is no SQLite database.")
        return StoragePlace(short=path.stem, location=str(path), path=path, url=url.set(database=str(path)))
    if url.get_backend_name() not in _READ_ONLY:
        known = "sqlite, postgresql and mysql"
        raise ImportFailedError(f"{url.drivername!r} cannot be read: the databases that Optuna keeps are {known}.")
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    shown = url.set(query={}).render_as_string(hide_password=True)
    return StoragePlace(short=str(url.database or url.host), location=shown, path=None, url=url)


def is_history(place: StoragePlace) -> bool:
    """Whether it is a history of this program's. Raises ImportFailedError where it is neither that nor Optuna's."""
    if place.url is None:
        return False
    with _explained(place):
        engine = create_engine(_shown_url(place.url), **_arguments(place.url))
        try:
            tables = set(inspect(engine).get_table_names())
            if place.path is not None:  # a damaged file should not be noticed half-way
                with engine.connect() as connection:
                    found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
                if found != "ok":
                    raise ImportFailedError(f"{place.location} is damaged: {found.splitlines()[-1]}.")
        finally:
            engine.dispose()
    if VERSION_TABLE in tables:
        return True
    if OWN_TABLE not in tables:
        raise ImportFailedError(f"There are no studies of Optuna in {place.location}.")
    return False


class OtherStorage:
    """A storage that is only read. Every method raises ImportFailedError where that cannot be done."""

    def __init__(self, place: StoragePlace) -> None:
        self._place = place
        with _explained(place):
            self._storage: BaseStorage
            if place.url is None:
                self._storage = JournalStorage(JournalFileBackend(str(place.path)))
            else:
                url = _shown_url(place.url).replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
                self._storage = RDBStorage(url, engine_kwargs=_arguments(place.url), skip_table_creation=True)

    def studies(self) -> list[FrozenStudy]:
        """All studies."""
        with _explained(self._place):
            found = self._storage.get_all_studies()
        if not found and self._place.path is not None and self._place.is_journal and self._place.path.stat().st_size:
            raise ImportFailedError(f"{self._place.location} is neither a database nor the log of an Optuna journal.")
        return found

    def trials(self, study: FrozenStudy) -> list[FrozenTrial]:
        """The trials of a study by number."""
        with _explained(self._place):
            return self._storage.get_all_trials(study._study_id, deepcopy=False)

    def close(self) -> None:
        """Let go of the connections."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()


def name_of_time(place: StoragePlace, started: datetime | None) -> str:
    """A name for the start of a trial that is the same on every machine: storages have local times without a zone."""
    if started is None:
        return ""
    if place.is_journal:  # its log has UTC, which Optuna makes local
        started = started.astimezone(UTC).replace(tzinfo=None)
    return started.isoformat()


# How it is done


@contextmanager
def _explained(place: StoragePlace) -> Iterator[None]:
    """Errors of Optuna and of the database in our words."""
    try:
        yield
    except ImportFailedError:
        raise
    except ModuleNotFoundError as error:
        raise ImportFailedError(f"{place.location} needs the driver {error.name!r}: install it.") from error
    except (SQLAlchemyError, OptunaError, RuntimeError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ImportFailedError(f"{place.location} cannot be read: {reason}") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError) as error:
        if not place.is_journal:
            raise
        raise ImportFailedError(
            f"{place.location} is neither a database nor the log of an Optuna journal, or it is damaged: {error!r:.200}"
        ) from error


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise ImportFailedError(f"{path} cannot be read: {error.strerror}.") from error


def _shown_url(url: URL) -> str:
    """The URL that an engine is told; an SQLite file is opened by `_arguments`, not by its URL."""
    return "sqlite:///read-only" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=False)


def _arguments(url: URL) -> dict[str, Any]:
    """What makes an engine read only."""
    told = _READ_ONLY.get(url.get_backend_name())
    if told is not None:
        return {"connect_args": dict(told), "poolclass": NullPool}
    opened = partial(sqlite3.connect, f"file:{quote(str(url.database))}?mode=ro", uri=True)
    return {"creator": opened, "poolclass": NullPool}
