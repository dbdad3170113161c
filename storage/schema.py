"""Which version of the tables a database has, and how it gets the current one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from storage.database import BUSY_TIMEOUT_SECONDS, Store, unavailable
from storage.errors import RevisionError, SchemaOutdatedError, SchemaTooNewError
from storage.masking import without_secrets
from storage.models import metadata
from storage.privacy import current
from storage.retries import PATIENCE_SECONDS
from storage.seals import check_key, seal_what_was_before

__all__ = ["SchemaState", "Store", "downgrade", "open_store", "schema_state", "upgrade"]

_ONE_AT_A_TIME = threading.Lock()  # Alembic's context belongs to the process, not to the thread
VERSION_TABLE = "hindsight_version"  # not Alembic's default: MLflow and Optuna may share the database server

OTHER_PROGRAMS = {"MLflow": "latest_metrics", "Optuna": "study_directions"}  # and a table that only they have
TABLES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class SchemaState:
    """Where a database stands."""

    current: str | None  # the revision it has; None: it has no history yet
    head: str  # the revision this program wants

    @property
    def is_current(self) -> bool:
        """Whether this program can use the database."""
        return self.current == self.head


def open_store(url: str, *, upgrade: bool = True, patience_seconds: float = PATIENCE_SECONDS) -> Store:
    """Open the history at `url`; a database without one gets one, unless `upgrade` is False.

    patience_seconds: how long a database that is away or busy is waited for, now and later.
    Any number of processes may do this at once. A database of another version is refused, never changed.
    Raises StoreUnavailableError, SchemaOutdatedError, SchemaTooNewError, SealKeyError, PrivacyError.
    """
    store = Store(url, patience_seconds=patience_seconds)
    state = _state(store)
    if state.current is None and upgrade:
        with _migrating(store) as (connection, config):
            if _revision(connection) is None:
                _refuse_foreign_tables(store, connection)
                command.upgrade(config, "head")
        state = _state(store)
    if not state.is_current:
        store.dispose()
        raise mismatch(store, state) if state.current else unavailable(url, "there is no history in this database.")
    check_key(store)
    current()  # says what is wrong with the rules of privacy before anything is stored
    return store


def schema_state(url: str) -> SchemaState:
    """The version of the database at `url`, without changing anything."""
    store = Store(url)
    try:
        return _state(store)
    finally:
        store.dispose()


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to the current version, or to an earlier one, in one transaction.

    What an older version has written is sealed as it is.
    """
    store = Store(url)
    with _migrating(store) as (connection, config):
        state = _state_of(connection)
        if state.current is None:
            _refuse_foreign_tables(store, connection)
        elif not is_known(state.current):
            raise mismatch(store, state)
        command.upgrade(config, revision)
        if _revision(connection) == head():
            seal_what_was_before(connection)
    store.dispose()


def what_is_lost(url: str, revision: str) -> tuple[str, ...]:
    """What the database at `url` loses on its way back to an earlier revision, or to "base": a line for each step.

    Raises RevisionError where there is no such way; StoreUnavailableError, SchemaTooNewError.
    """
    state = schema_state(url)
    if state.current is None:
        raise unavailable(url, "there is no history in this database.")
    if not is_known(state.current):
        raise mismatch(Store(url), state)
    newest_first = [script.revision for script in _scripts().walk_revisions()]
    earlier = [*newest_first[newest_first.index(state.current) + 1 :], "base"]
    if revision not in earlier:
        what = f"is where it is already, at {revision}" if revision == state.current else f"cannot go to {revision!r}"
        raise RevisionError(f"The history at {without_secrets(url)} {what}; it can go back to {', '.join(earlier)}.")
    undone = _scripts().iterate_revisions(state.current, revision)
    return tuple(
        f"{script.revision}: {script.module.downgrade.__doc__ or 'what only this version knows.'}" for script in undone
    )


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to an earlier revision, in one transaction; "base" empties it.

    Raises RevisionError where there is no such way; StoreUnavailableError, SchemaTooNewError.
    """
    what_is_lost(url, revision)
    store = Store(url)
    with _migrating(store) as (_connection, config):
        command.downgrade(config, revision)
    store.dispose()


def head() -> str:
    """The version of the tables that this program wants."""
    newest = _scripts().get_current_head()
    assert newest is not None, "there are no migrations"
    return newest


def is_known(revision: str) -> bool:
    """Whether this program has that version of the tables, or had it once."""
    return revision in {script.revision for script in _scripts().walk_revisions()}


def _state(store: Store) -> SchemaState:
    if store.path is not None and not store.path.exists():  # reading would create the file
        return SchemaState(current=None, head=head())
    with store.read() as connection:
        return _state_of(connection)


def _state_of(connection: Connection) -> SchemaState:
    return SchemaState(current=_revision(connection), head=head())


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return revision


def _refuse_foreign_tables(store: Store, connection: Connection) -> None:
    """A PostgreSQL database may be shared as long as no name is taken; a SQLite file has one writer at a time."""
    foreign = set(inspect(connection).get_table_names()) - {VERSION_TABLE}
    taken = foreign if store.dialect == "sqlite" else foreign & set(metadata.tables)
    if taken:
        owner = next((program for program, table in OTHER_PROGRAMS.items() if table in foreign), "another program")
        shown = ", ".join(sorted(taken)[:TABLES_SHOWN]) + (", …" if len(taken) > TABLES_SHOWN else "")
        raise unavailable(
            store.url,
            f"{owner}'s tables are there already ({shown}). "
            f"Use a {'file' if store.dialect == 'sqlite' else 'database'} of its own.",
        )


@contextmanager
def _migrating(store: Store) -> Iterator[tuple[Connection, Config]]:
    """One transaction that nobody else migrates in."""
    with _ONE_AT_A_TIME, store.exclusive("schema", wait_seconds=BUSY_TIMEOUT_SECONDS) as is_ours:
        if not is_ours:
            raise unavailable(store.url, "another process has been changing its schema for a minute.")
        with store.write() as connection:
            config = _config()
            config.attributes.update(connection=connection, version_table=VERSION_TABLE)
            yield connection, config


def mismatch(store: Store, state: SchemaState) -> SchemaOutdatedError | SchemaTooNewError:
    """The error for a history whose schema is not this program's, with the command to run."""
    where = without_secrets(store.url)
    if state.current is not None and is_known(state.current):
        return SchemaOutdatedError(
            f"The history at {where} has schema {state.current}, this program needs {state.head}. Run:\n"
            f"  hpo db upgrade --storage {where}"
        )
    return SchemaTooNewError(
        f"The history at {where} has schema {state.current}, which this program does not know: a newer version "
        f"made it.\nUpgrade the program:\n  pip install --upgrade hindsight-hpo"
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    return config


def _migrations() -> Path:
    """The folder of migrations: inside the package when installed, beside it in a source tree."""
    package = Path(__file__).resolve().parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
