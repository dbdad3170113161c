"""What a store is: the database that holds a history, with what is written and read in it, whole or not at all."""

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Double, Executable, Table, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from storage.connections import Connections, PostgreSQLConnections, SQLiteConnections, unavailable
from storage.filesystems import why_not_there
from storage.locks import ForkSafeLock
from storage.masking import without_secrets
from storage.retries import PATIENCE_SECONDS
from storage.statements import Dialect, Outcome, Row, Statement, wrapped

__all__ = ["BUSY_TIMEOUT_SECONDS", "Dialect", "Store", "database_now", "insert_if_absent", "insert_many"]
__all__ += ["unavailable", "upsert"]

BUSY_TIMEOUT_SECONDS = 60  # how long somebody waits for a lock of the whole store


class Store:
    """A database that holds a history. Cheap to pass around: it pickles as its URL and survives a fork.

    A database that is away or busy is waited for, up to `patience_seconds`, before each transaction; what is called
    again after an error that passes, because it may be repeated, is said where it is done (`storage.retries`).
    """

    def __init__(self, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._url = _checked_url(url)
        self._patience_seconds = patience_seconds
        self._connections: Connections | None = None
        self._opening = ForkSafeLock()

    @property
    def url(self) -> str:
        """The URL, with its password."""
        return self._url.render_as_string(hide_password=False)

    @property
    def dialect(self) -> Dialect:
        """Which kind of database it is."""
        return "sqlite" if self._url.get_backend_name() == "sqlite" else "postgresql"

    @property
    def path(self) -> Path | None:
        """The file, where the database is one."""
        return Path(self._url.database or "") if self.dialect == "sqlite" else None

    @property
    def may_crash_alone(self) -> bool:
        """Whether it is a server, which forgets what did not wait for the disk while we remember it."""
        return self.dialect == "postgresql"

    @property
    def patience_seconds(self) -> float:
        """How long a database that is away or busy is waited for."""
        return self._patience_seconds

    def write(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """One writing transaction: all of it is kept, or nothing.

        `durable=False` spares the wait for the disk. The transaction survives a crash of the program, but not
        necessarily a power cut, or a crash of the server; the log is sequential, so the next durable transaction makes
        it durable too.
        """
        return self._own_connections().write(durable=durable)

    def read(self) -> AbstractContextManager[Connection]:
        """One reading transaction: every query in it sees the same moment."""
        return self._own_connections().read()

    def change(self, statement: Statement, **values: Any) -> Outcome:
        """One statement as a writing transaction, the fastest there is. It must do no harm when it is run again.

        It does not wait for the disk: a server that crashes is told again.
        """
        return self._own_connections().change(statement, **values)

    def fetch(self, statement: Statement, **values: Any) -> list[Row]:
        """What one query finds."""
        return self._own_connections().fetch(statement, **values)

    @contextmanager
    def exclusive(self, purpose: str, *, wait_seconds: float) -> Iterator[bool]:
        """Hold a lock of the whole store, across processes and machines; yields whether it was free in time."""
        held = self._file_lock if self.dialect == "sqlite" else self._advisory_lock
        with held(purpose, wait_seconds) as is_ours:
            yield is_ours

    def dispose(self) -> None:
        """Close all connections. The store stays usable and opens new ones when needed."""
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.dispose()

    def __repr__(self) -> str:
        return f"Store({without_secrets(self.url)!r})"

    def __reduce__(self) -> tuple[Any, tuple[str, float]]:
        return _restored, (self.url, self._patience_seconds)

    def _own_connections(self) -> Connections:
        connections = self._connections
        if connections is not None and connections.pid == os.getpid():
            return connections
        was_reached = connections is not None and connections.was_reached
        if connections is not None:  # forked: the parent's must not be used, nor closed under its feet
            _INHERITED.append(connections)
            self._connections = None
        with self._opening:
            if self._connections is None:
                self._connections = self._connect(was_reached)
                weakref.finalize(self, self._connections.dispose)
            return self._connections

    def _connect(self, was_reached: bool) -> Connections:
        kind = SQLiteConnections if self.dialect == "sqlite" else PostgreSQLConnections
        try:
            return kind(self._url, patience_seconds=self._patience_seconds, was_reached=was_reached)
        except ModuleNotFoundError as error:
            if error.name != "psycopg":
                raise
            raise unavailable(self.url, "install its driver: pip install 'hindsight-hpo[postgres]'") from error

    @contextmanager
    def _file_lock(self, purpose: str, wait_seconds: float) -> Iterator[bool]:
        lock = FileLock(f"{self.path}.{purpose}.lock", timeout=wait_seconds)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise unavailable(self.url, f"its folder is not writable: {error.strerror}") from error
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def _advisory_lock(self, purpose: str, wait_seconds: float) -> Iterator[bool]:
        with self._own_connections().session() as connection:
            is_ours = _lock(connection, f"hindsight {purpose}", wait_seconds)
            try:
                yield is_ours
            finally:
                if is_ours:
                    with suppress(DBAPIError):  # a connection that is lost holds no lock
                        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")


def _restored(url: str, patience_seconds: float) -> Store:
    return Store(url, patience_seconds=patience_seconds)


_INHERITED: list[Connections] = []  # a parent process's: kept here so that this process never closes them


def _lock(connection: Connection, name: str, wait_seconds: float) -> bool:
    key = {"key": name}
    if wait_seconds <= 0:
        return bool(connection.scalar(text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))"), key))
    connection.exec_driver_sql(f"SET lock_timeout = {int(wait_seconds * 1000)}")
    try:
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), key)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    finally:
        connection.exec_driver_sql("RESET lock_timeout")
    return True


