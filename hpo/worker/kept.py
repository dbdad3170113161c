"""How trials ended, on local disk, until the service has been told.

What is kept are the requests that tell it, each with its idempotency key: so each is sent until it is answered, by this
worker or by the next one on this machine, and is recorded once.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any

from hpo.worker.heartbeat import Lease
from storage.durable_files import draft_of

FOLDER = "spool-of-workers"  # in the folder of the runs
RECORD, DAMAGED, REFUSED = ".json", ".damaged", ".refused"
_COUNTER = count()


@dataclass(frozen=True, kw_only=True)
class Message:
    """A request that tells how a trial ended, with what has to be told before."""

    server: str
    path: str
    body: Mapping[str, Any]
    key: str  # by which the service knows that it is the same one
    about: str  # in words
    worker: str = ""  # who has the trial, as the service knows him
    reports: tuple[Mapping[str, Any], ...] = ()  # of the trial, which the service has not been told

    @property
    def trial(self) -> str:
        """The trial's path."""
        return self.path.rpartition("/")[0]

    @property
    def held(self) -> Lease:
        """The attempt that has ended."""
        _, study, _, number = self.trial.removeprefix("/").split("/")
        return int(study), int(number), int(self.body["attempt"])


class Kept:
    """The messages in a folder. Many workers may share it: each sends its own, and those of workers that have ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ours: dict[Path, BufferedReader] = {}  # opened, and locked as long as this process lives

    def put(self, message: Message) -> Path:
        """Keep a message, as ours; it is on the disk when this returns where. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{time.time_ns():020d}-{os.getpid()}-{next(_COUNTER)}{RECORD}"
        with ExitStack() as failed:
            with draft_of(path) as draft:
                line = json.dumps(asdict(message))
                draft.write_text(f"{sha256(line.encode()).hexdigest()}\n{line}\n", encoding="utf-8")
                file = failed.enter_context(draft.open("rb"))
                _lock(file)  # before anybody sees it
            failed.pop_all()
        self._ours[path] = file
        return path

    def take_left(self, server: str) -> list[tuple[Path, Message]]:
        """What workers that have ended left for a service, oldest first: ours from now on."""
        return [
            (path, message) for path, message in self.waiting(server) if path not in self._ours and self._take(path)
        ]

    def waiting(self, server: str) -> list[tuple[Path, Message]]:
        """What waits for a service, oldest first. A file that is damaged is set aside for a person to look at."""
        found = []
        for path in sorted(self._folder.glob(f"*{RECORD}")):
            with suppress(FileNotFoundError):
                try:
                    message = _read(path)
                except (ValueError, TypeError):
                    path.replace(path.with_suffix(DAMAGED))
                    continue
                if message.server == server:
                    found.append((path, message))
        return found

    def drop(self, path: Path) -> None:
        """Forget one of ours, which has been told."""
        path.unlink(missing_ok=True)
        self._ours.pop(path).close()

    def set_aside(self, path: Path) -> Path:
        """Leave one of ours, which the service refuses, to a person; where it is then."""
        aside = path.replace(path.with_suffix(REFUSED))
        self._ours.pop(path).close()
        return aside

    def close(self) -> None:
        """Leave what is kept to the next worker."""
        while self._ours:
            self._ours.popitem()[1].close()

    def _take(self, path: Path) -> bool:
        with ExitStack() as failed, suppress(FileNotFoundError):
            file = failed.enter_context(path.open("rb"))
            if _lock(file) and path.exists():  # who had it may have told it meanwhile
                self._ours[path] = file
                failed.pop_all()
                return True
        return False


def _lock(file: BufferedReader) -> bool:
    """Whether nobody else has it. On a disk without locks, each worker sends all: the key lets it count once."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _read(path: Path) -> Message:
    """Raises ValueError for what is cut or damaged."""
    digest, _, line = path.read_bytes().partition(b"\n")
    line = line.removesuffix(b"\n")
    if sha256(line).hexdigest().encode() != digest:
        raise ValueError(f"{path} was cut short")
    fields = json.loads(line)
    return Message(**{**fields, "reports": tuple(fields.get("reports", ()))})
