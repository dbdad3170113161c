"""How a statement that runs for every trial and every epoch reaches the database without SQLAlchemy's machinery.

Executing a statement by SQLAlchemy takes several times as long as it takes SQLite to do what it says. So it is built of
the tables, as any other, compiled to SQL once, and from then on the driver gets the text.
"""

from collections import namedtuple
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    Text,
    any_,
    bindparam,
    cast,
    func,
    select,
)
from sqlalchemy import Dialect as AnyDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.visitors import replacement_traverse

Dialect = Literal["sqlite", "postgresql"]
Row: TypeAlias = Any  # a named tuple of the columns


class Outcome(NamedTuple):
    """What a statement did."""

    rows: list[Row]  # of a query, or those that RETURNING names
    changed: int  # how many rows

    @property
    def first(self) -> Row | None:
        """The first row, if there is any."""
        return self.rows[0] if self.rows else None


class Statement:
    """A statement that takes its values by the names of its bound parameters; constants are part of its text.

    Only a constant lets a planner see that a partial index answers it. Values must be what the drivers take: numbers,
    text, bytes or None. A statement that differs between the dialects is given as a function of the dialect.
    """

    def __init__(self, statement: Executable | Callable[[Dialect], Executable], *, plain: bool = False) -> None:
        self._statement = statement
        self._plain = plain  # rows are tuples without names, as is right for very many
        self._compiled: dict[str, _Compiled] = {}  # by dialect

    def run(self, connection: Connection, **values: Any) -> Outcome:
        """Execute it. Raises what SQLAlchemy would raise."""
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name) or self._compile(dialect)
        driver: Any = connection.connection.driver_connection
        try:
            cursor = driver.execute(compiled.sql, values | compiled.constants)
            if compiled.as_row is None:
                return Outcome([], cursor.rowcount)
            rows = cursor.fetchall()
            if not self._plain:
                rows = [compiled.as_row(row) for row in rows]
            return Outcome(rows, len(rows))
        except dialect.loaded_dbapi.Error as error:
            raise wrapped(error, dialect, compiled.sql) from error

    def _compile(self, dialect: AnyDialect) -> "_Compiled":
        name: Any = dialect.name
        statement: Any = self._statement(name) if callable(self._statement) else self._statement
        compiled: Any = replacement_traverse(statement, {}, _as_text_where_constant).compile(
            dialect=dialect, compile_kwargs={"render_postcompile": True}
        )
        columns = [column.keyname for column in compiled._result_columns]
        constants = {key: value for key, value in compiled.params.items() if value is not None}
        self._compiled[name] = _Compiled(str(compiled), constants, _row_of(columns) if columns else None)
        return self._compiled[name]


def is_listed(dialect: Dialect, column: ColumnElement[int], name: str) -> ColumnElement[bool]:
    """The condition that a number is in the list that the statement is given under that name, as JSON."""
    given = bindparam(name, type_=Text)
    if dialect == "sqlite":
        listed = func.json_each(given).table_valued("value")
        return column.in_(select(listed.c.value))
    return column == any_(cast(func.translate(given, "[]", "{}"), ARRAY(Integer)))  # as PostgreSQL writes lists


class _Compiled(NamedTuple):
    sql: str
    constants: dict[str, Any]  # that the compiler could not put into the text
    as_row: Callable[[Any], Row] | None  # None: there are no rows


def _row_of(columns: list[str]) -> Callable[[Any], Row]:
    make: Any = namedtuple
    as_row: Callable[[Any], Row] = make("Row", columns, rename=True)._make
    return as_row


def execute(connection: Connection, command: str) -> None:
    """Execute a command as it stands, such as BEGIN. Raises what SQLAlchemy would raise."""
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(command)
    except connection.dialect.loaded_dbapi.Error as error:
        raise wrapped(error, connection.dialect, command) from error


def wrapped(error: Exception, dialect: AnyDialect, sql: str) -> Exception:
    """A driver's error as SQLAlchemy raises it."""
    return DBAPIError.instance(sql, None, error, dialect.loaded_dbapi.Error, hide_parameters=True, dialect=dialect)


def _as_text_where_constant(element: Any, **_options: Any) -> Any:
    if not isinstance(element, BindParameter):
        return None
    return bindparam(element.key, None, type_=element.type) if element.required else element.render_literal_execute()
