"""How a whole history is saved in one file, and brought back, perhaps into a database of the other kind.

A backup is a SQLite file with the tables of its history, whatever the history is kept in. It shows one moment, and
nobody waits for it: neither those who write meanwhile, nor those who read. What is brought back is there as a whole or
not at all, and never replaces anything unasked.
"""

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, create_engine, func, inspect, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from storage import schema
from storage.advice import advised
from storage.database import BUSY_TIMEOUT_SECONDS, Store, insert_many, unavailable
from storage.durable_files import draft_of, sync_folder
from storage.errors import BackupError, SchemaTooNewError, StoreUnavailableError
from storage.masking import without_secrets
from storage.models import metadata
from storage.sqlite_files import connect_for_reading, shared_memory_of, wal_of

PAGES_AT_A_TIME = 2_000  # 8 MB
ROWS_AT_A_TIME = 10_000
PROBLEMS_SHOWN = 3
IN_USE_SECONDS = 3.0  # how long to wait for others to be done with a file that is to be replaced

Progress = Callable[[float], None]  # is told the share that is done, from 0 to 1


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a backup holds."""

    path: Path
    revision: str  # of the schema
    rows: Mapping[str, int]  # by table


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What has been brought back."""

    contents: Contents
    kept: Path | None  # where the file is that was replaced


def backup(store: Store, path: Path, *, force: bool = False, progress: Progress | None = None) -> Contents:
    """Save the history in a file, as it is at this moment; `force` overwrites a file that is there.

    A history whose schema is older than this program's is saved as it is.
    Raises BackupError, StoreUnavailableError, SchemaTooNewError.
    """
    path = path.expanduser().absolute()
    revision = _revision_of(store)
    _refuse_to_write(store, path, force=force)
    with _blaming_file(path), draft_of(path) as draft:
        if store.dialect == "sqlite":
            assert store.path is not None
            with _blaming_store(store):
                _copy_pages(store.path, draft, progress)
            _settle(draft, "DELETE")  # so that it can be read where nothing may be written
        else:
            _copy_rows(store, draft, revision, progress)
        contents = examine(draft, what=f"the copy of {without_secrets(store.url)}", thoroughly=False)
    return Contents(path=path, revision=contents.revision, rows=contents.rows)


def restore(path: Path, url: str, *, force: bool = False, progress: Progress | None = None) -> Restored:
    """Bring a backup back into the database at `url`, which must be empty, unless `force` is to replace what it holds.

    An older backup is upgraded on its way; the file itself is never changed. A SQLite file that is replaced is kept
    beside the new one; the content of a PostgreSQL database is not.
    Raises BackupError, StoreUnavailableError, SchemaTooNewError.
    """
    path, store = path.expanduser().absolute(), Store(url)
    if store.path == path.resolve():
        raise BackupError(f"{path} is the history itself, not a backup of it.")
    contents = examine(path)
    if not schema.is_known(contents.revision):
        raise SchemaTooNewError(
            f"The backup {path} has schema {contents.revision}, which this program does not know: a newer version "
            f"made it.\nUpgrade the program:\n  pip install --upgrade hindsight-hpo"
        )
    try:
        if store.dialect == "sqlite":
            return Restored(contents=contents, kept=_restore_file(contents, store, force=force, progress=progress))
        _restore_rows(contents, store, force=force, progress=progress)
        return Restored(contents=contents, kept=None)
    finally:
        store.dispose()


def examine(path: Path, *, what: str | None = None, thoroughly: bool = True) -> Contents:
    """What the backup at `path` holds, once it has been found to be whole; `what` names it in errors.

    `thoroughly` looks at the content of indexes and at references too. Raises BackupError.
    """
    name = what or f"the backup {path}"
    if not path.is_file():
        raise BackupError(f"There is no file {path}.")
    with _blaming_file(path, name), closing(connect_for_reading(path)) as connection:
        connection.execute("BEGIN")
        check = "integrity_check" if thoroughly else "quick_check"
        problems = [row[0] for row in connection.execute(f"PRAGMA {check}({PROBLEMS_SHOWN})")]
        if problems != ["ok"]:
            raise BackupError(f"{name} is damaged: {'; '.join(problems)}".replace("\n", " "))
        tables = _tables_in(connection)
        if schema.VERSION_TABLE not in tables:
            raise BackupError(f"{name} is not one: there is no history in it.")
        (revision,) = connection.execute(f"SELECT max(version_num) FROM {schema.VERSION_TABLE}").fetchone()
        if revision is None:
            raise BackupError(f"{name} is not one: there is no history in it.")
        if thoroughly:
            broken = connection.execute("PRAGMA foreign_key_check").fetchmany(PROBLEMS_SHOWN)
            if broken:
                raise BackupError(f"{name} is damaged: {_dangling(broken)}")
        counted = (table for table in tables if table != schema.VERSION_TABLE)
        rows = {table: _count(connection, table) for table in counted}
    return Contents(path=path, revision=revision, rows=rows)


