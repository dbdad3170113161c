"""How a transaction reaches the database, on SQLite and on PostgreSQL.

SQLite: every writing transaction begins with BEGIN IMMEDIATE, so nobody's update is lost or refused half-way;
readers have connections of their own and, in WAL mode, wait for nobody. PostgreSQL: writers read committed rows and
lock what they are about to change; readers see one snapshot.
"""

import os
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Double, Engine, Executable, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from storage.advice import advised
from storage.errors import StoreUnavailableError
from storage.filesystems import why_not_there
from storage.locks import ForkSafeLock
from storage.sqlite_files import reader_options, why_not_opened

BUSY_TIMEOUT_SECONDS = 60  # how long a writer waits for the others; several times what 8 busy processes need
CONNECT_TIMEOUT_SECONDS = 10

Dialect = Literal["sqlite", "postgresql"]


class Store:
    """A database that holds a history. Cheap to pass around: it pickles as its URL and survives a fork."""

    def __init__(self, url: str) -> None:
        self._url = _checked_url(url)
        self._engines: _Engines | None = None
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

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """One writing transaction: all of it is kept, or nothing.

        `durable=False` spares the wait for the disk. The transaction survives a crash of the program, but not
        necessarily a power cut; the log is sequential, so the next durable transaction makes it durable too.
        """
        engines = self._own_engines()
        with self._translating_errors(), engines.writing, engines.writer.connect() as connection:
            connection.execution_options(durable=durable)
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One reading transaction: every query in it sees the same moment."""
        with self._translating_errors(), self._own_engines().reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def exclusive(self, purpose: str, *, wait_seconds: float) -> Iterator[bool]:
        """Hold a lock of the whole store, across processes and machines; yields whether it was free in time."""
        held = self._file_lock if self.dialect == "sqlite" else self._advisory_lock
        with held(purpose, wait_seconds) as is_ours:
            yield is_ours

    def dispose(self) -> None:
        """Close all connections. The store stays usable and opens new ones when needed."""
        engines, self._engines = self._engines, None
        if engines is not None:
            engines.dispose()

    def __repr__(self) -> str:
        return f"Store({self._url.render_as_string(hide_password=True)!r})"

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.url,)

    def _own_engines(self) -> "_Engines":
        engines = self._engines
        if engines is not None and engines.pid == os.getpid():
            return engines
        if engines is not None:  # forked: the parent's connections must not be used, nor closed under its feet
            _INHERITED.append(engines)
            self._engines = None
        with self._opening:
            if self._engines is None:
                with self._translating_errors():
                    self._engines = _sqlite(self._url) if self.dialect == "sqlite" else _postgresql(self._url)
                weakref.finalize(self, self._engines.dispose)
            return self._engines

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, ProgrammingError, DataError, NotSupportedError):
            raise  # about the statement, not about the database
        except (DBAPIError, PoolTimeoutError) as error:
            reason = str(error.orig) if isinstance(error, DBAPIError) else "no free connection"
            raise unavailable(self.url, advised(reason, _masked(self.url))) from error
        except JSONDecodeError as error:
            reason = f"what is in it cannot be read: {error}"
            raise unavailable(self.url, advised(reason, _masked(self.url))) from error
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
        with self._translating_errors(), self._own_engines().writer.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f"SET lock_timeout = {int(wait_seconds * 1000)}")
            key = {"key": f"hindsight {purpose}"}
            if wait_seconds > 0:
                connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), key)
                is_ours = True
            else:
                is_ours = bool(connection.scalar(text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))"), key))
            try:
                yield is_ours
            finally:
                connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
                connection.exec_driver_sql("RESET lock_timeout")


@dataclass(frozen=True, kw_only=True)
class _Engines:
    """The connections of one process."""

    pid: int
    writer: Engine
    reader: Engine
    writing: AbstractContextManager[Any]  # held while writing, by one thread at a time where the database wants that

    def dispose(self) -> None:
        if self.pid == os.getpid():
            self.writer.dispose()
            self.reader.dispose()


_INHERITED: list[_Engines] = []  # a parent process's: kept here so that this process never closes them


def _sqlite(url: URL) -> _Engines:
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}, "max_overflow": -1}
    path = Path(url.database or "")
    if reason := why_not_opened(path):
        raise unavailable(url.render_as_string(), reason)
    writer, reader = create_engine(url, **options), create_engine(url, **(reader_options(path) or options))

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions: we do, below
        connection.execute("PRAGMA foreign_keys = ON")

    def connected_writer(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")  # the file keeps the mode; only the first time does anything

    def begin_writing(connection: Connection) -> None:
        durable = connection.get_execution_options().get("durable", True)
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def begin_reading(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(writer, "connect", connected)
    event.listen(writer, "connect", connected_writer)
    event.listen(reader, "connect", connected)
    event.listen(writer, "begin", begin_writing)
    event.listen(reader, "begin", begin_reading)
    return _Engines(pid=os.getpid(), writer=writer, reader=reader, writing=threading.Lock())


def _postgresql(url: URL) -> _Engines:
    options: dict[str, Any] = {
        "connect_args": {"connect_timeout": CONNECT_TIMEOUT_SECONDS},
        "pool_pre_ping": True,  # the server may have been restarted
        "max_overflow": -1,
    }
    writer = create_engine(url, **options)
    reader = create_engine(url, isolation_level="REPEATABLE READ", **options)

    def begin_writing(connection: Connection) -> None:
        if not connection.get_execution_options().get("durable", True):
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    event.listen(writer, "begin", begin_writing)
    return _Engines(pid=os.getpid(), writer=writer, reader=reader, writing=nullcontext())


def unavailable(url: str, reason: str) -> StoreUnavailableError:
    """The error for a store that cannot be used, saying which and why; the password stays hidden."""
    return StoreUnavailableError(f"The history at {_masked(url)} cannot be used:\n{reason.strip()}")


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


def _masked(url: str) -> str:
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


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
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


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
