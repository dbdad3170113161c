"""What can be asked of a service, and done with it? The verbs of this package, by name of the study or its number.

    client = hpo.Client("http://127.0.0.1:8080", token)      # else HPO_SERVER and HPO_TOKEN, or `hpo login`
    client.best("churn").winner
    with client.ask("churn") as trial:
        trial.tell(train(**trial.params))

Results are the types that the functions here return, errors the ones that they raise.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from hpo.client.logins import server_of, token_of
from hpo.client.transport import TIMEOUT_SECONDS, Transport
from hpo.client.trial import Trial
from hpo.errors import (
    NotAllowedError,
    ServiceError,
    SettingsError,
    SpecError,
    StudyFailedError,
    StudyOverError,
    StudyPausedError,
)
from storage.durable_files import draft_of
from storage.errors import StudyNotFoundError
from storage.retries import PATIENCE_SECONDS

if TYPE_CHECKING:
    import httpx2

    from hpo.answers.advice import RangeAdvice
    from hpo.answers.effects import Effects, ParameterImportance
    from hpo.answers.plan import Plan
    from hpo.answers.receipts import TrialReason
    from hpo.answers.recipes import ReadyTask
    from hpo.client.events import Event
    from hpo.decisions.comparisons import Comparisons
    from hpo.decisions.promotion import Promotion
    from hpo.decisions.winner import Against, Best
    from hpo.replay.report import Report
    from hpo.studies.front import Front
    from hpo.tuning.stopping import Stopped
    from storage.history import StudySummary, TrialRecord

T = TypeVar("T")
Study: TypeAlias = "str | int | StudySummary"  # its name, its number in addresses, or what `study` returned
Place: TypeAlias = Literal["server", "workers"]
PAGE = 1_000
ANSWER_SECONDS = 330.0  # that the service may take to work something out
JOB_PAUSE_SECONDS = 0.3  # between questions how far a job is
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0  # between questions for a trial while there is none


class Client:
    """A service. Threads may share it; it is closed as a context manager, or by `close`."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Raises SettingsError, NotAllowedError; the service is not asked yet.

        patience_seconds: how long a request is repeated while the service is away. timeout_seconds: how long it may be
        silent.
        """
        server = server_of(url)
        self.transport = Transport(
            server, token_of(server, token), patience_seconds=patience_seconds, timeout_seconds=timeout_seconds
        )
        self._patience_seconds = patience_seconds
        self._ids: dict[str, int] = {}  # of studies, by name
        self._worker: str | None = None  # what this process is called where it asks for trials

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    # Studies ----------------------------------------------------------------------------------------------------------

    def studies(self, *, search: str | None = None) -> list[StudySummary]:
        """All studies, oldest first. search: part of the name, task or family."""
        from hpo.client.records import study_of

        return [study_of(each) for each in self._all("/studies", search=search)][::-1]

    def study(self, study: Study) -> StudySummary:
        """One study. Raises StudyNotFoundError."""
        from hpo.client.records import study_of

        return study_of(self._study(study))

    def launch_of(self, study: Study) -> dict[str, Any] | None:
        """How the service runs a study: its state, its place, its owner; None where it does not run it."""
        launch: dict[str, Any] | None = self._study(study).get("launch")
        return launch

    def create_study(
        self,
        file: Mapping[str, Any] | str | Path,
        *,
        place: Place | None = None,
        jobs: int = 1,
        priority: int = 0,
        executor: str | None = None,
        ray_address: str | None = None,
    ) -> StudySummary:
        """Create a study of a study file: a path, its YAML, or its content as a mapping.

        place: launch it at once, on the server or for workers; None: `start` does. Raises SpecError with all that is
        wrong, StudyExistsError.
        """
        from hpo.client.records import study_of

        launch = {"place": place, "jobs": jobs, "priority": priority, "executor": executor, "ray_address": ray_address}
        return study_of(self.transport.post("/studies", _file(file) | ({} if place is None else {"launch": launch})))

    def check_study(self, file: Mapping[str, Any] | str | Path) -> dict[str, Any]:
        """What is wrong with a study file, each with its place, and what it will reach if nothing is."""
        return dict(self.transport.post("/studies/check", _file(file)))

    def start(self, study: Study) -> StudySummary:
        """Launch a study that was created."""
        return self._changed(study, "start")

    def pause(self, study: Study) -> StudySummary:
        """Give its trials back; `resume` goes on."""
        return self._changed(study, "pause")

    def resume(self, study: Study) -> StudySummary:
        """Go on with a study."""
        return self._changed(study, "resume")

    def stop(self, study: Study) -> StudySummary:
        """End a study for good."""
        return self._changed(study, "stop")

    def delete(self, study: Study, *, files: bool = False, mlflow_runs: bool = False) -> dict[str, Any]:
        """Delete a study that does not run, with all its trials and their replicates; what became of the rest of it.

        files, mlflow_runs: whether its files and its runs in MLflow go too, these by MLflow's mark; else the answer
        says where they are.
        """
        study_id = self._id(study)  # and no other, should another have the name by now
        try:
            return dict(
                self.transport.delete(
                    f"/studies/{study_id}", files=files, mlflow_runs=mlflow_runs, timeout_seconds=ANSWER_SECONDS
                )
            )
        finally:
            self._ids = {name: number for name, number in self._ids.items() if number != study_id}

    def trials(self, study: Study, *, where: str | None = None, order: str | None = None) -> list[TrialRecord]:
        """The trials of a study that meet a condition (as in `hpo history query`); by number, if no other order."""
        from hpo.client.records import trial_of

        return self._by_id(
            study,
            lambda study_id: [
                trial_of(each) for each in self._all(f"/studies/{study_id}/trials", where=where, order=order)
            ],
        )

    def trial(self, study: Study, number: int) -> TrialRecord:
        """One trial. Raises TrialNotFoundError."""
        from hpo.client.records import trial_of

        return trial_of(self._by_id(study, lambda study_id: self.transport.get(f"/studies/{study_id}/trials/{number}")))

    def accept_late(self, study: Study, number: int, *, result: int | None = None) -> TrialRecord:
        """Let a value count that came too late for a trial, where no other came; the trial that has it.

        result: which of several, from 1; said for the only one, too, where somebody told it who never had the trial.
        Raises TrialNotFoundError, StorageError where none may count.
        """
        from hpo.client.records import trial_of

        path, body = f"trials/{number}/accept-late", {"result": result}
        return trial_of(self._by_id(study, lambda study_id: self.transport.post(f"/studies/{study_id}/{path}", body)))

    def explain(self, study: Study, number: int) -> TrialReason:
        """Why a trial was proposed, as `hpo explain --json` prints it."""
        found: TrialReason = self._by_id(
            study, lambda study_id: self.transport.get(f"/studies/{study_id}/trials/{number}/receipt")
        )
        return found

    def watch(self, study: Study, *, patience_seconds: float | None = None) -> AbstractContextManager[Iterator[Event]]:
        """What happens in a study, as it happens: `with client.watch("churn") as events: for event in events: …`.

        It ends when the study does; a connection that breaks is taken up again where it was.
        """
        from hpo.client.events import watching

        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        return watching(self.transport, self._study(study)["id"], patience_seconds=patience)

    def events(self, study: Study, *, patience_seconds: float | None = None) -> Iterator[Event]:
        """As `watch`, to be read to its end: `for event in client.events("churn"): …`."""
        with self.watch(study, patience_seconds=patience_seconds) as events:
            yield from events

    def tune(
        self,
        file: Mapping[str, Any] | str | Path,
        *,
        jobs: int = 1,
        priority: int = 0,
        executor: str | None = None,
        tell: Callable[[Event], None] | None = None,
    ) -> StudySummary:
        """Run a study on the server, and wait for its end; as `hpo.tune`. tell: is told what happens in it.

        Ctrl-C only stops waiting; `events` looks on again. Raises SpecError, StudyExistsError, StudyFailedError.
        """
        made = self.create_study(file, place="server", jobs=jobs, priority=priority, executor=executor)
        self._wait_for(made, tell)
        return self.study(made)

    def check_end(self, study: StudySummary) -> None:
        """Raises StudyFailedError where a study that was launched has failed, was stopped, or deleted."""
        try:
            launch = self.launch_of(study) or {}
        except StudyNotFoundError:
            raise StudyFailedError(f"study {study.name!r} was deleted") from None
        if launch.get("state") in ("failed", "stopped"):
            why = launch["message"] or "its log says why"
            raise StudyFailedError(f"study {study.name!r} is {launch['state']}: {why}")

    def stopped(self, study: Study) -> Stopped | None:
        """Why a study was stopped before its budget was spent; None where it was not."""
        from hpo.client.records import result_of
        from hpo.tuning.stopping import Stopped

        told = self._study(study).get("stopped")
        return None if told is None else result_of(Stopped, told)

    # Trials that are trained here -------------------------------------------------------------------------------------

    def ask(self, study: Study, *, worker: str | None = None, lease_seconds: float = 60.0) -> Trial | None:
        """A trial to train, until its lease ends; None where there is none at this moment.

        Raises StudyOverError once the study hands out no more.
        """
        return self._by_id(study, lambda study_id: self._asked(study_id, {}, worker, lease_seconds)[0])

    def work(self, *, worker: str | None = None, lease_seconds: float = 60.0, **machine: Any) -> Trial | None:
        """A trial of any study that waits for workers, by priority and fair share; None where there is none now.

        machine: what this one has to offer, such as devices.
        """
        return self._asked(None, machine, worker, lease_seconds)[0]

    def asked(self, study: Study, *, worker: str | None = None, lease_seconds: float = 60.0) -> Iterator[Trial]:
        """Trials to train, one after the other, until the study hands out no more; a pause is waited out."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                trial, wait_seconds = self._by_id(
                    study, lambda study_id: self._asked(study_id, {}, worker, lease_seconds)
                )
            except StudyOverError:
                return
            except StudyPausedError:
                trial, wait_seconds = None, 0.0
            if trial is not None:
                pause = FIRST_PAUSE_SECONDS
                yield trial
            else:
                time.sleep(wait_seconds or pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    # What past runs say -----------------------------------------------------------------------------------------------

    def best(self, study: Study, *, against: Against | None = None) -> Best:
        """Which configuration is best, and how sure that is; as `hpo.best`."""
        from hpo.client.records import result_of
        from hpo.decisions.winner import Best

        given = {"number": against} if isinstance(against, int) else {"params": against}
        body = {"study": self._name(study)} | ({} if against is None else {"against": given})
        return result_of(Best, self.transport.post("/statistics/best", body, timeout_seconds=ANSWER_SECONDS))

    def front(self, study: Study) -> Front:
        """The trials of a study of several objectives that no other beats in everything."""
        from hpo.client.records import front_of

        return front_of(self._statistics("front", study=self._name(study)))

    def replicate(
        self,
        study: Study,
        most: int,
        *,
        against: Against | None = None,
        jobs: int = 1,
        priority: int = 0,
        executor: str | None = None,
    ) -> Best:
        """Train the contenders of a study again on fresh seeds, on the server, and wait for it; as `hpo.replicate`.

        Ctrl-C only stops waiting. Raises LaunchError while they are being trained already, StudyFailedError.
        """
        number = against if isinstance(against, int) else None
        held = self.start_replicates(study, most, against=number, jobs=jobs, priority=priority, executor=executor)
        self._wait_for(held)
        return self.best(study, against=against)

    def start_replicates(
        self,
        study: Study,
        most: int,
        *,
        against: int | None = None,
        jobs: int = 1,
        priority: int = 0,
        executor: str | None = None,
    ) -> StudySummary:
        """The same without waiting: the study that holds the replicates, to be watched, paused and stopped as any.

        most: replicates in all; fewer are trained where a winner stands out. against: a trial that is a contender.
        """
        from hpo.client.records import study_of

        body = {"replicates": most, "against": against, "jobs": jobs, "priority": priority, "executor": executor}
        return study_of(
            self._by_id(study, lambda study_id: self.transport.post(f"/studies/{study_id}/replicates", body))
        )

    def replicates_of(self, study: Study) -> StudySummary | None:
        """The study that holds the replicates of another; None where there are none yet."""
        from hpo.studies.replicates import SUFFIX

        with suppress(StudyNotFoundError):
            return self.study(self._name(study) + SUFFIX)
        return None

    def compare(self, first: str, *others: str) -> Comparisons:
        """Is one study better than another, or one trial (STUDY#TRIAL); as `hpo.compare`."""
        from hpo.client.records import result_of
        from hpo.decisions.comparisons import Comparisons

        return result_of(Comparisons, self._statistics("compare", first=first, other=list(others)))

    def effects(
        self,
        target: str,
        *,
        parameters: Sequence[str] = (),
        where: str | None = None,
        pairs: bool = False,
        importance: bool = False,
        raw_units: bool = False,
    ) -> Effects:
        """What each range of each hyperparameter was worth, as `hpo stats --json` prints it."""
        asked = {"pairs": pairs, "importance": importance, "raw_units": raw_units}
        found: Effects = self._statistics("effects", target=target, parameter=list(parameters), where=where, **asked)
        return found

    def importance(self, target: str, *, where: str | None = None) -> ParameterImportance | None:
        """Which hyperparameters the outcome depends on; None where too few trials tell."""
        found: ParameterImportance | None = self._statistics("importance", target=target, where=where)
        return found

    def plan(
        self,
        file: Mapping[str, Any] | str | Path,
        *,
        trials: int | None = None,
        jobs: int = 1,
        price_per_hour: float | None = None,
    ) -> Plan:
        """What a study file will reach, and what it will take, as `hpo plan --json` prints it."""
        body = _file(file) | {"trials": trials, "jobs": jobs, "price_per_hour": price_per_hour}
        found: Plan = self.transport.post("/statistics/plan", body, timeout_seconds=ANSWER_SECONDS)
        return found

    def advise(self, target: str, *, together: bool = False) -> RangeAdvice:
        """Which ranges are worth searching, as `hpo advise --json` prints it."""
        found: RangeAdvice = self._statistics("advise", target=target, together=together)
        return found

    def draw_effects(
        self,
        file: Path,
        target: str,
        *,
        parameters: Sequence[str] = (),
        where: str | None = None,
        raw_units: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Draw what ranges were worth into a file, whose ending gives the format: png, svg, pdf or html.

        Raises SettingsError where it is there already, unless it may be overwritten, or where nothing can be drawn.
        """
        query = {"target": target, "parameter": list(parameters), "where": where, "raw_units": raw_units}
        self._draw(file, "GET", "/statistics/effects/figure", query=query, overwrite=overwrite)

    def draw_advice(self, file: Path, target: str, *, together: bool = False, overwrite: bool = False) -> None:
        """Draw where good values lie into a file, as `draw_effects`."""
        query = {"target": target, "together": together}
        self._draw(file, "GET", "/statistics/advise/figure", query=query, overwrite=overwrite)

    def draw_plan(
        self,
        file: Path,
        study_file: Mapping[str, Any] | str | Path,
        *,
        trials: int | None = None,
        jobs: int = 1,
        price_per_hour: float | None = None,
        overwrite: bool = False,
    ) -> None:
        """Draw what a study will reach into a file, as `draw_effects`."""
        body = _file(study_file) | {"trials": trials, "jobs": jobs, "price_per_hour": price_per_hour}
        self._draw(file, "POST", "/statistics/plan/figure", body=body, overwrite=overwrite)

    def promote(self, study: Study, *, trial: int | None = None, name: str | None = None) -> Promotion:
        """Put a trial's model into MLflow's registry; as `hpo promote`. The service does it in the background.

        Raises StudyFailedError where the model cannot be registered.
        """
        from hpo.client.records import result_of
        from hpo.decisions.promotion import Promotion

        body = {"trial": trial, "name": name}
        asked = self._by_id(study, lambda study_id: self.transport.post(f"/studies/{study_id}/promote", body))
        job = self.finished_job(asked["id"])
        if job["state"] != "done":
            raise StudyFailedError(job["error"] or f"job {job['id']} was cancelled")
        return result_of(Promotion, job["result"])

    # The history ------------------------------------------------------------------------------------------------------

    def history(self) -> dict[str, Any]:
        """The sources, the families and what is in quarantine, as `hpo history list --json` prints it.

        Times are texts, as JSON has them; `hpo.client.past` makes the types of it that the history has here.
        """
        return dict(self.transport.get("/history"))

    def query(
        self, where: str | None = None, *, order: str | None = None, curves: bool = False, page: int = PAGE
    ) -> Iterator[dict[str, Any]]:
        """The trials of the history that meet a condition, read while they are asked for, so many at a time."""
        return self._all("/trials", where=where, order=order, curves=curves, limit=page)

    def parameters(self, where: str | None = None) -> dict[str, list[str]]:
        """What the parameters of these trials may have been drawn from, by name, each as Optuna writes it in JSON."""
        return dict(self.transport.get("/history/parameters", where=where))

    def totals(self, where: str | None = None) -> dict[str, Any]:
        """How many trials meet a condition, and at what cost, as `hpo history query --totals --json` prints it."""
        return dict(self.transport.get("/history/totals", where=where))

    def about(self, name: str) -> dict[str, Any]:
        """What is in a source, a task, a family or a study, as `hpo history show --json` prints it."""
        return dict(self.transport.get("/history/about", name=name))

    def export(self, target: str, file: Path) -> None:
        """Write the past runs of a family, a task, a study or a source into a file of recorded tables (ZIP).

        The file is there whole or not at all; its comment says what was left out. Raises SettingsError where it is
        there already, or cannot be written.
        """
        if file.exists():
            raise SettingsError(f"{file} is there already; name another")
        self._save("/export", file, family=target)

    def quarantine(self, study: Study, reason: str) -> dict[str, Any]:
        """Let nobody learn from a study; with the reasons that there were before."""
        return dict(self.transport.post("/history/quarantine", {"study": self._name(study), "reason": reason}))

    def trust(self, study: Study) -> dict[str, Any]:
        """Let the tuner learn again from a study that was in quarantine; as `hpo history trust --json`."""
        return dict(self.transport.post("/history/trust", {"study": self._name(study)}))

    def forget(self, source: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Remove a source with all its studies; as `hpo history forget --json`. dry_run: only say what would go."""
        return dict(self.transport.post("/history/forget", {"source": source, "dry_run": dry_run}))

    def recipes(self) -> list[ReadyTask]:
        """The ready tasks."""
        found: list[ReadyTask] = self.transport.get("/recipes")
        return found

    # What runs in the background --------------------------------------------------------------------------------------

    def start_import(self, kind: str, **settings: Any) -> dict[str, Any]:
        """Bring past runs in, in the background: kind mlflow, optuna, table or lightning; returns the job."""
        return dict(self.transport.post("/imports", {"kind": kind, **settings}))

    def upload_table(self, file: Path, **settings: Any) -> dict[str, Any]:
        """Bring in a table that is sent: CSV, Parquet, or recorded tables as a ZIP archive; returns the job."""
        try:
            files = {"file": (file.name, file.read_bytes())}
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror or error}") from error
        answer = self.transport.send(
            "POST",
            "/imports/upload",
            key=secrets.token_urlsafe(16),
            files=files,
            data={"settings": json.dumps(settings)},
            timeout_seconds=ANSWER_SECONDS,
        )
        return dict(answer.json())

    def start_verifying(self) -> dict[str, Any]:
        """Look for what is not whole in the history, in the background; returns the job."""
        return dict(self.transport.post("/history/verify"))

    def finished_job(self, number: int, *, tell: Callable[[int, int | None], None] | None = None) -> dict[str, Any]:
        """A job once it has ended. tell: is told how much is done, and of how much, as long as it goes on."""
        while True:
            job = self.job(number)
            if tell is not None:
                tell(job["done"], job["total"])
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(JOB_PAUSE_SECONDS)

    def save_job_file(self, number: int, file: Path, *, overwrite: bool = False) -> None:
        """Write what a job has left into a file: the tables of an export (ZIP), the runs of a replay (lines of JSON).

        Raises SettingsError where the file is there already, unless it may be overwritten, or cannot be written.
        """
        if file.exists() and not overwrite:
            raise SettingsError(f"{file} is there already; name another")
        self._save(f"/jobs/{number}/file", file)

    def start_replay(self, **settings: Any) -> dict[str, Any]:
        """Tune past tasks again, in the background; returns the job."""
        return dict(self.transport.post("/replays", settings))

    def replay(self, *, tell: Callable[[int, int | None], None] | None = None, **settings: Any) -> Report:
        """Tune past tasks again, and wait for what comes of it; as `hpo replay --server`. tell: as of `finished_job`.

        Ctrl-C only stops waiting. Raises StudyFailedError.
        """
        return self.finished_replay(self.start_replay(**settings)["id"], tell=tell)

    def finished_replay(self, number: int, *, tell: Callable[[int, int | None], None] | None = None) -> Report:
        """The report of a replay that was started before, once it has ended. Raises SettingsError, StudyFailedError."""
        from hpo.client.records import result_of
        from hpo.replay.report import Report

        kind = self.job(number)["kind"]
        if kind != "replay":
            raise SettingsError(f"job {number} is of kind {kind}, and no replay")
        job = self.finished_job(number, tell=tell)
        if job["state"] != "done":
            raise StudyFailedError(job["error"] or f"job {number} was cancelled at the service")
        return result_of(Report, job["result"])

    def jobs(self) -> list[dict[str, Any]]:
        """What runs and ran in the background, the newest first."""
        return list(self._listed("/jobs"))

    def job(self, number: int) -> dict[str, Any]:
        """One of these."""
        return dict(self.transport.get(f"/jobs/{number}"))

    def cancel_job(self, number: int) -> dict[str, Any]:
        """End one of these."""
        return dict(self.transport.post(f"/jobs/{number}/cancel"))

    # Who may, who did, what runs where --------------------------------------------------------------------------------

    def whoami(self) -> dict[str, Any]:
        """Whose token this is, and what it may do."""
        return dict(self.transport.get("/whoami"))

    def tokens(self) -> list[dict[str, Any]]:
        """All tokens, without their secrets."""
        return list(self._listed("/tokens"))

    def create_token(self, *, owner: str, role: str, days: float | None = None) -> dict[str, Any]:
        """Make a token; its secret is in the answer, and nowhere else. days: how long it is valid."""
        return dict(self.transport.post("/tokens", {"owner": owner, "role": role, "days": days}))

    def revoke_token(self, number: int) -> None:
        """End a token."""
        self.transport.delete(f"/tokens/{number}")

    def audit(self) -> Iterator[dict[str, Any]]:
        """Who changed what, the newest first, read while it is asked for."""
        return self._all("/audit")

    def machines(self) -> list[dict[str, Any]]:
        """The machines that trials are trained on."""
        return list(self._listed("/machines"))

    def queue(self) -> Any:
        """Which studies run and which wait, and why."""
        return self.transport.get("/queue")

    # How it is done ---------------------------------------------------------------------------------------------------

    def _statistics(self, question: str, **query: Any) -> Any:
        """What takes long where nobody has asked it before."""
        return self.transport.get(f"/statistics/{question}", timeout_seconds=ANSWER_SECONDS, **query)

    def _save(self, path: str, file: Path, **query: Any) -> None:
        try:
            with (
                self.transport.stream(path, query=query, timeout_seconds=ANSWER_SECONDS) as answer,
                draft_of(file) as draft,
                draft.open("wb") as out,
            ):
                for chunk in answer.iter_bytes():
                    out.write(chunk)
        except OSError as error:
            if isinstance(error, ServiceError):
                raise
            raise SettingsError(f"{file} cannot be written: {error.strerror or error}") from error

    def _draw(
        self,
        file: Path,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        overwrite: bool,
    ) -> None:
        if file.exists() and not overwrite:
            raise SettingsError(f"{file} is there already; name another")
        asked = {**(query or {}), "format": file.suffix.lower().removeprefix(".")}
        answer = self.transport.send(method, path, query=asked, body=body, timeout_seconds=ANSWER_SECONDS)
        try:
            with draft_of(file) as draft:
                draft.write_bytes(answer.content)
        except OSError as error:
            raise SettingsError(f"{file} cannot be written: {error.strerror or error}") from error

    def _wait_for(self, study: StudySummary, tell: Callable[[Event], None] | None = None) -> None:
        """Until a study has ended. Raises StudyFailedError where it has failed, was stopped, or deleted."""
        for event in self.events(study):
            if tell is not None:
                tell(event)
        self.check_end(study)

    def _all(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        cursor = None
        while True:
            page = self.transport.get(path, **{"limit": PAGE, **query, "cursor": cursor})
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def _listed(self, path: str) -> Sequence[dict[str, Any]]:
        """A list that comes as one, or in pages."""
        found = self.transport.get(path)
        return found if isinstance(found, list) else list(self._all(path))

    def _study(self, study: Study) -> dict[str, Any]:
        if isinstance(study, str) and study in self._ids:
            with suppress(StudyNotFoundError):  # another may have its name by now
                found = self.transport.get(f"/studies/{self._ids[study]}")
                if found["name"] == study:
                    return dict(found)
            self._ids.pop(study)
        return dict(self.transport.get(f"/studies/{self._id(study)}"))

    def _find(self, name: str) -> int:
        try:
            found = self.transport.get("/studies", name=name)["items"]
        except NotAllowedError:  # a worker's token, that may know no more of it
            return int(self.transport.get("/work/study", name=name)["id"])
        if not found:
            known = [each["name"] for each in self.transport.get("/studies", limit=PAGE)["items"]]
            raise StudyNotFoundError.named(name, known)
        number: int = found[0]["id"]
        return number

    def _id(self, study: Study) -> int:
        if isinstance(study, int):
            return study
        if not isinstance(study, str):
            return study.study_id
        if study not in self._ids:
            self._ids[study] = self._find(study)
        return self._ids[study]

    def _by_id(self, study: Study, action: Callable[[int], T]) -> T:
        """What is done with the id of a study; where its name was given to another meanwhile, with that one's."""
        is_known = isinstance(study, str) and study in self._ids
        try:
            return action(self._id(study))
        except StudyNotFoundError:
            if not is_known:
                raise
            del self._ids[str(study)]
            return action(self._id(study))

    def _name(self, study: Study) -> str:
        if isinstance(study, str):
            return study
        return str(self._study(study)["name"]) if isinstance(study, int) else study.name

    def _changed(self, study: Study, verb: str) -> StudySummary:
        from hpo.client.records import study_of

        return study_of(self._by_id(study, lambda study_id: self.transport.post(f"/studies/{study_id}/{verb}")))

    def _asked(
        self, study_id: int | None, body: Mapping[str, Any], worker: str | None, lease_seconds: float
    ) -> tuple[Trial | None, float]:
        """A trial of that study, or of any; or None, and how many seconds to wait."""
        if worker is None and self._worker is None:
            from hpo.studies.provenance import this_worker

            self._worker = this_worker()
        name = worker or self._worker or ""
        path = "/work" if study_id is None else f"/studies/{study_id}/ask"
        answer = self.transport.posted(path, {"worker": name, "lease_seconds": lease_seconds, **body})
        told = self.transport.content_of(answer)
        if told is None:
            return None, _seconds(answer)
        study = told.get("study")
        trial = Trial(
            study_id=study["id"] if study_id is None else study_id,
            number=told["trial"],
            attempt=told["attempt"],
            params=told["params"],
            seed=told["seed"],
            worker=name,
            lease_seconds=told["lease_seconds"],
            study=study,
            earlier=tuple(told.get("earlier", ())),
            _transport=self.transport,
        )
        return trial, 0.0


def _file(file: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A study file as it is sent: what is not a mapping is YAML, or a path of it."""
    if isinstance(file, Mapping):
        return {"file": dict(file)}
    if isinstance(file, str) and "\n" in file:
        return {"yaml": file}
    try:
        return {"yaml": Path(file).read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: the file cannot be read: {error}") from None


def _seconds(answer: httpx2.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
