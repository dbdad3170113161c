"""Pulling trials: ask, train, report, prune and tell, as long as there is work. A service that is away loses nothing.

As the runner of a study, but that the history is behind a service: what is proposed and pruned is decided there.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hpo.client.refusals import is_trouble_of_service
from hpo.client.sendable import sendable, text
from hpo.client.transport import Transport
from hpo.errors import HpoError, NotAllowedError, ServiceUnavailableError
from hpo.running.attempts import drop_checkpoints
from hpo.running.budgets import why_not_measured
from hpo.running.interrupts import Interrupts
from hpo.running.outage import Outage
from hpo.studies.provenance import git_commit, hardware, this_worker
from hpo.worker.checkpoints import named_place
from hpo.worker.crew import Crew
from hpo.worker.heartbeat import Heartbeat, Lease
from hpo.worker.kept import FOLDER, Kept
from hpo.worker.refused import Refused
from hpo.worker.results import Results
from storage.errors import StaleAttemptError, StorageError
from trainers.errors import TrainerError
from trainers.job import OUTPUT_LOG, Event, Failed, Finished, Outcome, Reported

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.2
CALL_SECONDS = 3.0  # how long a call waits for the service: trials wait meanwhile, and go on without it after that
ASK_SECONDS = 30.0  # for an answer to the question for work: something may have to be learned first
REFUSED_SECONDS = 15.0  # after which to ask again where the question was refused
MOST_UNTOLD = 2  # ends that may wait beside those that are told, while devices go on: proposals lack their values
TAIL_LINES = 6
MOST_NOTES = 100  # that a service takes of a trial


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker does."""

    projects: Path  # whose modules it trains
    runs: Path  # for checkpoints and outputs
    packages: frozenset[str] = frozenset()  # installed ones whose code it trains besides
    devices: int = 1  # that a trial may have
    names_of_devices: tuple[str, ...] = ()
    jobs: int = 1  # trials side by side
    study: str | None = None  # only of this one
    once: bool = False  # until there is nothing to do


@dataclass(frozen=True, kw_only=True)
class _Running:
    crew: Crew
    number: int
    attempt: int
    folder: Path
    given: Mapping[str, Any]  # as the service tells of it

    @property
    def halve_batch(self) -> bool:
        return bool(self.given["halve_batch"])

    @property
    def key(self) -> tuple[int, int]:
        return self.crew.study_id, self.number

    @property
    def path(self) -> str:
        return f"/studies/{self.crew.study_id}/trials/{self.number}"

    @property
    def held(self) -> Lease:
        return self.crew.study_id, self.number, self.attempt

    @property
    def about(self) -> str:
        return f"trial {self.number} of {self.crew.name}"


