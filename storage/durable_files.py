"""How a file is written so that a crash leaves the whole new one, or what was there before."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COMPANIONS = ("-wal", "-shm", "-journal", ".schema.lock", ".writers.lock")  # what a database may leave beside its file


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A new path beside `path`; what has been written there is at `path`, and on the disk, once the block has ended.

    After an error nothing is left of it. Raises OSError.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.draft")
    try:
        yield draft
        sync_file(draft)
        draft.replace(path)
        sync_folder(path.parent)
    finally:
        for suffix in ("", *COMPANIONS):
            with suppress(OSError):
                draft.with_name(draft.name + suffix).unlink()


def sync_file(path: Path) -> None:
    """Wait until the content of the file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in the folder are on the disk; where folders cannot be synced, nothing is waited for."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
