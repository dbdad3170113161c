"""Where a scenario takes place: databases of either kind, and their server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.postgresql import database, postgresql_server

Restart = Callable[[Literal["fast", "immediate"]], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Databases of one kind, on this disk, with every commit as safe as by default."""

    kind: Literal["SQLite", "PostgreSQL"]
    fresh: Callable[[], AbstractContextManager[str]]  # the URL of an empty database
    restart: Restart | None = None  # of the server, where there is one


def sqlite_place(folder: Path) -> Place:
    """Files in a folder."""

    @contextmanager
    def fresh() -> Iterator[str]:
        with tempfile.TemporaryDirectory(dir=folder, prefix="reliability-") as inside:
            yield f"sqlite:///{inside}/history.db"

    return Place(kind="SQLite", fresh=fresh)


@contextmanager
def postgresql_place() -> Iterator[Place]:
    """A server of its own."""
    with postgresql_server() as server:
        yield Place(kind="PostgreSQL", fresh=lambda: database(server.url), restart=server.restart)
