"""Where do the answers of `hpo history` come from: a history of one's own, or a service? Both say them alike."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpo.cli.options import existing_store
from hpo.cli.source import PATIENCE_SECONDS, server_to_ask
from hpo.errors import SettingsError

if TYPE_CHECKING:
    from hpo.answers.named_history import NamedHistory
    from hpo.client.client import Client
    from hpo.running.deletion import Deletion
    from storage.history import TrialRecord
    from storage.integrity import Finding
    from storage.overview import Overview
    from storage.queries import Selection, Totals
    from storage.schema import Store
    from storage.sources import Forgotten, KnownSource

LARGEST_PAGE = 1_000  # of trials


class Past(Protocol):
    """What commands ask of a history, and do with it."""

    def sources(self) -> tuple[list[KnownSource], Overview]:
        """What studies came from; the families, and what is in quarantine."""
        ...

    def about(self, name: str, /) -> NamedHistory:
        """What there is of that name. Raises NoHistoryError."""
        ...

    def count(self, where: str, /) -> int:
        """How many trials meet a condition. Raises QueryError."""
        ...

    def totals(self, where: str, /) -> Totals:
        """Sums of them. Raises QueryError."""
        ...

    def select(
        self, where: str, /, *, order_by: str | None, descending: bool, limit: int | None, curves: bool
    ) -> AbstractContextManager[Selection]:
        """As `storage.queries.select_trials`."""
        ...

    def forget(self, source: str, /, *, dry_run: bool) -> Forgotten:
        """Remove a source. Raises SourceNotFoundError."""
        ...

    def accept_late(self, study: str, number: int, /, *, result: int | None) -> TrialRecord:
        """Let a late result of a trial count; the trial that has it. Raises StorageError."""
        ...

    def size_of(self, study: str, /) -> int:
        """How many trials a study has. Raises StudyNotFoundError."""
        ...

    def delete(self, study: str, /, *, files: bool, mlflow_runs: bool) -> Deletion:
        """Delete a study. Raises StudyNotFoundError, LaunchError, MlflowUnavailableError."""
        ...

    def export(self, target: str, folder: Path, /, *, force: bool) -> tuple[Sequence[Path], Sequence[str]]:
        """Write recorded tables; the files, and what there is to say. Raises FamilyNotFoundError, StorageError."""
        ...

    def verify(self, progress: Callable[[float], None], /) -> tuple[Sequence[Finding], Mapping[str, str]]:
        """What is wrong, and why studies are in quarantine. progress: is told the share that is done."""
        ...

    def trust(self, study: str, /) -> str | None:
        """Learn from a study again; why nobody did. Raises StudyNotFoundError."""
        ...

    def quarantine(self, study: str, reason: str, /) -> str | None:
        """Let nobody learn from a study; for which reasons nobody did before. Raises StudyNotFoundError."""
        ...


@contextmanager
def past(storage: str | None, server: str | None) -> Iterator[Past]:
    """The history of the service, where one is named, else that of one's own. Raises SettingsError."""
    if (address := server_to_ask(storage, server)) is None:
        yield OwnPast(existing_store(storage))
        return
    with service_at(address) as client:
        yield PastOfService(client)


@contextmanager
def service_at(address: str) -> Iterator[Client]:
    """A client of a service that somebody waits for."""
    from hpo.client.client import Client

    with Client(address, patience_seconds=PATIENCE_SECONDS) as client:
        yield client


