"""Which runs are in a folder of the recorded-table format.

`space.json` describes the table, `configs.parquet` has the configurations by number, `trials.parquet` one row per run:
`task`, `config`, `value` (null: it failed) and perhaps `seed` and `cost_seconds`; `curves.parquet` the metric along
the training. What `hpo history export` writes has more: columns about each run, `studies.parquet` about the studies.

All files are read once before the first run is yielded, so a damaged one leaves nothing half done. Then they are read
again in batches; the runs of a study are kept until its last row has been seen.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.errors import ImportFailedError
from storage.importers.mapping import RunMapping
from storage.importers.recorded.configs import read_configurations
from storage.importers.recorded.curves import CURVES_FILE, RecordedCurves
from storage.importers.recorded.mapping import mapped_space
from storage.importers.recorded.rows import OPTIONAL, REQUIRED, Reject, Rows, read_rows
from storage.importers.recorded.space import SPACE_FILE, read_space
from storage.importers.recorded.tasks import columns_in, grouped_batches, no_rows, read_groups
from storage.importers.runs import PastTask, RunColumns
from storage.importers.tables.parquet import read_whole

TRIALS_FILE, STUDIES_FILE = "trials.parquet", "studies.parquet"


def is_recorded_table(folder: Path) -> bool:
    """Whether a folder claims to have the format."""
    return (folder / SPACE_FILE).is_file()


class RecordedTable:
    """A folder all of whose files have been read once. Raises ImportFailedError where one cannot be."""

    def __init__(self, folder: Path, mapping: RunMapping, note: Callable[[str], None]) -> None:
        self._path = folder / TRIALS_FILE
        self._space = mapped_space(read_space(folder), mapping)
        self._configurations = read_configurations(folder, self._space)
        self._columns, ignored = columns_in(self._path, REQUIRED, OPTIONAL)
        if ignored:
            note(f"{self._path}: left out the columns {', '.join(ignored)}")
        self._prefix = "" if self._space.qualified_tasks else f"{self._space.name}/"
        self._rows(no_rows(self._path, self._columns), lambda _row, _reason: None)
        self._groups = read_groups(self._path, self._columns, self._prefix)
        self._curves = None
        if (folder / CURVES_FILE).exists():
            has_keys = "key" in self._columns
            self._curves = RecordedCurves(folder, self._groups, has_keys, self._space.factor, note)
        self._studies = _read_studies(folder)

    def __len__(self) -> int:
        """How many rows there are."""
        return self._groups.rows

    def batches(self, reject: Reject) -> Iterator[tuple[PastTask, RunColumns]]:
        """The runs, study by study; `reject` is told of each row that cannot be used."""
        names, words = tuple(parameter.name for parameter in self._space.parameters), self._space.words
        for table in grouped_batches(self._path, self._columns, self._groups):
            rows = self._rows(table, reject)
            internal = self._configurations.internal[rows.positions]
            curves = self._curves.of(rows) if self._curves is not None else {}
            for code, members in rows.groups():
                yield self._task(*self._groups.names[code], words), rows.runs(members, names, internal, curves)
        if self._curves is not None:
            self._curves.finish()

    def _rows(self, table: pa.Table, reject: Reject) -> Rows:
        return read_rows(self._path, table, self._configurations, self._space.factor, reject)

    def _task(self, task: str, study: str | None, words: Mapping[str, Mapping[str, Any]]) -> PastTask:
        known = self._studies.get((task, study), {"provenance": self._space.provenance})
        return PastTask(
            name=self._prefix + task,
            study=study or self._prefix + task,
            metric=self._space.metric,
            direction=self._space.direction,
            space=words,
            created_at=known.get("created_at"),
            provenance=known.get("provenance", {}),
            user_attrs=known.get("attributes", {}),
        )


def _read_studies(folder: Path) -> dict[tuple[str, str | None], dict[str, Any]]:
    """What the folder says about its studies, by task and study."""
    path = folder / STUDIES_FILE
    if not path.exists():
        return {}
    columns_in(path, ("task", "study"), ())
    found = {}
    for row in read_whole(path).to_pylist():
        try:
            known = {name: json.loads(row[name]) for name in ("provenance", "attributes") if row.get(name)}
            if row.get("created_at") is not None:
                known["created_at"] = float(row["created_at"])
        except (ValueError, TypeError, RecursionError) as error:
            raise ImportFailedError(f"{path}: the study {row['study']!r} is described by what is no JSON.") from error
        if not all(isinstance(known.get(name, {}), dict) for name in ("provenance", "attributes")):
            raise ImportFailedError(f"{path}: the study {row['study']!r} must be described by JSON objects.")
        found[row["task"], row["study"]] = known
    return found