class Worker:
    """One process that pulls trials from one service. `notice` is told what happens, in a line or a few."""

    def __init__(self, transport: Transport, options: WorkerOptions, *, notice: Callable[[str], None]) -> None:
        self._transport, self._options, self._notice = transport, options, notice
        self._name = this_worker()
        self._outage = Outage(notice)
        self._heart = Heartbeat(transport, worker=self._name, lease_seconds=LEASE_SECONDS)
        self._results = Results(
            transport, Kept(options.runs / FOLDER), self._heart, self._outage, notice, at_once=options.jobs
        )
        self._crews: dict[int, tuple[Crew, ExitStack]] = {}
        self._running: dict[tuple[int, int], _Running] = {}  # by study and number
        self._not_begun: dict[tuple[int, int], _Running] = {}  # those of them whose code is being imported
        self._refused = Refused()  # studies that cannot be trained here
        self._changed: set[int] = set()  # studies of which trials run here as their files were before
        self._asking: Future[Any] | None = None
        self._ask_key = _new_key()
        self._ask_at = 0.0  # when to ask again
        self._told_idle = False
        self._has_ended = False  # a trial, since it was last asked for work
        self._code_version = git_commit(options.projects)
        self._ended = 0

    def run(self) -> int:
        """Work until Ctrl-C, or once there is nothing to do; returns how many trials have come to their end.

        Raises NotAllowedError and SettingsError for a token, or a role, that the service does not take; where one ends
        meanwhile, once the trials that run have ended: what they bring is kept on disk.
        """
        self._say_hello()
        with Interrupts() as interrupts:
            try:
                with self._heart, ThreadPoolExecutor(1, thread_name_prefix="asking") as asker:
                    self._work(asker, interrupts)
            finally:
                self._say_goodbye()
        return self._ended

    def _work(self, asker: ThreadPoolExecutor, interrupts: Interrupts) -> None:
        try:
            while self._goes_on(asker):
                interrupts.check()
                self._begin_imported()
                for crew, event in self._events():
                    self._handle(crew, event)
                if self._results.settle():
                    self._has_ended, self._told_idle = True, False
                self._stop_lost()
        finally:
            self._abandon_all()

    # Asking ---------------------------------------------------------------------------------------------------------

    def _say_hello(self) -> None:
        facts = {
            "worker": self._name,
            "host": socket.gethostname(),
            "devices": list(self._options.names_of_devices),
            "jobs": self._options.jobs,
            "version": version("hindsight-hpo"),
        }
        self._transport.post("/machines", facts)
        if self._results.take_left():
            self._heart.extend()  # before anybody is given these trials again

    def _goes_on(self, asker: ThreadPoolExecutor) -> bool:
        """Fill the free places; whether there is, or may be, anything to do."""
        if self._outage.is_over(self._catch_up):
            self._take_answer()
            if self._results.barred is not None and not self._running and not self._results.untold:
                raise self._results.barred
            jobs = self._options.jobs
            is_free = len(self._running) < jobs and self._results.untold < jobs + MOST_UNTOLD
            may_ask = self._asking is None and self._results.barred is None
            if is_free and may_ask and time.monotonic() >= self._ask_at:
                self._has_ended = False
                self._asking = asker.submit(self._ask)
        is_idle = not self._running and not self._results.untold and self._asking is None and self._told_idle
        return not (self._options.once and is_idle and not self._outage.is_on)

    def _ask(self) -> Any:
        """In a thread of its own: what runs does not wait. The same question until there is an answer."""
        return self._transport.posted(
            "/work",
            {
                "worker": self._name,
                "devices": self._options.devices,
                "lease_seconds": LEASE_SECONDS,
                "study": self._options.study,
                "without": self._refused.now() + sorted(self._changed)[: self._options.jobs],
                "hardware": hardware(),
                "code_version": self._code_version,
            },
            key=self._ask_key,
            timeout_seconds=ASK_SECONDS,
        )

    def _take_answer(self) -> None:
        asked = self._asking
        if asked is None or not asked.done():
            return
        self._asking = None
        try:
            answer = self._outage.attempt(asked.result, otherwise=None)
            given = None if answer is None else self._transport.content_of(answer)
        except NotAllowedError as error:
            self._results.barred = error
            return
        except (HpoError, StorageError) as error:
            if self._options.once and not self._running:
                raise
            self._ask_key = (
                self._ask_key if is_trouble_of_service(error) else _new_key()
            )  # a refusal is kept by its key
            self._ask_at = time.monotonic() + REFUSED_SECONDS
            self._notice(f"no work is handed out: {error}\n    It is asked for again in {REFUSED_SECONDS:.0f} s.")
            return
        if answer is None:
            return
        self._ask_key = _new_key()
        if given is not None:
            self._told_idle = False
            self._begin(given)
            return
        if self._has_ended:  # meanwhile: there may be work of its study now
            self._told_idle = False
            return
        self._ask_at = time.monotonic() + float(answer.headers.get("Retry-After", "5"))
        if not self._told_idle and not self._running:
            self._notice("there is nothing to train now" + ("" if self._options.once else "; waiting for work"))
        self._told_idle = True

    def _begin(self, given: Mapping[str, Any]) -> None:
        study = given["study"]
        held = (int(study["id"]), int(given["trial"]), int(given["attempt"]))
        self._heart.hold(held)  # while the user's code is imported, too
        if self._must_end_first(study):
            self._changed.add(held[0])
            self._decline(study, held, "its study was changed; trials of it as it was before end first")
            return
        try:
            crew = self._crew(study)
        except (HpoError, TrainerError) as error:
            self._refuse(study, held, error)
            return
        running = _Running(crew=crew, number=held[1], attempt=held[2], folder=crew.folder(given), given=given)
        self._running[running.key] = self._not_begun[running.key] = running

    def _begin_imported(self) -> None:
        """Begin the trials whose code is there by now; other trials go on meanwhile."""
        for running in [each for each in self._not_begun.values() if each.crew.has_imported]:
            given = self._not_begun.pop(running.key).given
            try:
                running.crew.launch(given)
            except (HpoError, TrainerError) as error:
                self._forget(running)
                self._dismiss(running.crew)
                self._refuse(given["study"], running.held, error)
                continue
            self._refused.forgive(running.crew.study_id)
            again = f", attempt {running.attempt}" if running.attempt > 1 else ""
            params = ", ".join(f"{name}={_short(value)}" for name, value in given["params"].items())
            self._notice(f"{running.about}{again}: {params}")

    def _refuse(self, study: Mapping[str, Any], held: Lease, error: Exception) -> None:
        self._refused.add(held[0])
        self._notice(f"study {study['name']!r} cannot be trained here, and is left to other workers: {error}")
        self._decline(study, held, f"a worker on {socket.gethostname()} cannot train it: {_first_line(error)}")

    def _decline(self, study: Mapping[str, Any], held: Lease, reason: str) -> None:
        self._heart.drop(held)
        body = {"attempt": held[2], "reason": text(reason)}
        with suppress(StaleAttemptError):
            self._results.end(
                f"/studies/{held[0]}/trials/{held[1]}", "release", body, about=f"trial {held[1]} of {study['name']}"
            )

    def _must_end_first(self, study: Mapping[str, Any]) -> bool:
        """Whether trials of a study run here as its file was before: one crew cannot train both."""
        study_id = int(study["id"])
        known = self._crews.get(study_id)
        is_busy = any(running.crew.study_id == study_id for running in self._running.values())
        return is_busy and known is not None and not known[0].trains_as(study["spec"])

    def _crew(self, study: Mapping[str, Any]) -> Crew:
        """The crew of a study; those that have nothing to do make room for it."""
        known = self._crews.get(int(study["id"]))
        if known is not None and known[0].trains_as(study["spec"]):
            return known[0]
        busy = {study_id for study_id, _ in self._running}
        for study_id in [study_id for study_id in self._crews if study_id not in busy]:
            self._crews.pop(study_id)[1].close()
        crew = Crew(
            study,
            server=self._transport.url,
            projects=self._options.projects,
            packages=self._options.packages,
            runs=self._options.runs,
            jobs=self._options.jobs,
            notice=self._notice,
        )
        stack = ExitStack()
        stack.enter_context(crew)
        self._crews[crew.study_id] = (crew, stack)
        return crew

    def _dismiss(self, crew: Crew) -> None:
        """Let a crew whose code cannot be imported be made anew for the next trial."""
        if self._crews.get(crew.study_id, (None,))[0] is crew:
            self._crews.pop(crew.study_id)[1].close()

    def _catch_up(self) -> None:
        """What is done first when the service is back: keep our trials, and tell what they brought meanwhile."""
        try:
            self._heart.extend()
        except ServiceUnavailableError:
            raise
        except (HpoError, StorageError) as error:  # it is there, and may take what was kept even so
            self._results.barred = error if isinstance(error, NotAllowedError) else self._results.barred
        self._stop_lost()
        self._results.catch_up()

    # Training -------------------------------------------------------------------------------------------------------

    def _events(self) -> list[tuple[Crew, Event]]:
        begun = [running for running in self._running.values() if running.key not in self._not_begun]
        busy = {running.crew.study_id: running.crew for running in begun}
        if not busy:
            time.sleep(POLL_SECONDS)
        return [(crew, event) for crew in busy.values() for event in crew.executor.poll(POLL_SECONDS / len(busy))]

    def _handle(self, crew: Crew, event: Event) -> None:
        running = self._running.get((crew.study_id, event.key))
        if running is None:
            return  # it was lost
        try:
            if isinstance(event, Reported):
                self._report(running, event)
            else:
                self._forget(running)
                self._ended += 1
                if isinstance(event, Finished):
                    self._finish(running, event.outcome)
                else:
                    self._fail(running, event)
        except (HpoError, StorageError) as error:  # somebody else has it, or it was deleted
            self._lose(running, str(error))

    def _report(self, running: _Running, event: Reported) -> None:
        body = {"attempt": running.attempt, "step": event.epoch, "value": event.value, "metrics": event.metrics}
        prune = False
        try:
            prune = self._results.report(running.path, sendable(body), about=running.about)
        finally:
            running.crew.executor.answer(event.key, prune=prune)

    def _finish(self, running: _Running, outcome: Outcome) -> None:
        values = [outcome.value, *outcome.more_values]
        body = sendable(
            {
                "attempt": running.attempt,
                "state": "pruned" if outcome.pruned else "complete",
                "values": values,
                "measured": outcome.measured,
                "notes": [text(note) for note in outcome.notes[:MOST_NOTES]],
                "cost_seconds": outcome.seconds,
                "epochs": outcome.epochs,
                "peak_memory_bytes": outcome.peak_memory_bytes,
                "checkpoint": None if outcome.checkpoint is None else named_place(outcome.checkpoint),
            }
        )
        if outcome.checkpoint is None or outcome.pruned:  # of which there will be no champion
            self._results.end(running.path, "tell", body, about=running.about)
        else:
            self._results.hand_over(running.path, body, about=running.about)
        is_kept = running.crew.spec.training.keep_folds
        drop_checkpoints(running.folder, kept=None if is_kept else outcome.checkpoint)
        metric = running.crew.spec.task.metric
        how = "pruned" if outcome.pruned else "complete"
        self._notice(f"{running.about} {how}: {metric} = {_short(outcome.value)} after {outcome.seconds:.0f} s")
        for note in outcome.notes:
            self._notice(f"{running.about} {note}")

    def _fail(self, running: _Running, event: Failed) -> None:
        log = running.folder / OUTPUT_LOG
        if event.kind in ("killed", "stalled"):
            answer = self._release(running, event.reason, counts=True)
            again = answer is None or answer["is_tried_again"]
            if not again:
                drop_checkpoints(running.folder)
            self._notice(
                f"{running.about}: {event.reason}{'; it is tried again' if again else ''}; what it printed: {log}"
            )
            return
        reason = f"{event.kind}: {event.reason}"
        may_be_halved = running.crew.spec.training.on_out_of_memory == "halve_batch" and not running.halve_batch
        if event.kind == "out_of_memory" and may_be_halved:
            self._release(running, reason, halve_batch=True)
            self._notice(f"{running.about} ran out of memory; it is tried once more at half the batch")
            return
        body = {"attempt": running.attempt, "state": "fail", "error": text(reason)}
        if event.kind == "missing_metric":
            body["study_error"] = text(why_not_measured(running.crew.spec.task, event.reason))
        self._results.end(running.path, "tell", body, about=running.about)
        drop_checkpoints(running.folder)
        tail = "".join(f"\n    {line}" for line in event.output_tail.strip().splitlines()[-TAIL_LINES:])
        self._notice(f"{running.about} failed: {event.reason}{tail}\n    what it printed: {log}")

    def _release(self, running: _Running, reason: str, **more: bool) -> Any:
        body = {"attempt": running.attempt, "reason": text(reason), **more}
        return self._results.end(running.path, "release", body, about=running.about)

    def _stop_lost(self) -> None:
        lost = self._heart.lost()
        for running in [running for running in self._running.values() if running.held in lost]:
            self._lose(running, "it was given to another worker; stopped here")

    def _lose(self, running: _Running, reason: str) -> None:
        """Stop a trial that is not ours any more."""
        self._forget(running)
        self._results.lose(running.path)
        if running.crew.has_imported:
            running.crew.executor.kill(running.number)
        self._notice(f"{running.about}: {reason}")

    def _forget(self, running: _Running) -> None:
        self._running.pop(running.key, None)
        self._not_begun.pop(running.key, None)
        self._has_ended = True
        if not any(each.crew is running.crew for each in self._running.values()):
            self._told_idle &= running.crew.study_id not in self._changed  # there may be work of that one now
            self._changed.discard(running.crew.study_id)
        self._heart.drop(running.held)

    # The end --------------------------------------------------------------------------------------------------------

    def _abandon_all(self) -> None:
        """Give back what still runs, and leave no process behind."""
        for running in list(self._running.values()):
            self._forget(running)
            with suppress(TrainerError):  # it ends with its executor at the latest
                if running.crew.has_imported:
                    running.crew.executor.kill(running.number)
            with suppress(HpoError, StorageError):
                self._release(running, "interrupted")
        for _, stack in self._crews.values():
            stack.close()
        self._give_back_what_is_being_asked_for()
        self._results.close()

    def _say_goodbye(self) -> None:
        with suppress(HpoError, StorageError):
            if not self._outage.is_on:
                self._transport.post("/machines/leave", {"worker": self._name})

    def _give_back_what_is_being_asked_for(self) -> None:
        """A trial that is on its way to us would wait until its lease ended."""
        if self._asking is None:
            return
        with suppress(HpoError, StorageError, TimeoutError):
            given = self._transport.content_of(self._asking.result(CALL_SECONDS))
            if given is not None:
                trial = f"/studies/{given['study']['id']}/trials/{given['trial']}"
                self._transport.post(f"{trial}/release", {"attempt": given["attempt"], "reason": "interrupted"})


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _new_key() -> str:
    return secrets.token_urlsafe(16)
