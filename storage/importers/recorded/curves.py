"""Which curve belongs to which run: `curves.parquet`, read no further than the runs that are asked for need it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.importers.recorded.configs import rescaled
from storage.importers.recorded.rows import Rows
from storage.importers.recorded.tasks import (
    CODE,
    UNKNOWN,
    GroupCodes,
    columns_in,
    grouped_batches,
    no_rows,
    read_groups,
    stretches,
)
from storage.importers.runs import Curve
from storage.importers.tables.parquet import doubles, whole_numbers

CURVES_FILE = "curves.parquet"
REQUIRED = ("task", "config", "step", "value")
OPTIONAL = ("study", "seed", "key")
SEVERAL = -1  # runs that a curve could belong to


@dataclass(frozen=True, kw_only=True, eq=False)
class _Points:
    """Points of one study, each curve's together and by step. All arrays have the shape (n,)."""

    owners: tuple[NDArray[Any], ...]  # what a run is known by: its key, or its configuration and its seed
    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def curves(self) -> Iterator[tuple[tuple[Any, ...], Curve]]:
        """Each curve with what its run is known by."""
        is_new = np.full(len(self.steps), False)
        is_new[:1] = True
        for owner in self.owners:
            is_new[1:] |= owner[1:] != owner[:-1]
        starts = np.flatnonzero(is_new).tolist()
        steps, values = self.steps.tolist(), self.values.tolist()
        for start, end in pairwise([*starts, len(steps)]):
            points = list(zip(steps[start:end], values[start:end], strict=True))
            yield tuple(owner[start] for owner in self.owners), points


class RecordedCurves:
    """The curves of a table. Raises ImportFailedError where the file is damaged; `note` is told what is left out."""

    def __init__(
        self, folder: Path, trials: GroupCodes, has_keys: bool, factor: float, note: Callable[[str], None]
    ) -> None:
        self._path, self._factor, self._note = folder / CURVES_FILE, factor, note
        self._columns, ignored = columns_in(self._path, REQUIRED, OPTIONAL)
        if ignored:
            note(f"{self._path}: left out the columns {', '.join(ignored)}")
        known_by = ("key",) if has_keys and "key" in self._columns else ("config", "seed")
        self._known_by = tuple(name for name in known_by if name in self._columns)
        self._groups = read_groups(self._path, self._columns)
        by_task = {task: code for code, (task, _) in enumerate(trials.names)}
        by_study = {name: code for code, name in enumerate(trials.names)}
        whose = [by_study.get(name, by_task.get(name[0], UNKNOWN)) for name in self._groups.names]
        self._trial_codes = np.array([*whose, UNKNOWN])  # by the code here
        self._unread = {code for code in whose if code != UNKNOWN}
        self._points: dict[int, _Points] = {}  # by the trials' code
        self._tables = grouped_batches(self._path, self._columns, self._groups)
        self._orphans = 0
        self._read(no_rows(self._path, self._columns))
        if UNKNOWN in whose:
            note(f"{self._path}: left out the curves of {whose.count(UNKNOWN)} tasks that have no trials")

    def of(self, rows: Rows) -> Mapping[int, Curve]:
        """The curves of runs, by row."""
        found: dict[int, Curve] = {}
        for code, members in rows.groups():
            while code in self._unread:
                self._read(next(self._tables))
            if code in self._points:
                owners = self._owners(rows, members)
                for owner, curve in self._points.pop(code).curves():
                    row = owners.get(owner, SEVERAL)
                    if row == SEVERAL:
                        self._orphans += 1
                    else:
                        found[row] = curve
        return found

    def finish(self) -> None:
        """Note what was left out."""
        if self._orphans:
            self._note(f"{self._path}: left out {self._orphans} curves that belong to none of the runs, or to several")

    def _owners(self, rows: Rows, members: slice) -> dict[tuple[Any, ...], int]:
        """The row of a study's run by what it is known by."""
        columns: dict[str, list[Any]] = {
            "key": rows.keys[members],
            "config": rows.configs[members].tolist(),
            "seed": rows.seeds[members].tolist(),
        }
        owners: dict[tuple[Any, ...], int] = {}
        for row, owner in enumerate(zip(*(columns[name] for name in self._known_by), strict=True), members.start):
            owners[owner] = SEVERAL if owner in owners else row
        return owners

    def _read(self, table: pa.Table) -> None:
        """Keep the curves of studies of which nothing more will come."""
        codes = self._trial_codes[table[CODE].to_numpy()]
        steps, has_step = whole_numbers(table["step"], f"{self._path}: step")
        values = doubles(table["value"], f"{self._path}: value")
        owners = [self._owner(table, name) for name in self._known_by]
        kept = np.flatnonzero(has_step & (codes != UNKNOWN))
        order = kept[np.lexsort((steps[kept], *(owner[kept] for owner in reversed(owners)), codes[kept]))]
        codes, steps, values = codes[order], steps[order], values[order]
        owners = [owner[order] for owner in owners]
        if self._factor != 1.0:
            values = rescaled(values, self._factor)
        for code, part in stretches(codes):
            found = tuple(owner[part] for owner in owners)
            self._points[code] = _Points(owners=found, steps=steps[part], values=values[part])
        self._unread -= set(self._trial_codes[table[CODE].to_numpy()].tolist())

    def _owner(self, table: pa.Table, name: str) -> NDArray[Any]:
        if name == "key":
            return np.array(pc.fill_null(table["key"].cast(pa.large_string()), "").to_pylist(), dtype=object)
        return whole_numbers(table[name], f"{self._path}: {name}")[0]
