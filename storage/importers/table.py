"""How tables of runs come into the history: the recorded-table format, CSV and Parquet files, and folders of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.database import Store
from storage.errors import ImportFailedError
from storage.importers.intake import Intake
from storage.importers.logged.runs import source_name
from storage.importers.mapping import RunMapping
from storage.importers.recorded.space import SPACE_FILE
from storage.importers.recorded.table import RecordedTable, is_recorded_table
from storage.importers.report import ImportReport, RowByRow
from storage.importers.tables.files import TableFile, Wishes
from storage.sources import Source

FILE_KINDS = (".csv", ".tsv", ".parquet")


def import_table(
    store: Store,
    path: Path,
    *,
    metric: str | None = None,
    direction: str | None = None,
    task: str | None = None,
    mapping: RunMapping | Mapping[str, Any] | None = None,
    source: str | None = None,
    location: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    row_by_row: RowByRow | None = None,
) -> ImportReport:
    """Import a table of runs, each row once, however often it is imported.

    path: a folder in the recorded-table format (or of such folders), a CSV or Parquet file, or a folder of these.
    metric, direction: for files; guessed from the columns' names where they are not given. task: for files; a column,
    a constant, or a template such as `{file}`; the file's name where it is not given.
    source: what to call the place in the history. location: where it says that they are; the path if nothing is said.
    progress: told how many more rows are done.
    row_by_row: told what became of each.
    Raises ImportFailedError, with nothing written, where a file is damaged or what it holds cannot be told.
    """
    if not path.exists():
        raise ImportFailedError(f"There is no file or folder {path}.")
    mapping = _with_wishes(RunMapping.of(mapping), metric, direction)
    location = location or str(path.resolve())
    name = source or source_name(store, "table", path.resolve().stem, location)
    settings = {"metric": mapping.metric, "direction": mapping.direction, "task": task}
    intake = Intake(
        store,
        source=Source(name=name, kind="table", location=location, settings=settings),
        dry_run=dry_run,
        row_by_row=row_by_row,
    )
    wishes = Wishes(task=task, mapping=mapping, source=name, known_space=intake.known_space, note=intake.note)
    folders, files = _found(path)
    tables = [RecordedTable(folder, mapping, intake.note) for folder in folders]
    if tables and task is not None:
        raise ImportFailedError(f"{folders[0]} says itself what its tasks are: leave out the task.")
    more = [TableFile(file, wishes) for file in files]
    done = progress or (lambda _number: None)
    for table in tables:
        for past_task, columns in table.batches(intake.reject):
            intake.take_table(past_task, columns)
            done(len(columns.keys))
    for file in more:
        for past_task, runs in file.batches(intake.reject, intake.skip):
            intake.take(past_task, runs)
            done(len(runs))
    return intake.finish()


def _with_wishes(mapping: RunMapping, metric: str | None, direction: str | None) -> RunMapping:
    return replace(mapping, metric=metric or mapping.metric, direction=direction or mapping.direction)


def _found(path: Path) -> tuple[list[Path], list[Path]]:
    """The folders in the recorded-table format, and the other files with runs."""
    if not path.is_dir():
        return [], [path]
    if is_recorded_table(path):
        return [path], []
    inside = sorted(path.iterdir())
    folders = [folder for folder in inside if is_recorded_table(folder)]
    files = [file for file in inside if file.is_file() and file.suffix.lower() in FILE_KINDS]
    if not folders and not files:
        raise ImportFailedError(
            f"There is no table in {path}: no {SPACE_FILE}, which recorded tables have, and no {', '.join(FILE_KINDS)}."
        )
    return folders, files
