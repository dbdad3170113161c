"""The process of one study that a service runs: it trains until the budget is spent, or until its server is gone.

It reads its order, one line of JSON, from the standard input, and ends when that closes, which the server does to
pause or stop it, and the kernel when the server dies: its trials go back into the queue, as after Ctrl-C. What it and
the user's code say goes to the log; its last line of output, one of JSON, is how it ended.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hpo.errors import HpoError
from storage.errors import StorageError, StoreUnavailableError
from trainers.errors import TrainerError

GRACE_SECONDS = 60.0  # to give the trials back; then the process ends without, and their leases do
MESSAGE_SECONDS = 1.0  # how long a message waits for a history that is away
LONGEST_MESSAGE = 4_000  # characters: the log has all of it

Ended = Literal["done", "failed", "interrupted", "unavailable"]


@dataclass(frozen=True, kw_only=True)
class StudyOrder:
    """What a study's process is to do."""

    storage: str
    study_id: int
    worker: str  # the server that has the study in hand
    runs: str
    projects: str
    jobs: int
    executor: str
    ray_address: str | None
    replicates: Mapping[str, Any] | None = None  # as `hpo.service.replicating` says it; None: the study is tuned

    def to_line(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class End:
    """How it came out."""

    how: Ended
    message: str

    @classmethod
    def from_output(cls, output: bytes) -> End | None:
        """What a process has said last; None where it died before."""
        try:
            told = json.loads(output.strip().splitlines()[-1])
            return cls(how=told["how"], message=told["message"])
        except (ValueError, IndexError, KeyError, TypeError):
            return None


def main() -> None:
    """Run the study."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have left it ignored
    order = StudyOrder(**json.loads(sys.stdin.buffer.readline()))
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    threading.Thread(target=_end_with_server, daemon=True).start()
    end = _run(order)
    _log(f"{end.how}: {end.message}")
    with suppress(BrokenPipeError), output:
        told = {"how": end.how, "message": end.message[:LONGEST_MESSAGE]}
        output.write(json.dumps(told).encode() + b"\n")


def _run(order: StudyOrder) -> End:
    try:
        return _run_study(order)
    except KeyboardInterrupt:
        return End(how="interrupted", message="interrupted; its trials go on where they were")
    except StoreUnavailableError as error:
        return End(how="unavailable", message=str(error))
    except (HpoError, StorageError, TrainerError) as error:
        return End(how="failed", message=str(error))
    except Exception as error:
        traceback.print_exc()
        return End(how="failed", message=f"{type(error).__name__}: {error} (its log has the traceback)")


def _run_study(order: StudyOrder) -> End:
    from hpo.running.executors import Placement  # noqa: PLC0415 - the server, which sends orders, imports none of this
    from hpo.running.runner import StudyRunner, Watcher  # noqa: PLC0415
    from hpo.studies.study_file import parse_spec  # noqa: PLC0415
    from hpo.tracing import send_traces  # noqa: PLC0415
    from storage import history, launches  # noqa: PLC0415
    from storage.schema import open_store  # noqa: PLC0415

    store = open_store(order.storage, upgrade=False, patience_seconds=MESSAGE_SECONDS)
    summary = history.study_of_id(store, order.study_id)
    send_traces()

    def say(message: str | None) -> None:
        with suppress(StoreUnavailableError):
            cut = None if message is None else message[:LONGEST_MESSAGE]
            launches.say(store, order.study_id, worker=order.worker, message=cut)

    def notice(message: str) -> None:
        _log(message)
        say(message)

    notice(f"the trainer of study {summary.name!r} is starting")
    here: dict[str, Any] = {
        "storage": order.storage,
        "mlflow": summary.mlflow_uri or "none",
        "runs": order.runs,
        "jobs": order.jobs,
        "placement": Placement(executor=order.executor, ray_address=order.ray_address),
        "watcher": Watcher(progress=_Progress(lambda: say(None)).tell, notice=notice),
        "is_served": True,
    }
    if order.replicates is not None:
        repeated = history.study_of_id(store, order.replicates["study_id"]).name
        return _replicated(repeated, order.replicates, here | {"projects": Path(order.projects)})
    spec = parse_spec(summary.spec or {}, source=f"study {summary.name!r}")
    StudyRunner(spec, folder=Path(order.projects), **here).run(resume=True)
    return _how_it_ended(history.study_of_id(store, order.study_id), store)


def _replicated(study: str, wanted: Mapping[str, Any], here: Mapping[str, Any]) -> End:
    from hpo.running.replicating import train_replicates  # noqa: PLC0415

    found = train_replicates(study, wanted["most"], against=wanted["against"], **here).replication
    if found is None or found.winner is None:
        spent = 0 if found is None else found.spent
        return End(how="failed", message=f"none of its {spent} replicates succeeded")
    sure = f"{found.winner.probability_best:.0%}"
    return End(
        how="done",
        message=f"{found.spent} replicates are finished: of {len(found.contenders)} contenders trial "
        f"{found.winner.number} is the best with probability {sure}",
    )


def _how_it_ended(summary: Any, store: Any) -> End:
    from optuna.trial import TrialState  # noqa: PLC0415

    from hpo.tuning.stopping import stopped_reason  # noqa: PLC0415

    counts: Mapping[TrialState, int] = summary.counts
    finished = sum(count for state, count in counts.items() if state.is_finished())
    if not counts[TrialState.COMPLETE] + counts[TrialState.PRUNED]:
        return End(how="failed", message=f"none of its {finished} trials succeeded")
    stopped = stopped_reason(store, summary.study_id)
    if stopped is not None and not stopped.went_on(counts):
        return End(how="done", message=stopped.reason)
    return End(how="done", message=f"its budget is spent: {finished} trials are finished")


class _Progress:
    """A line in the log for each trial that has finished."""

    def __init__(self, begun: Callable[[], None]) -> None:
        self._begun = begun  # told once, when trials can be trained
        self._finished: int | None = None

    def tell(self, progress: Any) -> None:
        if self._finished is None:
            self._begun()
            self._finished = progress.finished
        if progress.finished == self._finished:
            return
        self._finished = progress.finished
        total = "" if progress.total is None else f" of {progress.total}"
        best = "" if progress.best_value is None else f"; best {progress.best_value:.6g} (trial {progress.best_number})"
        _log(f"{progress.finished}{total} trials finished, {progress.running} running{best}")


def _end_with_server() -> None:
    while os.read(0, 4096):  # until it is closed; not by sys.stdin, which Python would wait for at its end
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    _log("the trials could not be given back in time")
    os._exit(1)


def _log(message: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
