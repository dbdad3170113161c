"""Where does a command's answer come from: a history of one's own, or a service? Both are asked in the same words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpo.cli.options import existing_url
from hpo.errors import SettingsError
from hpo.settings import MLFLOW_VARIABLE, RUNS_VARIABLE, SERVER_VARIABLE, STORAGE_VARIABLE
from storage.masking import without_secrets

if TYPE_CHECKING:
    from hpo.decisions.comparisons import Comparisons
    from hpo.decisions.promotion import Promotion
    from hpo.decisions.winner import Against, Best
    from hpo.studies.front import Front
    from hpo.tuning.stopping import Stopped
    from storage.history import StudySummary, TrialRecord

PATIENCE_SECONDS = 5.0  # somebody is waiting


class Source(Protocol):
    """What commands ask; `hpo.Client` answers for a service."""

    def studies(self) -> list[StudySummary]:
        """All studies, oldest first."""
        ...

    def study(self, study: str, /) -> StudySummary:
        """The study of that name. Raises StudyNotFoundError."""
        ...

    def trials(self, study: str, /) -> list[TrialRecord]:
        """Its trials by number."""
        ...

    def stopped(self, study: str, /) -> Stopped | None:
        """Why it was stopped before its budget was spent."""
        ...

    def best(self, study: str, /, *, against: Against | None = None) -> Best:
        """As `hpo.best`."""
        ...

    def front(self, study: str, /) -> Front:
        """The trials that no other beats in everything."""
        ...

    def compare(self, first: str, /, *others: str) -> Comparisons:
        """As `hpo.compare`."""
        ...

    def effects(
        self,
        target: str,
        /,
        *,
        where: str,
        parameters: Sequence[str],
        pairs: bool,
        importance: bool,
        raw_units: bool,
    ) -> Mapping[str, Any]:
        """As `hpo.answers.effects` says it."""
        ...

    def advise(self, target: str, /, *, together: bool) -> Mapping[str, Any]:
        """As `hpo.answers.advice` says it."""
        ...

    def draw_effects(
        self, file: Path, target: str, /, *, parameters: Sequence[str], where: str, raw_units: bool, overwrite: bool
    ) -> None:
        """As `hpo stats --figure`."""
        ...

    def draw_advice(self, file: Path, target: str, /, *, together: bool, overwrite: bool) -> None:
        """As `hpo advise --plot`."""
        ...

    def promote(self, study: str, /, *, trial: int | None, name: str | None) -> Promotion:
        """As `hpo promote`."""
        ...


class OwnHistory:
    """A history that this process opens; a question never creates one."""

    def __init__(self, url: str, *, mlflow: str | None = None) -> None:
        from storage.schema import open_store

        self.url, self._mlflow = url, mlflow
        self.store = open_store(url, upgrade=False)

    def studies(self) -> list[StudySummary]:
        """All studies, oldest first."""
        from storage import history

        return history.list_studies(self.store)

    def study(self, study: str, /) -> StudySummary:
        """The study of that name. Raises StudyNotFoundError."""
        from storage import history

        return history.get_study(self.store, study)

    def trials(self, study: str, /) -> list[TrialRecord]:
        """Its trials by number."""
        from storage import history

        return history.list_trials(self.store, self.study(study).study_id)

    def stopped(self, study: str, /) -> Stopped | None:
        """Why it was stopped before its budget was spent."""
        from hpo.tuning.stopping import stopped_reason

        return stopped_reason(self.store, self.study(study).study_id)

    def best(self, study: str, /, *, against: Against | None = None) -> Best:
        """As `hpo.best`."""
        from hpo.decisions.winner import best

        return best(study, self.store, against=against)

    def front(self, study: str, /) -> Front:
        """The trials that no other beats in everything."""
        from hpo.studies.front import front

        return front(study, self.store)

    def compare(self, first: str, /, *others: str) -> Comparisons:
        """As `hpo.compare`."""
        from hpo.decisions.comparisons import compare

        return compare(first, *others, storage=self.store)

    def effects(
        self,
        target: str,
        /,
        *,
        where: str,
        parameters: Sequence[str],
        pairs: bool,
        importance: bool,
        raw_units: bool,
    ) -> Mapping[str, Any]:
        """As `hpo.answers.effects` says it."""
        from hpo.answers.effects import chosen_places, effects_fields
        from hpo.decisions.past_effects import past_effects
        from hpo.one_thread import one_thread

        with one_thread():
            found = past_effects(self.store, target, where=where, raw_units=raw_units)
            return effects_fields(found, chosen_places(found, parameters), pairs=pairs, importance=importance)

    def advise(self, target: str, /, *, together: bool) -> Mapping[str, Any]:
        """As `hpo.answers.advice` says it."""
        from hpo.answers.advice import advice_fields
        from hpo.decisions.range_advice import advise
        from hpo.one_thread import one_thread

        with one_thread():
            return advice_fields(advise(self.store, target, together=together), together=together)

    def draw_effects(
        self, file: Path, target: str, /, *, parameters: Sequence[str], where: str, raw_units: bool, overwrite: bool
    ) -> None:
        """As `hpo stats --figure`."""
        from hpo.answers.effects import chosen_places
        from hpo.decisions.past_effects import past_effects
        from hpo.figures.effects_figure import save_figure
        from hpo.one_thread import one_thread

        with one_thread():
            found = past_effects(self.store, target, where=where, raw_units=raw_units)  # which remembers the last
            save_figure(found, chosen_places(found, parameters), file, is_chosen=bool(parameters))

    def draw_advice(self, file: Path, target: str, /, *, together: bool, overwrite: bool) -> None:
        """As `hpo advise --plot`."""
        from hpo.decisions.range_advice import advise
        from hpo.figures.advice_figure import save_figure
        from hpo.one_thread import one_thread

        with one_thread():
            save_figure(advise(self.store, target, together=together), file)

    def promote(self, study: str, /, *, trial: int | None, name: str | None) -> Promotion:
        """As `hpo promote`."""
        from hpo.decisions.promotion import promote

        return promote(study, trial=trial, name=name, mlflow=self._mlflow, storage=self.url)


@contextmanager
def opened(storage: str | None, server: str | None, *, mlflow: str | None = None) -> Iterator[Source]:
    """The service, where one is named, else the history. Raises SettingsError."""
    if (address := server_to_ask(storage, server, mlflow=mlflow)) is not None:
        from hpo.client.client import Client

        with Client(address, patience_seconds=PATIENCE_SECONDS) as client:
            yield client
    else:
        yield OwnHistory(existing_url(storage), mlflow=mlflow)


def server_to_ask(
    storage: str | None, server: str | None, *, mlflow: str | None = None, runs: Path | None = None
) -> str | None:
    """The service that is meant; None: the history. What the command line says goes before the environment.

    Raises SettingsError where it names both, or with a service a place of this machine.
    """
    says_storage = storage is not None and storage != os.environ.get(STORAGE_VARIABLE)
    says_server = server is not None and server != os.environ.get(SERVER_VARIABLE)
    if says_storage and says_server:
        raise SettingsError("--server and --storage both say where the history is; give one of them")
    if says_storage or server is None:
        return None
    for option, given, variable in (("--mlflow", mlflow, MLFLOW_VARIABLE), ("--runs", runs, RUNS_VARIABLE)):
        if given is not None and str(given) != os.environ.get(variable):
            raise SettingsError(
                f"{option} {given} is for what this machine trains, and {without_secrets(server)} has its own: "
                f"leave it out, or name a history with --storage in place of the service"
            )
    return server


def ready_tasks(server: str | None) -> Sequence[Mapping[str, Any]]:
    """The recipes of a service, else of this program, as `hpo.answers.recipes` says them."""
    if server is not None:
        from hpo.client.client import Client

        with Client(server, patience_seconds=PATIENCE_SECONDS) as client:
            return client.recipes()
    from hpo.answers.recipes import recipe_fields
    from trainers.recipes import RECIPES

    return [{**recipe_fields(recipe)} for recipe in RECIPES.values()]
