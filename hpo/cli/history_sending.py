"""How do past runs come into the history of a service? A table is sent, all else is read where the service sees it."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.cli.history_source import ended
from hpo.errors import SettingsError
from storage.errors import ImportFailedError

if TYPE_CHECKING:
    from hpo.client.client import Client
    from storage.importers.report import ImportReport

SENT = (".csv", ".parquet", ".json")  # of a folder of tables


def imported_there(client: Client, asked: Mapping[str, Any], *, progress: Callable[[int], None]) -> ImportReport:
    """Let a service import, and wait for it. asked: as `POST /imports` takes it; of a table, `path` is here.

    Raises ImportFailedError for the reason that the service tells of; SettingsError where somebody ends it there.
    """
    from hpo.client.past import report_of

    known = 0

    def tell(done: int, total: int | None) -> None:
        nonlocal known
        progress(done - known)
        known = done

    job = ended(client, _started(client, asked), tell)
    if job["state"] == "cancelled":
        raise SettingsError(f"job {job['id']} was cancelled at the service; what it has taken till then stays")
    if job["state"] != "done":
        raise ImportFailedError(job["error"] or f"job {job['id']} of the service has failed")
    return report_of(job["result"])


def _started(client: Client, asked: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in asked.items() if value is not None}
    kind = settings.pop("kind")
    if kind != "table":
        return client.start_import(kind, **settings)
    with _as_file(Path(settings.pop("path"))) as file:
        return client.upload_table(file, **settings)


@contextmanager
def _as_file(path: Path) -> Iterator[Path]:
    """A table as it is, a folder of tables as an archive. Raises ImportFailedError."""
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise ImportFailedError(f"There is no file or folder {path}.")
    members = sorted(each for each in path.rglob("*") if each.suffix.lower() in SENT and each.is_file())
    if not members:
        raise ImportFailedError(f"{path} holds no table: no file that ends in one of {', '.join(SENT)}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{path.resolve().name or 'tables'}.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for each in members:
                archive.write(each, each.relative_to(path))
        yield file
