"""Which connections a process has to a database, and how transactions begin and end on them.

Transactions are the driver's own: SQLAlchemy believes that it is in one for ever ("AUTOCOMMIT"), and only builds
statements and reads results. Connections stay open between transactions.

SQLite: every writing transaction begins with BEGIN IMMEDIATE, so nobody's update is lost or refused half-way; readers
have connections of their own and, in WAL mode, wait for nobody. PostgreSQL: writers read committed rows and lock what
they are about to change; readers see one snapshot.
"""
# ruff: noqa: D102 - what the methods do is said in Connections

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError

from storage.advice import advised
from storage.errors import StoreUnavailableError
from storage.masking import without_secrets
from storage.retries import SQLITE_BUSY, is_passing, is_without_answer, patient_until, patiently
from storage.sqlite_files import reader_options, why_not_opened
from storage.statements import Outcome, Row, Statement, execute
from storage.unflushed import MARGIN_SECONDS, Unflushed
from storage.writers import WritersQueue

CONNECT_TIMEOUT_SECONDS = 10
OPENING_TIMEOUT_SECONDS = 10.0  # for others who open the same SQLite file at this moment, or repair its log
KEPT_OPEN = 8  # connections that wait for their next transaction
UNKNOWN_PATIENCE_SECONDS = 3.0  # with an address at which nobody has ever answered: it may be mistyped
LOST_AFTER = {  # a server that went away without a word is noticed within half a minute, not two hours
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

T = TypeVar("T")


class Connections(ABC):
    """The connections of one process to a database. They are given to one thread at a time."""

    def __init__(self, url: URL, *, patience_seconds: float, was_reached: bool = False) -> None:
        self.pid = os.getpid()
        self.was_reached = was_reached  # whether the database has ever answered
        self._url = url
        self._patience_seconds = patience_seconds
        self._made_at = time.monotonic()

    @abstractmethod
    def write(self, *, durable: bool) -> AbstractContextManager[Connection]:
        """One writing transaction."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """One reading transaction."""

    @abstractmethod
    def session(self) -> AbstractContextManager[Connection]:
        """A connection that is in no transaction."""

    @abstractmethod
    def change(self, statement: Statement, **values: Any) -> Outcome:
        """Run one statement as a transaction, which does not wait for the disk."""

    @abstractmethod
    def fetch(self, statement: Statement, **values: Any) -> list[Row]:
        """What one query finds."""

    @abstractmethod
    def dispose(self) -> None:
        """Close what is open, in the process whose it is."""

    def opened(self, connection: Connection) -> None:
        """Told of each new connection before it is used."""
        self.was_reached = True

    @abstractmethod
    def lost(self) -> None:
        """Told when a connection broke."""

    def patiently(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, once the database is there."""
        return patiently(attempt, self._patience_seconds)

    def raise_if_unavailable(self, error: BaseException) -> None:
        """Raises StoreUnavailableError where a driver's error is about the database, and not about a statement."""
        if isinstance(error, DBAPIError) and not isinstance(error, _ABOUT_STATEMENTS):
            reason = advised(str(error.orig), self._url.render_as_string())
            raise unavailable(self._url.render_as_string(), reason, is_passing=self._passes(error.orig)) from error
        if isinstance(error, JSONDecodeError):
            reason = advised(f"what is in it cannot be read: {error}", self._url.render_as_string())
            raise unavailable(self._url.render_as_string(), reason) from error

    def _passes(self, error: Any) -> bool:
        is_known = self.was_reached or time.monotonic() < self._made_at + UNKNOWN_PATIENCE_SECONDS
        return is_passing(error) and (is_known or not is_without_answer(error))


class SQLiteConnections(Connections):
    """One connection that writes, by one thread at a time, and some that read."""

    def __init__(self, url: URL, **options: Any) -> None:
        super().__init__(url, **options)
        path = Path(url.database or "")
        if reason := why_not_opened(path):
            raise unavailable(url.render_as_string(), reason)
        only_read = reader_options(path)
        self._one_writes = threading.Lock()
        self._queue = WritersQueue(path)
        self._writer = _Pool(self, _sqlite_engine(url), kept=1)
        self._readers = _Pool(self, _sqlite_engine(url, **only_read), kept=0 if only_read else KEPT_OPEN)
        self._waits_for_disk: bool | None = None  # as the writing connection is set
        event.listen(self._writer.engine, "connect", self._prepare_writer)

    @contextmanager
    def write(self, *, durable: bool) -> Iterator[Connection]:
        with self._one_writes, self._writer.transaction(partial(self._begin, durable)) as connection:
            yield connection

    def read(self) -> AbstractContextManager[Connection]:
        return self._readers.transaction(partial(execute, command="BEGIN"))

    def session(self) -> AbstractContextManager[Connection]:
        return self._readers.connection()

    def change(self, statement: Statement, **values: Any) -> Outcome:
        with self._one_writes, self._writer.connection() as connection:
            self._wait_for_disk(connection, False)
            return self._enter(partial(statement.run, connection, **values))

    def fetch(self, statement: Statement, **values: Any) -> list[Row]:
        with self._readers.connection() as connection:
            return statement.run(connection, **values).rows

    def dispose(self) -> None:
        if self.pid == os.getpid():
            self._writer.close()
            self._readers.close()

    def lost(self) -> None:
        pass  # the file has everything

    def _begin(self, durable: bool, connection: Connection) -> None:
        self._wait_for_disk(connection, durable)
        self._enter(partial(execute, connection, "BEGIN IMMEDIATE"))

    def _wait_for_disk(self, connection: Connection, durable: bool) -> None:
        if self._waits_for_disk != durable:
            execute(connection, f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._waits_for_disk = durable

    def _enter(self, begin: Callable[[], T]) -> T:
        """Do what needs the file's lock, once nobody else has it."""
        done: list[T] = []

        def is_in() -> bool:
            try:
                done.append(begin())
            except DBAPIError as error:
                if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != SQLITE_BUSY:
                    raise
                return False
            return True

        if not self._queue.enter(is_in, patient_until(self._patience_seconds)):
            raise unavailable(self._url.render_as_string(), "another program keeps it locked.", is_passing=True)
        return done[0]

    def _prepare_writer(self, connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")  # the file keeps the mode; only the first time does anything
        connection.execute("PRAGMA busy_timeout = 0")  # from now on we do the waiting
        self._waits_for_disk = None


class PostgreSQLConnections(Connections):
    """As many connections as threads are at it; each reads or writes."""

    def __init__(self, url: URL, **options: Any) -> None:
        super().__init__(url, **options)
        arguments = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **LOST_AFTER}
        given = {name: value for name, value in arguments.items() if name not in url.query}
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=given)
        event.listen(engine, "connect", self._prepare)
        self._pool = _Pool(self, engine, kept=KEPT_OPEN)
        self._durable = "on"  # or what the server calls so
        self._unflushed = Unflushed()

    @contextmanager
    def write(self, *, durable: bool) -> Iterator[Connection]:
        with self._pool.transaction(partial(self._begin, durable)) as connection:
            yield connection
            done_at = time.monotonic()
        if durable:
            self._unflushed.is_flushed(done_at)

    def read(self) -> AbstractContextManager[Connection]:
        return self._pool.transaction(partial(execute, command="BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"))

    def session(self) -> AbstractContextManager[Connection]:
        return self._pool.connection()

    def change(self, statement: Statement, **values: Any) -> Outcome:
        with self._pool.connection() as connection:
            outcome = statement.run(connection, **values)
        self._unflushed.add(statement, values)
        return outcome

    def fetch(self, statement: Statement, **values: Any) -> list[Row]:
        with self._pool.connection() as connection:
            return statement.run(connection, **values).rows

    def dispose(self) -> None:
        if self.pid == os.getpid():
            self._pool.close()

    def opened(self, connection: Connection) -> None:
        super().opened(connection)
        self._unflushed.tell_again(connection)

    def lost(self) -> None:
        self._unflushed.doubt()

    def _begin(self, durable: bool, connection: Connection) -> None:
        execute(connection, f"BEGIN; SET LOCAL synchronous_commit TO {self._durable}" if durable else "BEGIN")

    def _prepare(self, connection: Any, _record: Any) -> None:
        query = "SELECT name, setting FROM pg_settings WHERE name IN ('synchronous_commit', 'wal_writer_delay')"
        settings = dict(connection.execute(query).fetchall())
        self._durable = settings["synchronous_commit"].replace("off", "on")  # results wait for the disk in any case
        self._unflushed.seconds = MARGIN_SECONDS + 3 * int(settings["wal_writer_delay"]) / 1000  # as it promises
        connection.execute("SET synchronous_commit TO off")  # except where it is asked for


class _Pool:
    """Connections of one kind; the one that was used last is used next."""

    def __init__(self, owner: Connections, engine: Engine, *, kept: int) -> None:
        self.engine = engine
        self._owner = owner
        self._kept = kept
        self._idle: list[Connection] = []

    @contextmanager
    def transaction(self, begin: Callable[[Connection], None]) -> Iterator[Connection]:
        """A transaction that begins so, as soon as the database is there. An error undoes it."""
        connection = self._owner.patiently(partial(self._begun, begin))
        try:
            yield connection
            execute(connection, "COMMIT")
        except BaseException as error:
            self._undo(connection)
            self._owner.raise_if_unavailable(error)
            raise
        self._give_back(connection)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection that is in no transaction."""
        connection = self._owner.patiently(self._take)
        try:
            yield connection
        except BaseException as error:
            self._undo(connection)
            self._owner.raise_if_unavailable(error)
            raise
        self._give_back(connection)

    def close(self) -> None:
        """Close those that nobody uses, and the others as soon as they are given back."""
        self._kept = 0
        self._close_idle()

    def _begun(self, begin: Callable[[Connection], None]) -> Connection:
        connection = self._take()
        try:
            begin(connection)
        except BaseException as error:
            self._undo(connection)
            self._owner.raise_if_unavailable(error)
            raise
        return connection

    def _take(self) -> Connection:
        with suppress(IndexError):
            return self._idle.pop()
        return self._open()

    def _open(self) -> Connection:
        connection = None
        try:
            connection = self.engine.connect()
            connection.begin()  # in SQLAlchemy's books only
            self._owner.opened(connection)
        except BaseException as error:
            if connection is not None:
                _close(connection)
            self._owner.raise_if_unavailable(error)
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        if len(self._idle) < self._kept:
            self._idle.append(connection)
        else:
            _close(connection)

    def _undo(self, connection: Connection) -> None:
        """After an error: nothing of the transaction stays, and the connection only if it is sound."""
        try:
            execute(connection, "ROLLBACK")
        except Exception:
            self._owner.lost()
            _close(connection)
            self._close_idle()  # what ended this one has likely ended them
        else:
            self._give_back(connection)

    def _close_idle(self) -> None:
        while self._idle:
            _close(self._idle.pop())


def unavailable(url: str, reason: str, *, is_passing: bool = False) -> StoreUnavailableError:
    """The error for a store that cannot be used, saying which and why; the password stays hidden."""
    error = StoreUnavailableError(f"The history at {without_secrets(url)} cannot be used:\n{reason.strip()}")
    error.is_passing = is_passing
    return error


_ABOUT_STATEMENTS = (IntegrityError, ProgrammingError, DataError, NotSupportedError)


def _sqlite_engine(url: URL, **options: Any) -> Engine:
    arguments = {"timeout": OPENING_TIMEOUT_SECONDS, "check_same_thread": False}
    standard = {"poolclass": NullPool, "connect_args": arguments}
    engine = create_engine(url, isolation_level="AUTOCOMMIT", paramstyle="named", **{**standard, **options})

    def prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    event.listen(engine, "connect", prepare)
    return engine


def _close(connection: Connection) -> None:
    with suppress(Exception):  # it may be broken
        connection.close()
