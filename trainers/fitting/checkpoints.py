"""Which checkpoints of a trial are kept, so that one that can be relied on is always there?

In the folder of an attempt at a trial lie

    epoch-7.ckpt, epoch-6.ckpt   the newest two, each with all it takes to go on from there
    epoch-2.ckpt                 what was the best epoch when one of these was saved
    best.ckpt                    the best epoch's now: one of these files by another name
    checkpoints.json             which of them are whole, with their digests, and what they are checkpoints of

An epoch counts once the record names it, and the record is replaced at once or not at all, when the checkpoint has
reached the disk. Checkpoints may be folders, as those of strategies that shard the model. This module knows no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.job import BEST_CHECKPOINT, COMPRESSED_MODEL, FOLD_FOLDER, FitJob, TrainerConfig

RECORD = "checkpoints.json"
ANNOUNCED = "starts.json"  # where ranks that a launcher started learn where to begin
VERSION = 1  # of the record
POLL_SECONDS = 0.05
KEPT = 2  # newest epochs
HOW_IT_RUNS = {
    "threads",
    "python_path",
    "accelerator",
    "trials_per_device",
    "on_out_of_memory",
    "stall_minutes",
    "sample",
}  # of a study's settings: what may differ when a trial goes on


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The checkpoint of an epoch."""

    epoch: int  # counted from 0
    digest: str  # of its content


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A checkpoint to go on from, and that of the best epoch till then, which a trial that goes on needs as well."""

    last: Saved
    best: Saved | None  # None: no epoch has had the metric yet


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a trial begins."""

    checkpoint: Path | None = None  # in the attempt's own folder; None: at the beginning
    epoch: int | None = None  # that the checkpoint was saved after
    notices: tuple[str, ...] = ()  # what is worth telling

    def refused(self, reason: object) -> Start:
        """The beginning, because the model cannot take over the checkpoint; what was taken from earlier is dropped."""
        if self.checkpoint is not None:
            clear(self.checkpoint.parent, keep_best=False)
        told = f"begins anew: the checkpoint of epoch {self.epoch} is not used, because {reason}"
        return Start(notices=(*self.notices[:-1], told))


FROM_THE_BEGINNING = Start()


class Keeper:
    """Keeps what an attempt saves. The training does not wait for the disk: it goes on while an epoch is kept.

    identity: of the trial, see `identity_of`. earlier: folders of earlier attempts, which are not needed any more
    once an epoch of this one is kept.
    """

    def __init__(self, folder: Path, *, identity: str, earlier: Sequence[Path] = ()) -> None:
        self._folder, self._identity, self._earlier = folder, identity, tuple(earlier)
        self._kept: list[Kept] = []
        with suppress(OSError, ValueError):
            self._kept = _read(folder / RECORD, identity)  # what it goes on from
        self._disk: ThreadPoolExecutor | None = None  # not before ranks are forked: threads do not survive that
        self._pending: Future[None] | None = None

    def draft(self, epoch: int) -> Path:
        """Where an epoch's checkpoint is to be written; `keep` counts it."""
        return self._folder / f"epoch-{epoch}.partial"

    def keep(self, epoch: int, *, is_best: bool) -> None:
        """Count what has been written. Raises the OSError of the epoch before, if that could not be kept."""
        self.settle()
        self._disk = self._disk or ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending = self._disk.submit(self._keep, epoch, is_best=is_best)

    def settle(self) -> None:
        """Wait until everything is kept. Raises OSError."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _keep(self, epoch: int, *, is_best: bool) -> None:
        draft, checkpoint = self.draft(epoch), _path(self._folder, epoch)
        saved = Saved(epoch=epoch, digest=digest(draft, sync=True))
        best = saved if is_best else (self._kept[0].best if self._kept else None)
        draft.replace(checkpoint)
        _sync(self._folder)
        self._kept = [Kept(last=saved, best=best), *self._kept][:KEPT]
        _write(self._folder / RECORD, self._identity, self._kept)
        if is_best:  # only now: until the record names this epoch, the one before needs its own best
            _share(checkpoint, self._folder / BEST_CHECKPOINT)
        needed = {saved.epoch for kept in self._kept for saved in (kept.last, kept.best) if saved is not None}
        for old in set(self._folder.glob("epoch-*.ckpt")) - {_path(self._folder, needs) for needs in needed}:
            _remove(old)
        for folder in self._earlier:
            clear(folder, keep_best=False)
        self._earlier = ()


def identity_of(config: TrainerConfig, job: FitJob) -> str:
    """What a checkpoint must be of for a trial to go on from it: the model, the data, the parameters, the goal."""
    settings = {name: value for name, value in config.to_json().items() if name not in HOW_IT_RUNS}
    asked = {name: value for name, value in job.to_json().items() if name not in ("directory", "earlier", "files")}
    return hashlib.sha256(json.dumps([settings, asked], sort_keys=True).encode()).hexdigest()


def find_start(folder: Path, *, identity: str, earlier: Sequence[Path]) -> Start:
    """The newest checkpoint of earlier attempts that is whole and of this trial, as one of the attempt in `folder`.

    What cannot be used is passed over with a notice.
    """
    notices: list[str] = []
    candidates: list[tuple[Kept, Path]] = []
    for source in reversed(earlier):
        try:
            candidates += [(kept, source) for kept in _read(source / RECORD, identity)]
        except (OSError, ValueError) as error:
            notices.append(f"no checkpoint of {source.name} is used: {error}")
    for kept, source in sorted(candidates, key=lambda candidate: -candidate[0].last.epoch):
        try:
            _adopt(kept, source, folder)
        except (OSError, ValueError) as error:
            notices.append(f"{source.name}'s checkpoint of epoch {kept.last.epoch} is not used: {error}")
            continue
        _write(folder / RECORD, identity, [kept])
        epoch = kept.last.epoch
        notices.append(f"went on after epoch {epoch} of {source.name}")
        return Start(checkpoint=_path(folder, epoch), epoch=epoch, notices=tuple(notices))
    return Start(notices=tuple(notices))


def announce(starts: Sequence[Start], folder: Path) -> None:
    """Let the other ranks of an attempt, on other machines too, know where it begins: by a file in its folder."""
    content = [asdict(start) | {"checkpoint": start.checkpoint and str(start.checkpoint)} for start in starts]
    _replace(folder / ANNOUNCED, json.dumps(content))


def await_announced(folder: Path, *, seconds: float = 600.0) -> list[Start]:
    """What rank 0 has announced. Raises FileNotFoundError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (folder / ANNOUNCED).exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{folder / ANNOUNCED} does not come: do the machines of a trial share the folder?")
        time.sleep(POLL_SECONDS)
    return [
        Start(
            checkpoint=None if start["checkpoint"] is None else Path(start["checkpoint"]),
            epoch=start["epoch"],
            notices=tuple(start["notices"]),
        )
        for start in json.loads((folder / ANNOUNCED).read_text(encoding="utf-8"))
    ]


