"""What does each kind of background job do?

A job may be begun again after a crash: an import takes nothing twice, a replay goes on from the runs that it has, an
export writes its file anew, a promotion makes another version, which takes the alias from the first.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hpo.answers.history import verified_fields
from hpo.answers.plain import jsonable
from hpo.errors import SettingsError
from hpo.service.allowed_places import Places, mlflow_place, optuna_place, path_of_projects
from hpo.service.job_files import FILE_NAMES
from hpo.service.uploads import unpacked
from storage import history
from storage.database import Store
from storage.errors import ImportFailedError
from storage.masking import without_secrets

ROWS_KEPT = 200  # of a report, of those that were not taken
LONGEST_COMMENT = 2**16 - 1  # of a ZIP archive
SHARES = 1_000  # into which a share of all is told

Tell = Callable[[int, int | None], None]
"""Told how much is done, and of how much; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a job works with."""

    store: Store
    places: Places
    folder: Path  # of its own, where it leaves files
    tell: Tell


def do(kind: str, settings: Mapping[str, Any], around: Surroundings) -> Any:
    """Do a job; returns its result as plain data. Raises SettingsError, StorageError, HpoError."""
    work = KINDS.get(kind)
    if work is None:
        raise SettingsError(f"a job of kind {kind!r} is unknown; there are {', '.join(KINDS)}")
    around.folder.mkdir(parents=True, exist_ok=True)
    return jsonable(work(settings, around))


def _import(settings: Mapping[str, Any], around: Surroundings) -> Any:
    taken = 0

    def progress(more: int) -> None:
        nonlocal taken
        taken += more
        around.tell(taken, None)

    report = _READERS[settings["kind"]](settings, around, progress).to_json()
    return report | {"rows": report["rows"][:ROWS_KEPT]}


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings.get(name) for name in ("mapping", "source")} | {"dry_run": bool(settings.get("dry_run"))}


def _judged(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings.get(name) for name in ("metric", "direction", "task")}


def _mlflow(settings: Mapping[str, Any], around: Surroundings, progress: Callable[[int], None]) -> Any:
    from storage.importers.mlflow import import_mlflow  # noqa: PLC0415 - MLflow takes seconds to import

    since = settings.get("since")
    judged = _judged(settings)
    if judged["task"] is None:
        del judged["task"]
    return import_mlflow(
        around.store,
        uri=mlflow_place(settings.get("uri"), around.places),
        experiments=settings.get("experiments") or (),
        filter=settings.get("filter") or "",
        since=None if since is None else datetime.fromisoformat(since),
        progress=progress,
        **judged,
        **_shared(settings),
    )


def _optuna(settings: Mapping[str, Any], around: Surroundings, progress: Callable[[int], None]) -> Any:
    from storage.importers.optuna import import_optuna  # noqa: PLC0415

    return import_optuna(
        around.store,
        storage=optuna_place(settings["storage"], around.places),
        studies=settings.get("studies") or (),
        progress=progress,
        **_shared(settings),
    )


def _table(settings: Mapping[str, Any], around: Surroundings, progress: Callable[[int], None]) -> Any:
    from storage.importers.table import import_table  # noqa: PLC0415

    uploaded, shared = settings.get("upload"), _shared(settings)
    if uploaded is not None:
        path = unpacked(around.folder / uploaded)
        shared["location"] = f"upload:{uploaded}"  # the same when it is sent again, so that nothing is taken twice
    else:
        path = path_of_projects(settings["path"], around.places)
    try:
        return import_table(around.store, path, progress=progress, **_judged(settings), **shared)
    except ImportFailedError as error:  # whoever sent it knows it by its name alone
        raise ImportFailedError(str(error).replace(f"{around.folder}/", "")) from error


def _lightning(settings: Mapping[str, Any], around: Surroundings, progress: Callable[[int], None]) -> Any:
    from storage.importers.lightning import import_lightning  # noqa: PLC0415

    path = path_of_projects(settings["folder"], around.places)
    return import_lightning(around.store, path, progress=progress, **_judged(settings), **_shared(settings))


def _replay(settings: Mapping[str, Any], around: Surroundings) -> Any:
    from hpo.replay.whole import ReplayOptions, replayed  # noqa: PLC0415

    options = ReplayOptions(source=around.store.url, **settings)
    return replayed(options, kept=around.folder / FILE_NAMES["replay"], progress=around.tell).to_json()


def _export(settings: Mapping[str, Any], around: Surroundings) -> Any:
    file, notes = exported(around.store, settings["target"], around.folder)
    return {"target": settings["target"], "file": file.name, "bytes": file.stat().st_size, "notes": notes}


def exported(store: Store, target: str, folder: Path) -> tuple[Path, list[str]]:
    """The past runs of a family, a task, a study or a source as a ZIP of recorded tables in a folder, with notes,
    which are its comment as well.

    Raises FamilyNotFoundError, StorageError.
    """
    from storage.export import export_tables  # noqa: PLC0415 - pyarrow is slow to import

    notes: list[str] = []
    tables, file = folder / "tables", folder / FILE_NAMES["export"]
    draft = file.with_name(f"{file.name}.part")
    shutil.rmtree(tables, ignore_errors=True)
    try:
        paths = export_tables(store, target, tables, note=notes.append)
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:  # what is in it is compressed already
            for path in paths:
                archive.write(path, path.relative_to(tables))
            archive.comment = "\n".join(notes).encode()[:LONGEST_COMMENT]
        draft.replace(file)
    finally:
        shutil.rmtree(tables, ignore_errors=True)
        draft.unlink(missing_ok=True)
    return file, notes


def _verify(settings: Mapping[str, Any], around: Surroundings) -> Any:
    from storage.integrity import verify  # noqa: PLC0415
    from storage.overview import overview  # noqa: PLC0415

    findings = verify(around.store, progress=lambda share: around.tell(int(SHARES * share), SHARES))
    return verified_fields(findings, overview(around.store).quarantine)


def _promotion(settings: Mapping[str, Any], around: Surroundings) -> Any:
    from hpo.decisions.promotion import promote  # noqa: PLC0415

    study = history.study_of_id(around.store, settings["study_id"])
    done = promote(
        study.name,
        trial=settings["trial"],
        name=settings["name"],
        mlflow=None if study.mlflow_uri is not None else around.places.own_mlflow,
        storage=around.store.url,
    )
    return done.to_json() | {"mlflow_uri": without_secrets(done.mlflow_uri)}


def _summarize(settings: Mapping[str, Any], around: Surroundings) -> Any:
    from storage.optuna_storage import HistoryStorage  # noqa: PLC0415

    storage = HistoryStorage(around.store)
    families = storage.past_families()
    for done, family in enumerate(families, start=1):
        storage.past_studies(family)
        around.tell(done, len(families))
    return {"families": len(families)}


_READERS: Mapping[str, Callable[[Mapping[str, Any], Surroundings, Callable[[int], None]], Any]] = {
    "mlflow": _mlflow,
    "optuna": _optuna,
    "table": _table,
    "lightning": _lightning,
}
KINDS: Mapping[str, Callable[[Mapping[str, Any], Surroundings], Any]] = {
    "import": _import,
    "replay": _replay,
    "export": _export,
    "verify": _verify,
    "summarize": _summarize,
    "promotion": _promotion,
}
