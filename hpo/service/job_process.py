"""The process of one background job: it does it, says how far it is, and ends with its server.

It reads its order, one line of JSON, from the standard input, and ends at once when that closes: when the server ends
or dies, or does not want it any more. Whatever it was at can be begun again.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpo.errors import HpoError
from hpo.service.allowed_places import Places
from storage import background_jobs
from storage.background_jobs import Job
from storage.database import Store
from storage.errors import StorageError, StoreUnavailableError
from trainers.errors import TrainerError

LEASE_SECONDS = 20.0
PULSE_SECONDS = 5.0  # between two signs of life
TOLD_SECONDS = 0.5  # between two that say how far it is
SHARE_OF_MEMORY = 0.5  # that a job may take


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """What a job's process is to do."""

    storage: str
    job_id: int
    attempt: int
    folder: str  # of its own
    projects: str
    hosts: list[str]
    own_mlflow: str | None

    def to_line(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    """Do the job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    order = JobOrder(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_server, daemon=True).start()
    _limit_memory()
    os.environ["MLFLOW_ALLOW_HTTP_REDIRECTS"] = "false"  # an allowed host must not send us to another
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    store = Store(order.storage)
    job = background_jobs.get_job(store, order.job_id)
    if job.state != "running" or job.attempt != order.attempt:
        return
    pulse = _Pulse(store, job)
    try:
        result = _done(order, store, job, pulse)
    except StoreUnavailableError as error:
        logging.error("job %d: %s", job.job_id, error)  # it is begun again
        os._exit(1)
    except (HpoError, StorageError, TrainerError) as error:
        pulse.stop()
        background_jobs.end_job(store, job, "failed", error=str(error))
    except MemoryError:
        pulse.stop()
        background_jobs.end_job(store, job, "failed", error="it takes more memory than half of what the server has")
    except Exception as error:
        pulse.stop()
        traceback.print_exc()
        background_jobs.end_job(store, job, "failed", error=f"{type(error).__name__}: {error}")
    else:
        pulse.stop()
        background_jobs.end_job(store, job, "done", result=result, done=pulse.done)


def _done(order: JobOrder, store: Store, job: Job, pulse: _Pulse) -> Any:
    from hpo.service.job_kinds import Surroundings, do  # noqa: PLC0415 - numerical libraries, once a sign of life is due

    places = Places(projects=Path(order.projects), hosts=frozenset(order.hosts), own_mlflow=order.own_mlflow)
    around = Surroundings(store=store, places=places, folder=Path(order.folder), tell=pulse.tell)
    return do(job.kind, job.settings, around)


class _Pulse:
    """Keeps the lease of a job, and says how far it is; ends the process where it is not wanted any more."""

    def __init__(self, store: Store, job: Job) -> None:
        self._store, self._job = store, job
        self.done, self._total = 0, None
        self._told_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def tell(self, done: int, total: int | None) -> None:
        """So much is done."""
        self.done, self._total = done, total  # type: ignore[assignment]
        if time.monotonic() >= self._told_at + TOLD_SECONDS:
            self._keep()

    def stop(self) -> None:
        """The job has ended."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(PULSE_SECONDS):
            self._keep()

    def _keep(self) -> None:
        self._told_at = time.monotonic()
        with suppress(StoreUnavailableError):
            if not background_jobs.keep_job(
                self._store, self._job, lease_seconds=LEASE_SECONDS, done=self.done, total=self._total
            ):
                _end_all()


def _end_with_server() -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    _end_all()


def _end_all() -> None:
    """This process, and those that it has started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _limit_memory() -> None:
    """So that no table, however it is packed, takes the server's."""
    most = int(SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main()
