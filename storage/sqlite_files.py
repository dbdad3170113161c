"""What a SQLite file allows: may it be written, only read, or would opening it destroy something?"""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool


def wal_of(path: Path) -> Path:
    """The write-ahead log beside a file: what was written last, and is not in the file yet."""
    return path.with_name(f"{path.name}-wal")


def shared_memory_of(path: Path) -> Path:
    """The index of the write-ahead log, which all who have the file open share."""
    return path.with_name(f"{path.name}-shm")


def why_not_opened(path: Path) -> str | None:
    """Why this file must not even be opened; None when it may. SQLite deletes the log of a file without content."""
    if path.exists() and path.stat().st_size == 0 and _size(wal_of(path)):
        return (
            f"the file has been emptied, but what was written last is still in {wal_of(path).name}. "
            "Copy both away before anything else is done with them."
        )
    return None


def reader_options(path: Path) -> dict[str, Any]:
    """How SQLAlchemy must connect to a file that nobody here may write; empty for one that may be written.

    Each connection is a new one, because one that trusts the file not to change never notices that it has.
    """
    if not path.exists() or os.access(path.parent, os.W_OK):
        return {}
    return {"creator": lambda: connect_for_reading(path), "poolclass": NullPool}


def connect_for_reading(path: Path, *, timeout_seconds: float = 5.0) -> sqlite3.Connection:
    """A connection that changes nothing, also where the folder is read-only and SQLite cannot put its files beside it.

    There the file is taken as one that nobody changes, unless somebody is at it: then the files are there already.
    Raises sqlite3.Error.
    """
    mode = "mode=ro"
    if not os.access(path.parent, os.W_OK):
        log = _size(wal_of(path))
        if not log:
            mode = "mode=ro&immutable=1"
        elif not shared_memory_of(path).exists():
            raise sqlite3.OperationalError(
                f"its folder is read-only, and what was written last is in {wal_of(path).name}: "
                "copy both files to a folder that you may write in, and use that copy"
            )
    uri = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_seconds, isolation_level=None, check_same_thread=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
