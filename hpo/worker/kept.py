"""How trials ended, on local disk, while the service cannot be reached.

What is kept are the requests that tell it, each with its idempotency key: so each is sent until it is answered, by this
worker or by the next one on this machine, and is recorded once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from storage.durable_files import draft_of

FOLDER = "spool-of-workers"  # in the folder of the runs
RECORD, DAMAGED, REFUSED, LOCK = ".json", ".damaged", ".refused", ".lock"
_COUNTER = count()


@dataclass(frozen=True, kw_only=True)
class Message:
    """A request that tells how a trial ended."""

    server: str
    path: str
    body: Mapping[str, Any]
    key: str  # by which the service knows that it is the same one
    about: str  # in words


class Kept:
    """The messages that wait in a folder. Many workers may put some into it; one at a time sends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, message: Message) -> Path:
        """Keep a message; it is on the disk when this returns where. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{time.time_ns():020d}-{os.getpid()}-{next(_COUNTER)}{RECORD}"
        with draft_of(path) as draft:
            line = json.dumps(asdict(message))
            draft.write_text(f"{sha256(line.encode()).hexdigest()}\n{line}\n", encoding="utf-8")
        return path

    def waiting(self, server: str) -> list[tuple[Path, Message]]:
        """What waits for a service, oldest first. A file that is damaged is set aside for a person to look at."""
        found = []
        for path in sorted(self._folder.glob(f"*{RECORD}")):
            with suppress(FileNotFoundError):
                try:
                    message = _read(path)
                except ValueError:
                    path.replace(path.with_suffix(DAMAGED))
                    continue
                if message.server == server:
                    found.append((path, message))
        return found

    def set_aside(self, path: Path) -> Path:
        """Leave a message that the service refuses to a person; where it is then."""
        return path.replace(path.with_suffix(REFUSED))

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else sends what is kept here; nobody does before the block has ended."""
        if not self._folder.is_dir():
            yield False
            return
        try:
            with FileLock(self._folder / LOCK, timeout=0):
                yield True
        except Timeout:
            yield False


def _read(path: Path) -> Message:
    """Raises ValueError for what is cut or damaged."""
    digest, _, line = path.read_bytes().partition(b"\n")
    line = line.removesuffix(b"\n")
    if sha256(line).hexdigest().encode() != digest:
        raise ValueError(f"{path} was cut short")
    return Message(**json.loads(line))
