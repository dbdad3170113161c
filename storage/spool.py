"""Results on local disk while the database cannot be reached.

What a trial brought is written to a file, which survives a crash and a power cut, and told to the history as soon as
that can be reached: in order, and as often as it takes, for a result that is told twice is recorded once. A result
whose trial was given to somebody else in the meantime is kept by the history as a late one.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.trial import TrialState
from sqlalchemy import select

from storage.database import Store
from storage.durable_files import draft_of
from storage.errors import StaleAttemptError, StoreUnavailableError
from storage.models import studies, trials
from storage.studies import Claim, finish_trial, release_trial, report

VERSION = 1  # of what is in a file
RECORD, DAMAGED, LOCK = ".json", ".damaged", ".lock"  # how the names of files end
SAME_MOMENT_SECONDS = 1e-3  # a time may have been a datetime in between, which has microseconds
_COUNTER = count()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial reported at a step."""

    step: int
    value: float | None  # None: only the metrics were logged
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """A trial that came to its end."""

    state: TrialState  # COMPLETE, PRUNED or FAIL
    value: float | None
    more_values: Sequence[float] = ()  # of further objectives, if the study has any
    measured: Mapping[str, float] = field(default_factory=dict)  # what else is known of the outcome, by name
    notes: Sequence[str] = ()  # how it ran, where that is not as asked
    cost_seconds: float | None = None
    epochs: int | None = None
    peak_memory_bytes: int | None = None
    checkpoint: str | None = None
    error: str | None = None
    finished_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class Release:
    """A trial that goes back to the queue."""

    reason: str
    counts: bool = False  # whether its process died


@dataclass(frozen=True, kw_only=True)
class Result:
    """How an attempt at a trial ended, with what the history does not know of it yet."""

    study: str
    study_created_at: float  # seconds since the epoch; with the name it tells the study from all others
    claim: Claim
    end: Finish | Release
    reports: Sequence[Report] = ()


def tell(store: Store, result: Result) -> bool:
    """Tell the history of a result, which may be told again; returns whether the trial is in the queue again.

    Raises StoreUnavailableError; StaleAttemptError when the trial was given to somebody else: a value is kept then.
    """
    with suppress(StaleAttemptError):  # the end decides
        for each in result.reports:
            report(store, result.claim, step=each.step, value=each.value, metrics=each.metrics)
    if isinstance(result.end, Release):
        return release_trial(store, result.claim, reason=result.end.reason, counts=result.end.counts)
    finish_trial(store, result.claim, **vars(result.end))
    return False


class Spool:
    """Results that wait for their history, in a folder, and in another one for when the first takes none.

    Many processes may put results into it; one at a time delivers them.
    """

    def __init__(self, folder: Path, *, fallback: Path | None = None) -> None:
        self._folders = (folder, fallback or folder_for_emergencies())

    def put(self, result: Result) -> Path:
        """Keep a result; it is on the disk when this returns where. Raises OSError when no disk takes it."""
        try:
            return self._put(self._folders[0], result)
        except OSError:
            return self._put(self._folders[1], result)

    def waiting(self) -> list[Path]:
        """The results that have not been delivered, oldest first."""
        return sorted(self._files(RECORD), key=lambda path: path.name)

    def damaged(self) -> list[Path]:
        """What could not be read, or was refused for good: set aside for a person to look at."""
        return sorted(self._files(DAMAGED))

    def deliver(self, store: Store) -> int:
        """Tell the history of those results that are its own; returns how many. Those of other histories stay.

        Nothing is done while another process delivers. Raises StoreUnavailableError: what is left stays for later.
        """
        if not self.waiting():
            return 0
        with _alone(self._folders) as is_alone:
            return sum(_deliver(store, path) for path in self.waiting()) if is_alone else 0

    def _put(self, folder: Path, result: Result) -> Path:
        _make_private(folder)
        path = folder / f"{time.time_ns():020d}-{os.getpid()}-{next(_COUNTER)}{RECORD}"
        with draft_of(path) as draft:
            draft.write_text(_written(result), encoding="utf-8")
        return path

    def _files(self, ending: str) -> Iterator[Path]:
        for folder in self._folders:
            with suppress(OSError):  # there is none, or it is not ours
                yield from (path for path in _own(folder).iterdir() if path.suffix == ending)