_LOCK_NOT_AVAILABLE = "55P03"


def _checked_url(text_url: str) -> URL:
    """The URL with our drivers and, for SQLite, an absolute path."""
    try:
        url = make_url(text_url)
    except ArgumentError as error:
        raise unavailable(text_url, f"this is not a database URL. {_EXAMPLES}") from error
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return url.set(drivername="sqlite", database=str(_sqlite_path(url, text_url)))
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise unavailable(text_url, f"{url.drivername!r} is not supported. {_EXAMPLES}")


def _sqlite_path(url: URL, text_url: str) -> Path:
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise unavailable(text_url, "the history must be a file: other processes read and write it too.")
    path = Path(str(url.database)).expanduser().resolve()
    if not path.parent.is_dir():
        raise unavailable(text_url, f"there is no folder {path.parent}.")
    if path.is_dir():
        raise unavailable(text_url, f"{path} is a folder, not a file.")
    if reason := why_not_there(path):
        raise unavailable(text_url, reason)
    return path


_EXAMPLES = "Use sqlite:///history.db or postgresql://user@host/database."


@cache
def upsert(dialect: Dialect, table: Table) -> Executable:
    """A statement that inserts the row it is given, or replaces the one with its primary key."""
    statement = (sqlite.Insert if dialect == "sqlite" else postgresql.Insert)(table)
    keys = [column.name for column in table.primary_key]
    rest = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=rest)


@cache
def insert_if_absent(dialect: Dialect, table: Table) -> Executable:
    """A statement that inserts the row it is given, unless something unique in it is there already."""
    return (sqlite.Insert if dialect == "sqlite" else postgresql.Insert)(table).on_conflict_do_nothing()


def insert_many(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert many rows the fast way: what they hold must be what the database holds, bytes, numbers, text or None."""
    if not rows:
        return
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(columns))
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({places})", [tuple(row) for row in rows]
        )
        return
    driver: Any = connection.connection.driver_connection
    command = f"COPY {table.name} ({names}) FROM STDIN"
    try:
        with driver.cursor() as cursor, cursor.copy(command) as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        raise wrapped(error, connection.dialect, command) from error


class database_now(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function that it is
    """The database's clock, in seconds since the epoch: the only clock that all workers share."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
