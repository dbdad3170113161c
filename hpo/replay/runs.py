"""What a method did on a task, and how that is kept in a file: one line of JSON a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from hpo.arrays import Array
from hpo.errors import SettingsError
from storage.durable_files import draft_of

Key: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one task with one seed: n = budget choices, in order."""

    table: str
    family: str
    task: str
    regime: str
    method: str
    seed: int
    budget: int
    rows: int  # at most so many of a task could be chosen from, or told to a method as past runs
    data: str  # fingerprint of the family's rows
    chosen: tuple[int, ...]  # (n) rows
    losses: tuple[float, ...]  # (n) what they were worth, smaller is better
    seconds: tuple[float, ...]  # (n) that each choice took; the first includes what a method has to prepare
    intervals: tuple[tuple[float, float] | None, ...]  # (n) 90%, of the loss that was then seen
    least: float  # loss of all rows of the task
    median: float
    greatest: float
    best_cases: tuple[float | None, ...] = ()  # (n) 5% quantiles of the loss, noise left out; () in older files
    history_weights: tuple[float | None, ...] = ()  # (n) how much the past counted in the predictions; the same

    @property
    def key(self) -> Key:
        """What makes it the same run as another."""
        return run_key(self)

    @property
    def place(self) -> tuple[str, str, str]:
        """The task, wherever a task of that name may be."""
        return self.table, self.family, self.task

    @property
    def incumbent(self) -> Array:
        """The best loss after each choice, shape (n,)."""
        return np.minimum.accumulate(np.array(self.losses))

    def to_json(self) -> str:
        """The run on one line."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Run:
        """The inverse of `to_json`. Raises ValueError, TypeError or KeyError for another line."""
        fields: dict[str, Any] = json.loads(line)
        for name in ("chosen", "losses", "seconds", "best_cases", "history_weights"):
            fields[name] = tuple(fields.get(name, ()))
        fields["intervals"] = tuple(None if ends is None else (ends[0], ends[1]) for ends in fields["intervals"])
        return cls(**fields)


_KEY = ("table", "family", "task", "regime", "method", "seed", "budget", "rows", "data")


def run_key(run: Any) -> Key:
    """The key of a run, or of one that is still to be done."""
    return tuple(getattr(run, name) for name in _KEY)


def kept_interval(interval: Sequence[float] | None) -> tuple[float, float] | None:
    """An interval as it is kept: None where an end is not finite, for that says nothing."""
    if interval is None or not all(math.isfinite(end) for end in interval):
        return None
    return float(interval[0]), float(interval[1])


def kept_number(number: float | None) -> float | None:
    """As JSON can hold it."""
    return None if number is None or not math.isfinite(number) else float(number)


def read_runs(path: Path) -> list[Run]:
    """The runs in a file, the latest of each key; none where there is no file.

    A last line that was cut short is left out. Raises SettingsError where the file holds something else.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {}
    for number, line in enumerate(lines, start=1):
        try:
            run = Run.from_json(line)
        except (ValueError, TypeError, KeyError, IndexError):
            if number == len(lines):
                break
            raise SettingsError(
                f"{path}, line {number}, is no run of `hpo replay`: name another file by --out"
            ) from None
        found[run.key] = run
    return list(found.values())


def append_run(path: Path, run: Run) -> None:
    """Add a run to a file, in place of a last line that was cut short."""
    with path.open("ab+") as file:
        file.seek(0)
        if path.stat().st_size and not _ends_whole(file):
            file.truncate(_end_of_last_line(file))
        file.write(f"{run.to_json()}\n".encode())


def write_runs(path: Path, runs: Iterable[Run]) -> None:
    """Write runs into a file, in place of what it holds; it is there whole, as it was or as it is to be."""
    with draft_of(path) as draft:
        draft.write_text("".join(f"{run.to_json()}\n" for run in runs), encoding="utf-8")


def _ends_whole(file: BinaryIO) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _end_of_last_line(file: BinaryIO) -> int:
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def select(runs: Iterable[Run], wanted: Iterable[Key]) -> list[Run]:
    """The runs of these keys, in the order of the keys."""
    by_key = {run.key: run for run in runs}
    return [by_key[key] for key in wanted if key in by_key]