# Saving


def _revision_of(store: Store) -> str:
    state = schema.schema_state(store.url)
    if state.current is None:
        raise unavailable(store.url, "there is no history in this database.")
    if not schema.is_known(state.current):
        raise schema.mismatch(store, state)
    return state.current


def _refuse_to_write(store: Store, path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise BackupError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise BackupError(f"There is no folder {path.parent}.")
    if store.path is not None and path.exists() and path.samefile(store.path):
        raise BackupError(f"{path} is the history itself; name another file.")
    if path.exists() and not force:
        raise BackupError(f"{path} is there already; name another file, or overwrite it by --force.")


def _copy_pages(source: Path, draft: Path, progress: Progress | None) -> None:
    """Copy a SQLite database, its write-ahead log included, as it is at this moment."""

    def tell(_status: int, remaining: int, total: int) -> None:
        if progress is not None and total:
            progress(1 - remaining / total)

    with closing(connect_for_reading(source, timeout_seconds=BUSY_TIMEOUT_SECONDS)) as origin:
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on it sees one moment
        with closing(sqlite3.connect(draft)) as copy:
            copy.execute("PRAGMA synchronous = OFF")  # the disk is waited for once, when all is there
            origin.backup(copy, pages=PAGES_AT_A_TIME, progress=tell)


def _settle(draft: Path, journal_mode: str) -> None:
    """Move everything into the one file, and leave it in that mode."""
    with closing(sqlite3.connect(draft)) as copy:
        for mode in ("DELETE", journal_mode):
            copy.execute(f"PRAGMA journal_mode = {mode}")


def _copy_rows(store: Store, draft: Path, revision: str, progress: Progress | None) -> None:
    """Copy a PostgreSQL database table by table, all as they are at one moment."""
    _upgrade(draft, revision)
    tables = _reflected(draft)
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy, store.read() as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "foreign_keys = OFF"):
            copy.execute(f"PRAGMA {pragma}")  # a draft may be lost
        total = sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables)
        told = _Told(progress, total)
        copy.execute("BEGIN")
        for table in tables:
            statement = _insertion(table.name, [column.name for column in table.columns])
            for rows in _streamed(connection, table):
                copy.executemany(statement, rows)
                told.more(len(rows))
            _continue_numbers(copy, table.name, _last_number(connection, table))
        copy.execute("COMMIT")
        copied = sum(_count(copy, table.name) for table in tables)
    if copied != total:
        raise BackupError(f"The copy has {copied} rows where the history has {total}.")


def _reflected(file: Path) -> list[Table]:
    """The tables that a schema had at the revision of the file, parents first."""
    engine, found = create_engine(f"sqlite:///{file}"), MetaData()
    found.reflect(engine)
    engine.dispose()
    return [table for table in found.sorted_tables if table.name != schema.VERSION_TABLE]


def _streamed(connection: Connection, table: Table) -> Iterator[Sequence[Any]]:
    query = select(table).order_by(*table.primary_key.columns)
    result = connection.execute(query, execution_options={"yield_per": ROWS_AT_A_TIME})
    return (list(map(tuple, rows)) for rows in result.partitions())


def _last_number(connection: Connection, table: Table) -> int:
    """The highest id that PostgreSQL has given, also to a row that is gone."""
    keys = [column.name for column in table.primary_key.columns]
    sequence = connection.scalar(
        text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": keys[0]}
    )
    if sequence is None:
        return 0
    last, is_called = connection.execute(text(f"SELECT last_value, is_called FROM {sequence}")).one()
    return int(last) if is_called else 0


def _continue_numbers(copy: sqlite3.Connection, table: str, last: int) -> None:
    """Let SQLite, where it remembers the ids of a table, give none again that was given before."""
    (definition,) = copy.execute("SELECT sql FROM sqlite_schema WHERE name = ?", [table]).fetchone()
    if last and "AUTOINCREMENT" in definition.upper():
        copy.execute("DELETE FROM sqlite_sequence WHERE name = ?", [table])
        copy.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [table, last])