def folder_for_emergencies() -> Path:
    """Where results go when the disk of the runs takes none."""
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"hindsight-spool-{owner}"


def _deliver(store: Store, path: Path) -> bool:
    """Tell the history of the result in a file, which goes then; whether it was this history's and could be told."""
    try:
        result = _read(path)
    except FileNotFoundError:
        return False
    except ValueError:
        _set_aside(path)
        return False
    if result is None or not _is_known(store, result):
        return False
    try:
        with suppress(StaleAttemptError):  # it has been kept as a late one
            tell(store, result)
    except StoreUnavailableError:
        raise
    except (ValueError, LookupError):  # refused, and will be for ever
        _set_aside(path)
        return False
    path.unlink(missing_ok=True)
    return True


def _is_known(store: Store, result: Result) -> bool:
    """Whether the trial is in this history: ids and names alone might be another's."""
    query = (
        select(studies.c.name, studies.c.created_at, trials.c.number)
        .join_from(trials, studies)
        .where(trials.c.id == result.claim.trial_id)
    )
    with store.read() as connection:
        found = connection.execute(query).first()
    if found is None or (found.name, found.number) != (result.study, result.claim.number):
        return False
    return bool(abs(found.created_at - result.study_created_at) < SAME_MOMENT_SECONDS)


def _set_aside(path: Path) -> None:
    path.replace(path.with_suffix(DAMAGED))


def _written(result: Result) -> str:
    """A result as text, its digest on the first line."""
    kind = "finish" if isinstance(result.end, Finish) else "release"
    content = asdict(result) | {"kind": kind, "version": VERSION}
    if isinstance(result.end, Finish):
        content["end"]["state"] = result.end.state.name
    line = json.dumps(content)
    return f"{sha256(line.encode()).hexdigest()}\n{line}\n"


def _read(path: Path) -> Result | None:
    """The inverse of `_written`; None where a newer program wrote it. Raises ValueError for what is cut or damaged."""
    digest, _, line = path.read_bytes().partition(b"\n")
    line = line.removesuffix(b"\n")
    if sha256(line).hexdigest().encode() != digest:
        raise ValueError(f"{path} was cut short")
    content = json.loads(line)
    if content["version"] != VERSION:
        return None
    end = content["end"]
    return Result(
        study=content["study"],
        study_created_at=content["study_created_at"],
        claim=Claim(**content["claim"]),
        end=Release(**end) if content["kind"] == "release" else _finish(end),
        reports=tuple(Report(**each) for each in content["reports"]),
    )


def _finish(end: Mapping[str, Any]) -> Finish:
    several = {name: tuple(end.get(name, ())) for name in ("more_values", "notes")}  # not in earlier programs' records
    return Finish(**{**end, "state": TrialState[end["state"]], **several})


@contextmanager
def _alone(folders: Sequence[Path]) -> Iterator[bool]:
    """Whether nobody else delivers from any of the folders that are there; nobody does before the block has ended."""
    locks = [FileLock(folder / LOCK, timeout=0) for folder in folders if folder.is_dir()]
    held = []
    try:
        for lock in locks:
            lock.acquire()
            held.append(lock)
        yield True
    except Timeout:
        yield False
    finally:
        for lock in held:
            lock.release()


def _make_private(folder: Path) -> None:
    """Make the folder, for us alone. Raises OSError where somebody else has made it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _own(folder)


def _own(folder: Path) -> Path:
    """The folder, once it is found to be ours: what others put into it would be taken for results."""
    if hasattr(os, "getuid") and folder.lstat().st_uid not in (os.getuid(), 0):
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder
