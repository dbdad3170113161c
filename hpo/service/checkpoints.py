"""How does the model of a trial that a worker trained come to the server, and which file stands for it there?

The worker sends the trial's checkpoint in parts, before it tells how the trial ended; a part that is sent again does no
harm, and a connection that broke goes on where it was. What came from elsewhere has a name by which whoever reads it
reads weights only (`trainers.trust`). A worker's own word for a place opens nothing here, but for the checkpoint of its
own attempt in a folder of runs that it shares with the server. Of attempts that came to nothing, nothing is kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpo.errors import SettingsError
from hpo.running.attempts import earlier_attempts, folder_of, study_folder
from hpo.service.state import Service
from storage import history
from storage.durable_files import sync_folder
from storage.studies import running_attempts
from trainers.job import BEST_CHECKPOINT, COMPRESSED_MODEL, UPLOADED_CHECKPOINT

MOST_BYTES = 2 * 2**30  # of a checkpoint; larger ones are for a folder that both share
MOST_PART_BYTES = 8 * 2**20  # at once: proxies take as much
QUIET_SECONDS = 3_600.0  # without a part, after which nobody goes on
LEFT_FREE_BYTES = 2**30  # of the disk: a history that lies there can be written even so

File = Literal["checkpoint", "compressed"]  # what was compressed of it lies beside it
NAMES: dict[File, str] = {"checkpoint": UPLOADED_CHECKPOINT, "compressed": COMPRESSED_MODEL}
_OF_A_HOST = re.compile(r"[\w.\-]+:(?P<path>/.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Whose:
    """The attempt at a trial to which a checkpoint belongs."""

    study_id: int
    trial: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a file that is being sent."""

    file: File
    size: int  # bytes of the whole
    digest: str  # SHA-256 of the whole, in hexadecimal digits
    offset: int
    content: bytes  # empty: only asks how much is there


def take(service: Service, whose: Whose, part: Part) -> int:
    """Keep a part; returns how many bytes of the file are there, from which to go on.

    With its first part goes what was sent of earlier attempts at the trial. Raises SettingsError for what is too large,
    fits on no disk, or is not what its digest says; StudyNotFoundError.
    """
    if part.size > MOST_BYTES:
        raise SettingsError(
            f"the checkpoint has {part.size:,} bytes, and at most {MOST_BYTES:,} are taken; let the server and its "
            "workers share a folder of runs (--runs)"
        )
    whole = _folder(service, whose) / NAMES[part.file]
    if _is(whole, part):
        return part.size
    draft = whole.with_name(f"{whole.name}.{part.digest[:16]}.part")
    try:
        if part.offset == 0:
            _drop_others(whole, draft)
        return _write(draft, whole, part, runs=service.runs)
    except OSError as error:
        raise SettingsError(f"the server cannot keep the checkpoint: {error.strerror or error}") from error


def place_told(service: Service, whose: Whose, told: str | None) -> str | None:
    """What the history holds as the place of a checkpoint that a worker tells of: a file that is here, or only words.

    told: as `HOST:/PATH`, by which whoever needs it may find it there.
    """
    if told is None:
        return None
    uploaded = _folder(service, whose) / UPLOADED_CHECKPOINT
    if uploaded.is_file():
        return str(uploaded)
    return shared_place(service, whose, told) or (told if _OF_A_HOST.fullmatch(told) else f"elsewhere:{told}")


def shared_place(service: Service, whose: Whose, told: str) -> str | None:
    """The best checkpoint of that attempt in our own folder of runs, if that is what a worker tells of.

    The study's folder is known by its name only: what follows tells services apart, and a worker knows ours by an
    address of his own.
    """
    found = _OF_A_HOST.fullmatch(told)
    if found is None or "\0" in told:
        return None
    path, ours = Path(found["path"]), _folder(service, whose).relative_to(service.runs)
    try:
        study, *attempt_and_file = path.resolve().relative_to(service.runs.resolve()).parts
        is_ours = (
            path.name == BEST_CHECKPOINT
            and study.rpartition("-")[0] == ours.parts[0].rpartition("-")[0]
            and tuple(attempt_and_file[:2]) == ours.parts[1:]
            and path.exists()
        )
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a circle of links, or another folder
        return None
    return str(path) if is_ours else None