# Bringing back into a SQLite file


def _restore_file(contents: Contents, store: Store, *, force: bool, progress: Progress | None) -> Path | None:
    target = store.path
    assert target is not None
    with store.exclusive("schema", wait_seconds=BUSY_TIMEOUT_SECONDS) as is_ours:
        if not is_ours:
            raise unavailable(store.url, "another process has been changing its schema for a minute.")
        found = _content_of_file(target)
        if found is not None and not force:
            raise _would_replace(store, found)
        with _blaming_file(target), draft_of(target) as draft:
            with _blaming_file(contents.path):
                _copy_pages(contents.path, draft, progress)
            _upgrade(draft)
            _check_counts(contents, examine(draft, what="the restored copy", thoroughly=False).rows)
            _settle(draft, "WAL")
            return _set_aside(target, store)


def _content_of_file(path: Path) -> str | None:
    """What a file holds that must not be replaced unasked; None for nothing."""
    if not path.exists() or (path.stat().st_size == 0 and not wal_of(path).exists()):
        return None
    try:
        with closing(connect_for_reading(path)) as connection:
            rows = {table: _count(connection, table) for table in _tables_in(connection)}
    except sqlite3.Error as error:
        return f"something that cannot be read ({error})"
    return _described(rows)


def _set_aside(target: Path, store: Store) -> Path | None:
    """Keep what is at `target` under another name, ready to be replaced; returns where it is."""
    if not target.exists() or (target.stat().st_size == 0 and not wal_of(target).exists()):
        return None
    _take_out_of_use(target, store)
    kept = _free_name(target)
    for companion in (wal_of, shared_memory_of):  # a log that is left would be taken for the new file's
        with suppress(FileNotFoundError):
            companion(target).replace(companion(kept))
    try:
        kept.hardlink_to(target)  # so that there is a file at any time
    except OSError:
        target.replace(kept)
    sync_folder(target.parent)
    return kept


