"""Who does what was asked for in the background? A process for each job, a few at a time, while the service runs.

A job survives the service: what had not ended is begun again when it is back, or by another server on the same history.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hpo.service import checkpoints
from hpo.service.job_process import LEASE_SECONDS, JobOrder
from hpo.service.state import Service
from storage import background_jobs
from storage.background_jobs import Job
from storage.database import Store
from storage.errors import JobNotFoundError, StorageError

PAUSE_SECONDS = 1.0  # between two looks for work
FOLDER = "jobs"  # of the service's runs
DAYS_KEPT = 7  # what an export or a replay has written
SWEEP_SECONDS = 3_600.0  # between two looks for files that nobody needs any more
JOBS_AT_ONCE = 1  # of each line: an import and a replay each take a processor
LINES = (("import", "replay", "export", "verify", "summarize"), ("promotion",))  # none of one waits for the other's

_log = logging.getLogger(__name__)


def folder_of(runs: Path, job_id: int) -> Path:
    """Where a job leaves its files."""
    return runs / FOLDER / str(job_id)


class Jobs:
    """A part of the service: it begins jobs, and ends them with itself."""

    def __init__(self, service: Service, *, at_once: int = JOBS_AT_ONCE) -> None:
        self._service, self._at_once = service, at_once
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._running: list[tuple[Job, subprocess.Popen[bytes]]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._trouble: str | None = None
        self._next_sweep = 0.0

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def why_not_well(self) -> str | None:
        """Why it is not well; None: it is."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._ending.is_set():
            return "background jobs are not looked after any more"
        return self._trouble

    def stop(self) -> None:
        """End, with whatever is at work: it is begun again by the next."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        for job, process in self._running:
            _kill(process)
            with suppress(StorageError):
                background_jobs.give_back_job(self._service.store, job)
        self._running.clear()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._look()
                self._sweep()
                self._trouble = None
            except StorageError as error:
                self._trouble = str(error)
            except OSError as error:  # no process, no folder
                self._trouble = f"a background job could not be begun: {error}"
                _log.warning("%s", self._trouble)
            self._ending.wait(PAUSE_SECONDS)

    def _sweep(self) -> None:
        """Remove, now and then, what nobody needs; what cannot be removed takes up room, and is no trouble.

        What is half sent stays at first: who was sending while the service was away is to come back before.
        """
        if time.monotonic() < self._next_sweep:
            return
        is_first, self._next_sweep = self._next_sweep == 0.0, time.monotonic() + SWEEP_SECONDS
        try:
            sweep(self._service.store, self._service.runs)
            if not is_first:
                checkpoints.sweep(self._service)
        except StorageError:
            raise
        except OSError as error:
            _log.warning("what nobody needs any more could not be removed: %s", error)

    def _look(self) -> None:
        """Begin what waits, and end what is not wanted any more."""
        store = self._service.store
        for begun, process in list(self._running):
            if process.poll() is not None:
                self._running.remove((begun, process))
                _close(process)
                self._tidy(begun, died=process.returncode != 0)
            elif background_jobs.get_job(store, begun.job_id).state != "running":
                _kill(process)
        for kinds in LINES:
            while sum(job.kind in kinds for job, _ in self._running) < self._at_once and not self._ending.is_set():
                in_hand = [job.job_id for job, _ in self._running]
                job = background_jobs.begin_job(
                    store, worker=self._worker, lease_seconds=LEASE_SECONDS, in_hand=in_hand, kinds=kinds
                )
                if job is None:
                    break
                self._running.append((job, self._begun(job)))

    def _begun(self, job: Job) -> subprocess.Popen[bytes]:
        service = self._service
        folder = folder_of(service.runs, job.job_id)
        folder.mkdir(parents=True, exist_ok=True)
        order = JobOrder(
            storage=service.store.url,
            job_id=job.job_id,
            attempt=job.attempt,
            folder=str(folder),
            projects=str(service.projects),
            hosts=sorted(service.import_hosts),
            own_mlflow=service.mlflow_uri,
        )
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hpo.service.job_process"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(order.to_line())
            process.stdin.flush()  # and stays open: it ends when we do
        _log.info("job %d (%s) begun, attempt %d", job.job_id, job.kind, job.attempt)
        return process

    def _tidy(self, job: Job, *, died: bool) -> None:
        """What was uploaded is not kept once a job has ended."""
        state = background_jobs.get_job(self._service.store, job.job_id).state
        if died and state == "running":
            background_jobs.abandon_job(self._service.store, job)
            _log.warning("the process of job %d (%s) died; it is begun again", job.job_id, job.kind)
        elif job.kind == "import" and state in ("done", "failed", "cancelled"):
            shutil.rmtree(folder_of(self._service.runs, job.job_id), ignore_errors=True)


def sweep(store: Store, runs: Path) -> None:
    """Remove the files of jobs that have ended: uploads soon, whatever became of them; the rest after some days."""
    for folder in (runs / FOLDER).glob("[0-9]*"):
        with suppress(ValueError, JobNotFoundError):
            job = background_jobs.get_job(store, int(folder.name))
            days = 0 if job.kind == "import" else DAYS_KEPT
            if job.ended_at is not None and datetime.now(UTC) - job.ended_at > timedelta(days=days, hours=1):
                shutil.rmtree(folder, ignore_errors=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
