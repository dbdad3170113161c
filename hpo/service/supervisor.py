"""Who runs the studies that were launched? A thread of the server, which gives each a process of its own.

It takes studies from the queue by their turn and within the limits (`hpo.service.limits`), holds them under a lease,
lets their processes end where somebody wants a pause or a stop, and notes how they ended. A process that dies is
started again; a server that dies leaves its studies to the next, or to itself when it is back.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal

from hpo.service.delivering import Sender
from hpo.service.replicating import REPLICATES
from hpo.service.run_folders import study_log
from hpo.service.state import Service
from hpo.service.study_process import GRACE_SECONDS, End, StudyOrder
from hpo.service.turns import Round
from hpo.studies.provenance import may_be_alive, this_worker
from storage import history, launches
from storage.errors import StoreUnavailableError, StudyNotFoundError
from storage.history import StudySummary
from storage.launches import Launch
from storage.load import Load, current_load, room_within
from trainers.processes.lifetimes import describe_exit, kill_group

POLL_SECONDS = 0.25
LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 15.0
RECLAIM_SECONDS = 5.0  # between two looks at whether other servers are alive
LOOK_SECONDS = 30.0  # between two looks after the studies that workers train
OUTAGE_SECONDS = 2.0  # between two attempts at a history that is away
MOST_DEATHS = 3  # of a study's processes, with no trial finished in between, before it has failed
PAUSE_PER_DEATH = 2.0  # seconds before a process that has died is started again

log = logging.getLogger("hpo.service.supervisor")


@dataclass(kw_only=True)
class _Run:
    launch: Launch
    process: subprocess.Popen[bytes]
    finished: int  # trials, when it began
    output: bytes | None = None  # once it has ended
    ends_by: float | None = None  # when it was asked to end, the time by which it must have


class Supervisor:
    """Runs the launched studies of a service until it is stopped."""

    def __init__(self, service: Service) -> None:
        self._service, self._store = service, service.store
        self._worker = this_worker()
        self._runs: dict[int, _Run] = {}
        self._not_before: dict[int, float] = {}
        self._sender = Sender(service.store)
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)
        self._is_stopping = threading.Event()
        self._next_heartbeat = self._next_reclaim = self._next_look = 0.0
        self._trouble: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Let every study give its trials back, and end; they are queued for the next server."""
        self._is_stopping.set()
        self._service.called.set()
        if self._thread.ident is not None:
            self._thread.join()

    def why_not_well(self) -> str | None:
        """Why studies are not run just now; None: they are."""
        if not self._thread.is_alive():
            return "it has ended"
        return self._trouble

    # The loop -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._is_stopping.is_set():
            self._service.called.clear()
            pause = POLL_SECONDS
            try:
                self._round()
                self._trouble = None
            except StoreUnavailableError as error:
                self._note(str(error))
                pause = OUTAGE_SECONDS
            except Exception as error:  # whatever it is, the studies are still to be looked after
                log.exception("a round of the supervisor failed")
                self._note(f"{type(error).__name__}: {error}")
                pause = OUTAGE_SECONDS
            self._service.called.wait(pause)
        self._end_all()
        self._sender.stop()

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("the studies cannot be looked after: %s", trouble)
        self._trouble = trouble

    def _round(self) -> None:
        self._settle_ended()
        self._keep_leases()
        if time.monotonic() >= self._next_reclaim:
            self._next_reclaim = time.monotonic() + RECLAIM_SECONDS
            for study_id in launches.reclaim(self._store, self._is_alive):
                log.info("study %d is taken from a server that has ended", study_id)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._service.desk.look_after()
        self._sender.look()
        load = current_load(self._store)
        self._end_unwanted(load.launches)
        while self._start_next(load):
            load = current_load(self._store)

    def _is_alive(self, worker: str) -> bool:
        return worker == self._worker or may_be_alive(worker)

    # Starting -------------------------------------------------------------------------------------------------------

    def _start_next(self, load: Load) -> bool:
        """Start the study whose turn it is; whether there was one."""
        turns = Round(load, self._service.limits)
        for launch in turns.launches:
            if launch.state != "queued" or launch.wanted != "run" or launch.study_id in self._runs:
                continue
            if time.monotonic() < self._not_before.get(launch.study_id, 0.0):
                continue
            if turns.why_waiting(launch.study_id) is not None:
                continue
            if self._take_up(launch.study_id):
                self._start(launch)
                return True
        return False

    def _take_up(self, study_id: int) -> bool:
        """Whether it is ours, and fits beside what other servers have started meanwhile."""
        return launches.take_up(
            self._store,
            study_id,
            worker=self._worker,
            lease_seconds=LEASE_SECONDS,
            may_start=room_within(
                self._store, lambda load: Round(load, self._service.limits).why_waiting(study_id) is None
            ),
        )

    def _start(self, launch: Launch) -> None:
        try:
            self._runs[launch.study_id] = self._spawn(launch)
        except (OSError, StudyNotFoundError) as error:
            self._give_back(launch, f"its process cannot be started: {error}", deaths=launch.deaths + 1)
            return
        log.info("study %d (%s) of %s is started", launch.study_id, launch.study, launch.owner)

    def _spawn(self, launch: Launch) -> _Run:
        service, executor = self._service, launch.settings.get("executor", "local")
        order = StudyOrder(
            storage=self._store.url,
            study_id=launch.study_id,
            worker=self._worker,
            runs=str(service.runs),
            projects=str(service.projects),
            jobs=launch.jobs,
            executor=executor,
            ray_address=service.placement.ray_address if executor == "ray" else None,
            replicates=launch.settings.get(REPLICATES),
        )
        study = history.study_of_id(self._store, launch.study_id)
        file = study_log(service.runs, self._store, study)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as written:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hpo.service.study_process"],
                cwd=service.projects,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                start_new_session=True,  # Ctrl-C is for the server, which then lets it end
            )
        try:
            assert process.stdin is not None
            process.stdin.write(order.to_line())
            process.stdin.flush()
        except OSError:
            log.warning("study %d: its process died at once", launch.study_id)  # as the next round will see
        return _Run(launch=launch, process=process, finished=_finished(study))

    # Ending ---------------------------------------------------------------------------------------------------------

    def _end_unwanted(self, found: Sequence[Launch]) -> None:
        """Ask those to end that are to pause or stop, or are another server's or nobody's by now."""
        ours = {launch.study_id: launch for launch in found if launch.worker == self._worker}
        for study_id, run in self._runs.items():
            launch = ours.get(study_id)
            if launch is None or launch.wanted != "run":
                self._ask_to_end(run)

    def _ask_to_end(self, run: _Run) -> None:
        if run.ends_by is None:
            run.ends_by = time.monotonic() + GRACE_SECONDS + 10.0
            _close(run.process.stdin)
        elif time.monotonic() > run.ends_by:
            log.warning("study %d does not end, so its process is killed", run.launch.study_id)
            kill_group(run.process.pid)

    def _settle_ended(self) -> None:
        for study_id, run in list(self._runs.items()):
            if run.process.poll() is not None:
                self._settle(run)
                del self._runs[study_id]  # after it: a history that is away is told in the next round

    def _settle(self, run: _Run) -> None:
        launch, end = run.launch, self._end_of(run)
        if end is not None and end.how in ("done", "failed"):
            state: Literal["done", "failed"] = "done" if end.how == "done" else "failed"
            launches.finish(self._store, launch.study_id, state=state, message=end.message, worker=self._worker)
            log.info("study %d (%s) is %s: %s", launch.study_id, launch.study, state, end.message)
        elif end is not None and end.how == "interrupted":
            self._give_back(launch, end.message, deaths=0)
        elif run.ends_by is not None:
            self._give_back(launch, "it had to be killed; its trials go on", deaths=0)
        else:
            said = f"its process {describe_exit(run.process.returncode)}" if end is None else end.message
            self._give_back(launch, said, deaths=1 if self._has_got_on(run) else launch.deaths + 1)

    def _has_got_on(self, run: _Run) -> bool:
        """Whether a trial has finished since its process began."""
        try:
            return _finished(history.study_of_id(self._store, run.launch.study_id)) > run.finished
        except StudyNotFoundError:
            return False

    def _end_of(self, run: _Run) -> End | None:
        """What the process has said last; None where it died before."""
        if run.output is None and run.process.stdout is not None:
            with run.process.stdout as output:
                run.output = output.read()
            _close(run.process.stdin)
        return End.from_output(run.output or b"")

    def _give_back(self, launch: Launch, message: str, *, deaths: int) -> None:
        state = launches.give_back(
            self._store,
            launch.study_id,
            worker=self._worker,
            message=message,
            deaths=deaths,
            most_deaths=MOST_DEATHS,
        )
        self._not_before[launch.study_id] = time.monotonic() + PAUSE_PER_DEATH * deaths
        log.info("study %d (%s) is %s: %s", launch.study_id, launch.study, state or "another server's", message)

    def _keep_leases(self) -> None:
        if not self._runs or time.time() < self._next_heartbeat:
            return
        ours = launches.extend(self._store, self._runs.keys(), worker=self._worker, lease_seconds=LEASE_SECONDS)
        self._next_heartbeat = time.time() + HEARTBEAT_SECONDS  # the wall clock: leases go on while a laptop sleeps
        for study_id in self._runs.keys() - ours:
            self._ask_to_end(self._runs[study_id])

    def _end_all(self) -> None:
        for run in self._runs.values():
            self._ask_to_end(run)
        for study_id, run in list(self._runs.items()):
            try:
                run.process.wait(GRACE_SECONDS + 10.0)
            except subprocess.TimeoutExpired:
                kill_group(run.process.pid)
                run.process.wait()
            try:
                self._settle(run)
            except StoreUnavailableError as error:  # its lease ends by itself
                log.warning("study %d: %s", study_id, error)
        self._runs.clear()


def _finished(study: StudySummary) -> int:
    return sum(count for state, count in study.counts.items() if state.is_finished())


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # what could not be written any more