def _take_out_of_use(target: Path, store: Store) -> None:
    """Move what is in the log into the file. Raises StoreUnavailableError while somebody has it open."""
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(target, timeout=IN_USE_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            reason = "other processes have it open; it can be replaced once they have ended."
            raise unavailable(store.url, reason) from error


def _free_name(target: Path) -> Path:
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    names = (f"{target.name}.replaced-{stamp}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1_000))))
    return next(path for path in map(target.with_name, names) if not path.exists())


# Bringing back into PostgreSQL


def _restore_rows(contents: Contents, store: Store, *, force: bool, progress: Progress | None) -> None:
    if not force:  # before anything is changed, its schema included
        found = _content_of_server(store)
        if found is not None:
            raise _would_replace(store, found)
    schema.upgrade(store.url)
    with (
        _current_version(contents) as current,
        closing(connect_for_reading(current.path)) as source,
        store.write() as connection,
    ):
        told = _Told(progress, sum(current.rows.values()))
        _replace_rows(source, current, connection, store, force=force, told=told)


def _content_of_server(store: Store) -> str | None:
    if schema.schema_state(store.url).current is None:
        return None  # tables of such names, if any, are another program's: the upgrade refuses them
    with store.read() as connection:
        known = set(inspect(connection).get_table_names()) & set(metadata.tables)
        return _described({table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in known})


@contextmanager
def _current_version(contents: Contents) -> Iterator[Contents]:
    """The backup itself, or a copy of it with this program's schema."""
    if contents.revision == schema.head():
        yield contents
        return
    with tempfile.TemporaryDirectory(prefix="hindsight-restore-") as folder:
        copy = Path(folder) / "upgraded.db"
        with _blaming_file(contents.path):
            _copy_pages(contents.path, copy, None)
        _upgrade(copy)
        upgraded = examine(copy, what="the upgraded copy", thoroughly=False)
        _check_counts(contents, upgraded.rows)
        yield upgraded


def _replace_rows(
    source: sqlite3.Connection, contents: Contents, connection: Connection, store: Store, *, force: bool, told: "_Told"
) -> None:
    """Put every row of the file in the place of those in the database. Nobody sees a part of it."""
    tables = metadata.sorted_tables
    names = ", ".join(table.name for table in tables)
    connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    if not force:  # somebody may have been faster
        found = _described({table.name: _rows_in(connection, table) for table in tables})
        if found is not None:
            raise _would_replace(store, found)
    connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    source.execute("BEGIN")
    given = dict(source.execute("SELECT name, seq FROM sqlite_sequence")) if _has_sequences(source) else {}
    for table in tables:
        columns = [column.name for column in table.columns]
        selected = source.execute(_selection(table.name, columns))
        while rows := selected.fetchmany(ROWS_AT_A_TIME):
            with _blaming_row(table):
                insert_many(connection, table, columns, rows)
            told.more(len(rows))
        _continue_sequence(connection, table, int(given.get(table.name, 0)))
    connection.exec_driver_sql(f"ANALYZE {names}")
    _check_counts(contents, {table.name: _rows_in(connection, table) for table in tables})


def _continue_sequence(connection: Connection, table: Table, last: int) -> None:
    """Let the ids that PostgreSQL gives go on after those that are there, and those that have been given before."""
    column = table.autoincrement_column
    if column is None:
        return
    highest = max(last, connection.scalar(select(func.max(column))) or 0)
    connection.execute(
        text("SELECT setval(pg_get_serial_sequence(:table, :column), :last, :is_used)"),
        {"table": table.name, "column": column.name, "last": max(highest, 1), "is_used": highest > 0},
    )


@contextmanager
def _blaming_row(table: Table) -> Iterator[None]:
    """Translate errors about what a row holds; those about the connection are the store's."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise BackupError(f"A row of {table.name} does not go into PostgreSQL: {str(error.orig).strip()}") from error


# What both ways share


class _Told:
    """Tells the share of rows that is done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def more(self, rows: int) -> None:
        """Note that so many more are done."""
        self._done += rows
        if self._progress is not None and self._total:
            self._progress(min(1.0, self._done / self._total))


@contextmanager
def _blaming_store(store: Store) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):  # only the copy is written
            raise
        raise unavailable(store.url, advised(str(error), without_secrets(store.url))) from error


@contextmanager
def _blaming_file(path: Path, name: str | None = None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        what = "There is no room left on the disk of" if "full" in str(error) else "Cannot use"
        raise BackupError(f"{what} {name or path}: {error}.") from error
    except OSError as error:
        if isinstance(error, ConnectionError):  # of ours, about the store
            raise
        raise BackupError(f"Cannot write {path}: {error.strerror or error}.") from error


def _tables_in(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    return [name for (name,) in connection.execute(query)]


def _has_sequences(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is not None


def _count(connection: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')  # another program's tables may be called anything
    (count,) = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()
    return int(count)


def _rows_in(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _upgrade(draft: Path, revision: str = "head") -> None:
    """Give a draft the tables of a revision, as a new history or as one that was older."""
    try:
        schema.upgrade(f"sqlite:///{draft}", revision)
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, DBAPIError):
            raise error.__cause__.orig or error from error  # about the draft, of which nobody has heard
        raise
    except (ValueError, LookupError) as error:
        raise BackupError(f"What was saved cannot be upgraded to {revision}: {error}.") from error


def _selection(table: str, columns: Sequence[str]) -> str:
    return f"SELECT {', '.join(columns)} FROM {table}"


def _insertion(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _described(rows: Mapping[str, int]) -> str | None:
    """What these tables hold, for a person; None for nothing. The version of a schema is no content."""
    if not set(rows) <= {*metadata.tables, schema.VERSION_TABLE}:
        return "tables of another program"
    filled = {table: count for table, count in rows.items() if count and table != schema.VERSION_TABLE}
    if not filled:
        return None
    return ", ".join(f"{filled[table]:,} {table}" for table in ("studies", "trials") if table in filled) or "something"


def _would_replace(store: Store, found: str) -> BackupError:
    return BackupError(
        f"The history at {without_secrets(store.url)} holds {found}.\n"
        "Restore into an empty database (--storage URL), or replace all that is there by --force."
    )


def _check_counts(contents: Contents, rows: Mapping[str, int]) -> None:
    """Every study, trial and value has arrived; an upgrade may add rows of other kinds."""
    for table, expected in contents.rows.items():
        if table in rows and rows[table] < expected:
            raise BackupError(f"Only {rows[table]} of {expected} rows of {table} have arrived. Nothing was changed.")


def _dangling(broken: Iterable[tuple[str, int, str, int]]) -> str:
    return "; ".join(
        f"row {row} of {table} belongs to a row of {parent} that is not there" for table, row, parent, _ in broken
    )