def clear(folder: Path, *, keep_best: bool) -> None:
    """Remove what it takes to go on, from the folder of a trial that has ended; and the best checkpoint if told so."""
    for fold in folder.glob(f"{FOLD_FOLDER}*/"):
        clear(fold, keep_best=keep_best)
    _remove(folder / RECORD)
    _remove(folder / ANNOUNCED)
    for pattern in (
        "epoch-*.ckpt",
        "epoch-*.partial",
        *(f"{name}.*" for name in (BEST_CHECKPOINT, COMPRESSED_MODEL, RECORD)),  # drafts
        *(() if keep_best else (BEST_CHECKPOINT, COMPRESSED_MODEL)),
    ):
        for path in folder.glob(pattern):
            _remove(path)


def clear_other_folds(folder: Path, *, kept: Path) -> None:
    """Remove the best models of all folds of a trial that has ended but of the one that `kept` is of."""
    for fold in folder.glob(f"{FOLD_FOLDER}*/"):
        if fold != kept.parent:
            for name in (BEST_CHECKPOINT, COMPRESSED_MODEL):
                _remove(fold / name)


def digest(checkpoint: Path, *, sync: bool = False) -> str:
    """The SHA-256 of a file, or of a folder's files and their names; `sync`: force them to the disk as well."""
    if not checkpoint.is_dir():
        return _digest_file(checkpoint, sync=sync)
    total = hashlib.sha256()
    for path in _files(checkpoint):
        total.update(f"{path.relative_to(checkpoint)}\0{_digest_file(path, sync=sync)}\n".encode())
    return total.hexdigest()


def _digest_file(path: Path, *, sync: bool) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adopt(kept: Kept, source: Path, folder: Path) -> None:
    """Give a checkpoint, and its best one, a second name in another folder, where nobody else removes it.

    Raises OSError, or ValueError where a digest does not hold.
    """
    _take(kept.last, [_path(source, kept.last.epoch)], _path(folder, kept.last.epoch))
    if kept.best is not None:
        places = [_path(source, kept.best.epoch), source / BEST_CHECKPOINT]
        _take(kept.best, places, folder / BEST_CHECKPOINT)
    _sync(folder)


def _take(saved: Saved, places: Sequence[Path], target: Path) -> None:
    for place in places:
        with suppress(FileNotFoundError):
            _share(place, target)
            if digest(target) == saved.digest:
                return
            _remove(target)
    if any(place.exists() for place in places):
        raise ValueError(f"{places[0].name} is damaged: it is not what was saved after epoch {saved.epoch}")
    raise FileNotFoundError(f"{places[0].name} is gone")


def _share(source: Path, target: Path) -> None:
    """Give a checkpoint a second name; where the file system cannot, or it is another one, the name of a copy."""
    draft = target.with_name(f"{target.name}.draft")
    _remove(draft)
    if source.is_dir():
        shutil.copytree(source, draft, copy_function=_link)
        old = target.with_name(f"{target.name}.old")
        if target.exists():  # a folder cannot take the place of a filled one
            target.replace(old)
        draft.replace(target)
        _remove(old)
    else:
        _link(source, draft)
        draft.replace(target)
    _sync(target.parent)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch}.ckpt"


def _read(record: Path, identity: str) -> list[Kept]:
    """What a record names, newest first; nothing where there is none. Raises OSError or ValueError."""
    try:
        content = json.loads(record.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"{record.name} cannot be read ({error})") from error
    try:
        if content["version"] != VERSION:
            raise ValueError(f"{record.name} is of another version of this program")
        if content["identity"] != identity:
            raise ValueError("it is of another model, other parameters or other settings")
        return [_kept(entry) for entry in content["kept"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{record.name} is damaged ({error!r})") from error


def _kept(entry: dict[str, Any]) -> Kept:
    best = entry["best"]
    return Kept(last=Saved(**entry["last"]), best=None if best is None else Saved(**best))


def _write(record: Path, identity: str, kept: Sequence[Kept]) -> None:
    content = {"version": VERSION, "identity": identity, "kept": [asdict(each) for each in kept]}
    _replace(record, json.dumps(content))


def _replace(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    _sync(draft)
    draft.replace(path)
    _sync(path.parent)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
