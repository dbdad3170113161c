"""What a PostgreSQL server has acknowledged but not yet written to its disk, so that it is told again if it crashes.

Parameters, curves and attributes do not wait for the disk. A server that crashes forgets the last of them, while the
program that wrote them goes on and would finish a trial of which half is missing. SQLite has no such moment: there the
program and the database end together.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from storage.statements import Statement

MARGIN_SECONDS = 5.0  # for a disk that is slower than the server's settings say (heuristic)


class _Written(NamedTuple):
    at: float  # by the monotonic clock
    statement: Statement
    values: Mapping[str, Any]


class Unflushed:
    """The latest statements of a process, each of which may be run again without harm."""

    def __init__(self) -> None:
        self.seconds = MARGIN_SECONDS  # after which the server has written everything
        self._written: deque[_Written] = deque()
        self._is_doubtful = False  # whether a connection was lost since
        self._lock = threading.Lock()

    def add(self, statement: Statement, values: Mapping[str, Any]) -> None:
        """Note a statement that the server has acknowledged."""
        now = time.monotonic()
        with self._lock:
            self._written.append(_Written(now, statement, values))
            self._drop(now - self.seconds)

    def is_flushed(self, until: float) -> None:
        """Note that everything is on the disk that was acknowledged until then, by the monotonic clock."""
        with self._lock:
            self._drop(until)

    def doubt(self) -> None:
        """Note that a connection was lost: the server may have crashed."""
        self._is_doubtful = True

    def tell_again(self, connection: Connection) -> None:
        """Run everything again that the server may have forgotten, in its order, before anybody goes on."""
        if not self._is_doubtful:
            return
        with self._lock:
            for written in self._written:
                try:
                    written.statement.run(connection, **written.values)
                except IntegrityError:
                    continue  # its trial was deleted
            self._is_doubtful = False

    def _drop(self, until: float) -> None:
        while self._written and self._written[0].at < until:
            self._written.popleft()
