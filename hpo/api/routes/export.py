"""`/export`: past runs leave as a table, row by row, or as recorded tables that an import reads again."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from hpo.answers.trial_table import HistoryTrial, columns_of, text_chunks, write_rows
from hpo.api.access import Reader, ServiceState
from hpo.api.answers import is_file
from hpo.api.problems import ApiError
from hpo.api.routes.trials import Where
from hpo.errors import BusyError
from hpo.service.job_kinds import exported
from storage.database import Store
from storage.errors import FamilyNotFoundError, did_you_mean
from storage.overview import kinds_of, known_names
from storage.queries import select_trials
from storage.query_language import And, Comparison, Condition, Field, parse

Format = Literal["tables", "csv", "json", "parquet"]
MEDIA_TYPES = {
    "tables": "application/zip",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}
FILES = [kind for format, kind in MEDIA_TYPES.items() if format != "json"]

FILES_AT_ONCE = 2  # heuristic: of the server's 40 threads
_writing = threading.BoundedSemaphore(FILES_AT_ONCE)

router = APIRouter(prefix="/export", tags=["export"])


@router.get("", response_class=StreamingResponse, responses=is_file(*FILES, or_json=list[HistoryTrial]))
def export(
    who: Reader,
    service: ServiceState,
    family: Annotated[
        str | None, Query(min_length=1, max_length=300, description="A family, a task, a study or a source.")
    ] = None,
    where: Where = "",
    format: Annotated[
        Format,
        Query(description="tables: a ZIP archive of recorded tables of `family`; else the trials that meet `where`."),
    ] = "tables",
) -> Response:
    """The past runs of a family, or the trials that meet a condition, as a file.

    404 `family-not-found`; 422 `query` says where a condition cannot be read. `POST /exports` writes large ones in the
    background.
    """
    if format == "tables":
        if family is None or where:
            raise ApiError(422, "settings", "recorded tables are of a family, whole: give family, and no where")
        with _turn():
            return _file(service.store, family)
    condition = parse(where)
    if family is not None:
        condition = And(parts=(condition, _belongs_to(service.store, family)))
    if format == "parquet":
        with _turn():
            return _parquet(service.store, condition)
    headers = {"Content-Disposition": f'attachment; filename="trials.{format}"'}
    lines = _lines(service.store, condition, format)
    return StreamingResponse(lines, media_type=MEDIA_TYPES[format], headers=headers)


@contextmanager
def _turn() -> Iterator[None]:
    """While a whole file is written, a thread of the server is; the others go on. Raises BusyError."""
    if not _writing.acquire(blocking=False):
        raise BusyError(
            f"{FILES_AT_ONCE} files are being written just now; ask again in a moment, or let it be written in the "
            "background by POST /api/v1/exports"
        )
    try:
        yield
    finally:
        _writing.release()


def _belongs_to(store: Store, name: str) -> Condition:
    kinds = kinds_of(store, name)
    if not kinds:
        hint = did_you_mean(name, known_names(store))
        raise FamilyNotFoundError(f"There is no family, task, study or source named {name!r}.{hint}")
    return Comparison(field=Field(room="column", name=kinds[0]), operator="=", value=name)


def _file(store: Store, target: str) -> Response:
    folder = Path(tempfile.mkdtemp(prefix="hindsight-export-"))
    try:
        path, _ = exported(store, target, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, media_type=MEDIA_TYPES["tables"], filename="tables.zip", background=gone)


def _parquet(store: Store, condition: Condition) -> Response:
    folder = Path(tempfile.mkdtemp(prefix="hindsight-export-"))
    path = folder / "trials.parquet"
    try:
        with select_trials(store, condition) as found:
            write_rows(found.rows, columns_of(found.parameters), "parquet", path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, media_type=MEDIA_TYPES["parquet"], filename="trials.parquet", background=gone)


def _lines(store: Store, condition: Condition, format: Literal["csv", "json"]) -> Iterator[bytes]:
    """Some rows at a time, as they are read: how many there are does not matter."""
    with select_trials(store, condition) as found:
        columns = columns_of(found.parameters, nested=format == "json")
        for text in text_chunks(found.rows, columns, format):
            yield text.encode("utf-8", "backslashreplace")