def drop_unused(service: Service, whose: Whose) -> None:
    """Remove what was sent in vain, now that the attempt's end is recorded: half files, and all of earlier attempts."""
    with suppress(OSError):  # it only takes up room
        for name in NAMES.values():
            _drop_others(_folder(service, whose) / name, None)


def sweep(service: Service) -> None:
    """Remove what is half sent, and nobody goes on with: of attempts that do not run any more, for an hour.

    One that runs stays whatever its lease: after an outage its worker goes on. What lies in folders of no study of this
    history may be another's, and stays.
    """
    quiet_since = time.time() - QUIET_SECONDS
    drafts: dict[str, list[Path]] = {}  # by the folder of their study
    for draft in _drafts(service.runs):
        if _is_quiet(draft, quiet_since):
            drafts.setdefault(draft.parents[2].name, []).append(draft)
    for study in history.list_studies(service.store) if drafts else ():
        folder = study_folder(service.runs, study.name, store_url=service.store.url, created_at=study.created_at)
        if folder.name not in drafts:
            continue
        running = {
            folder_of(folder, number=trial, attempt=attempt)
            for trial, attempt in running_attempts(service.store, study.study_id)
        }
        for draft in drafts[folder.name]:
            if draft.parent not in running and _is_quiet(draft, quiet_since):  # a part may have come meanwhile
                with suppress(OSError):
                    draft.unlink(missing_ok=True)


def _drafts(runs: Path) -> Iterator[Path]:
    """What is half sent of any attempt; the rest is for another time where a folder goes meanwhile."""
    for name in NAMES.values():
        with suppress(FileNotFoundError):
            yield from runs.glob(f"*/trial-*/attempt-*/{name}.*.part")


def _is_quiet(draft: Path, since: float) -> bool:
    """Whether no part of it has come since then; False where it is gone."""
    try:
        return draft.stat().st_mtime < since
    except OSError:
        return False


def _folder(service: Service, whose: Whose) -> Path:
    study = history.study_of_id(service.store, whose.study_id)
    folder = study_folder(service.runs, study.name, store_url=service.store.url, created_at=study.created_at)
    return folder_of(folder, number=whose.trial, attempt=whose.attempt)


def _is(whole: Path, part: Part) -> bool:
    """Whether the file is there already: the answer to its last part may have been lost."""
    return whole.is_file() and whole.stat().st_size == part.size and _digest(whole) == part.digest


def _drop_others(whole: Path, draft: Path | None) -> None:
    """Remove what is half sent, but for the draft, and what was sent of earlier attempts."""
    others = [*whole.parent.glob(f"{whole.name}.*.part")]
    for earlier in earlier_attempts(whole.parent):
        others += [*earlier.glob(f"{whole.name}.*.part"), *earlier.glob(whole.name)]
    for other in others:
        if other != draft:
            other.unlink(missing_ok=True)


def _write(draft: Path, whole: Path, part: Part, *, runs: Path) -> int:
    draft.parent.mkdir(parents=True, exist_ok=True)
    there = draft.stat().st_size if draft.exists() else 0
    if shutil.disk_usage(draft.parent).free - (part.size - there) < LEFT_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"less than {LEFT_FREE_BYTES // 2**20:,} MiB would be left free on its disk")
    if not part.content and there == 0:
        return 0
    with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        there = file.seek(0, os.SEEK_END)
        if part.offset > there or part.offset + len(part.content) > part.size:
            return there
        file.seek(part.offset)
        file.write(part.content)
        there = max(there, file.tell())
        if there < part.size:
            return there
        file.flush()
        os.fsync(file.fileno())
    if _digest(draft) != part.digest:
        draft.unlink(missing_ok=True)
        raise SettingsError("the checkpoint is not what its digest says; send it again from its beginning")
    with suppress(FileNotFoundError):  # the same part, sent twice at once
        draft.replace(whole)
    for folder in whole.parents:
        sync_folder(folder)
        if folder == runs:
            break
    return there


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