class OwnPast:
    """The history that this process has opened."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def sources(self) -> tuple[list[KnownSource], Overview]:
        """What studies came from; the families, and what is in quarantine."""
        from storage import sources
        from storage.overview import overview

        return sources.list_sources(self._store), overview(self._store)

    def about(self, name: str, /) -> NamedHistory:
        """What there is of that name. Raises NoHistoryError."""
        from hpo.answers.named_history import named_history

        return named_history(self._store, name)

    def count(self, where: str, /) -> int:
        """How many trials meet a condition. Raises QueryError."""
        from storage import queries

        return queries.count_trials(self._store, where)

    def totals(self, where: str, /) -> Totals:
        """Sums of them. Raises QueryError."""
        from storage import queries

        return queries.totals(self._store, where)

    def select(
        self, where: str, /, *, order_by: str | None, descending: bool, limit: int | None, curves: bool
    ) -> AbstractContextManager[Selection]:
        """As `storage.queries.select_trials`."""
        from storage import queries

        return queries.select_trials(
            self._store, where, order_by=order_by, descending=descending, limit=limit, curves=curves
        )

    def forget(self, source: str, /, *, dry_run: bool) -> Forgotten:
        """Remove a source. Raises SourceNotFoundError."""
        from storage import sources

        return sources.forget(self._store, source, dry_run=dry_run)

    def accept_late(self, study: str, number: int, /, *, result: int | None) -> TrialRecord:
        """Let a late result of a trial count; the trial that has it. Raises StorageError."""
        from storage import history
        from storage.audit import Doer
        from storage.late_results import accept_late_result
        from storage.trial_pages import trial_numbered

        study_id = history.get_study(self._store, study).study_id
        doer = Doer(who="hpo history", action="trial.accept-late")
        counts_as = accept_late_result(self._store, study_id, number, place=result, doer=doer)
        return trial_numbered(self._store, study_id, counts_as)

    def size_of(self, study: str, /) -> int:
        """How many trials a study has. Raises StudyNotFoundError."""
        from storage.history import get_study

        return get_study(self._store, study).trials

    def delete(self, study: str, /, *, files: bool, mlflow_runs: bool) -> Deletion:
        """Delete a study. Raises StudyNotFoundError, LaunchError, MlflowUnavailableError."""
        from hpo.running.deletion import delete_study
        from hpo.settings import runs_folder
        from storage.history import get_study

        study_id = get_study(self._store, study).study_id
        return delete_study(self._store, study_id, runs=runs_folder(), with_files=files, with_mlflow_runs=mlflow_runs)

    def export(self, target: str, folder: Path, /, *, force: bool) -> tuple[Sequence[Path], Sequence[str]]:
        """Write recorded tables; the files, and what there is to say. Raises FamilyNotFoundError, StorageError."""
        from storage.export import export_tables

        notes: list[str] = []
        return export_tables(self._store, target, folder, force=force, note=notes.append), notes

    def verify(self, progress: Callable[[float], None], /) -> tuple[Sequence[Finding], Mapping[str, str]]:
        """What is wrong, and why studies are in quarantine. progress: is told the share that is done."""
        from storage import integrity
        from storage.overview import overview

        return integrity.verify(self._store, progress=progress), overview(self._store).quarantine

    def trust(self, study: str, /) -> str | None:
        """Learn from a study again; why nobody did. Raises StudyNotFoundError."""
        from storage import history
        from storage.importers import flags

        history.get_study(self._store, study)  # says near names where there is none
        return flags.trust(self._store, study)

    def quarantine(self, study: str, reason: str, /) -> str | None:
        """Let nobody learn from a study; for which reasons nobody did before. Raises StudyNotFoundError."""
        from storage.importers import flags

        return flags.quarantine(self._store, study, reason)


class PastOfService:
    """The history of a service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def sources(self) -> tuple[list[KnownSource], Overview]:
        """What studies came from; the families, and what is in quarantine."""
        from hpo.client.past import overview_of, sources_of

        told = self._client.history()
        return sources_of(told), overview_of(told)

    def about(self, name: str, /) -> NamedHistory:
        """What there is of that name. Raises NoHistoryError."""
        from hpo.client.past import named_of

        return named_of(self._client.about(name))

    def count(self, where: str, /) -> int:
        """How many trials meet a condition. Raises QueryError."""
        return int(self._client.totals(where)["trials"])

    def totals(self, where: str, /) -> Totals:
        """Sums of them. Raises QueryError."""
        from hpo.client.past import totals_of

        return totals_of(self._client.totals(where))

    @contextmanager
    def select(
        self, where: str, /, *, order_by: str | None, descending: bool, limit: int | None, curves: bool
    ) -> Iterator[Selection]:
        """As `storage.queries.select_trials`; trials that come in meanwhile are among them, or not."""
        from optuna.distributions import json_to_distribution

        from hpo.client.past import row_of
        from storage.queries import Selection

        drawn = self._client.parameters(where)
        order = f"{'-' if descending else ''}{order_by or ''}" or None
        page = min(limit or LARGEST_PAGE, LARGEST_PAGE)
        told = self._client.query(where, order=order, curves=curves, page=page)
        yield Selection(
            parameters={name: tuple(map(json_to_distribution, known)) for name, known in drawn.items()},
            rows=(row_of(each) for each in islice(told, limit)),
        )

    def forget(self, source: str, /, *, dry_run: bool) -> Forgotten:
        """Remove a source. Raises SourceNotFoundError."""
        from hpo.client.past import forgotten_of

        return forgotten_of(self._client.forget(source, dry_run=dry_run))

    def accept_late(self, study: str, number: int, /, *, result: int | None) -> TrialRecord:
        """Let a late result of a trial count; the trial that has it. Raises StorageError."""
        return self._client.accept_late(study, number, result=result)

    def size_of(self, study: str, /) -> int:
        """How many trials a study has. Raises StudyNotFoundError."""
        return self._client.study(study).trials

    def delete(self, study: str, /, *, files: bool, mlflow_runs: bool) -> Deletion:
        """Delete a study. Raises StudyNotFoundError, LaunchError, MlflowUnavailableError."""
        from hpo.client.records import result_of
        from hpo.running.deletion import Deletion

        return result_of(Deletion, self._client.delete(study, files=files, mlflow_runs=mlflow_runs))

    def export(self, target: str, folder: Path, /, *, force: bool) -> tuple[Sequence[Path], Sequence[str]]:
        """Write recorded tables; the files, and what there is to say. Raises FamilyNotFoundError, StorageError."""
        from storage.export import check_folder, unpack_tables

        check_folder(folder, force=force)
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "tables.zip"
            self._client.export(target, file)
            with zipfile.ZipFile(file) as archive:
                notes = archive.comment.decode(errors="replace").splitlines()
            return unpack_tables(file, folder), notes

    def verify(self, progress: Callable[[float], None], /) -> tuple[Sequence[Finding], Mapping[str, str]]:
        """What is wrong, and why studies are in quarantine. progress: is told the share that is done."""
        from hpo.client.past import findings_of

        job = ended(self._client, self._client.start_verifying(), lambda done, total: progress(done / (total or 1)))
        if job["state"] != "done":
            raise SettingsError(f"job {job['id']} of the service was not done: {job['error'] or job['state']}")
        return findings_of(job["result"]), job["result"]["quarantine"]

    def trust(self, study: str, /) -> str | None:
        """Learn from a study again; why nobody did. Raises StudyNotFoundError."""
        reason: str | None = self._client.trust(study)["reason"]
        return reason

    def quarantine(self, study: str, reason: str, /) -> str | None:
        """Let nobody learn from a study; for which reasons nobody did before. Raises StudyNotFoundError."""
        before: str | None = self._client.quarantine(study, reason)["before"]
        return before


def ended(client: Client, job: Mapping[str, Any], tell: Callable[[int, int | None], None]) -> dict[str, Any]:
    """A job of a service once it has ended; Ctrl-C ends it."""
    try:
        return client.finished_job(job["id"], tell=tell)
    except KeyboardInterrupt:
        with suppress(Exception):
            client.cancel_job(job["id"])
        raise
