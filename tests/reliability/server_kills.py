"""Is anything lost or doubled when the server is killed again and again while many workers ask, report and tell?

The workers are threads that train nothing and speak real HTTP by `hpo.Client`. They are told nothing of the kills: each
repeats what it got no answer for, under the same idempotency key, until there is one.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
from optuna.trial import TrialState

from hpo.client.client import Client
from hpo.running.creation import create_study
from hpo.studies.study_file import parse_spec
from storage import history, tokens
from storage.errors import StaleAttemptError
from storage.schema import Store, open_store
from storage.studies import Claim
from tests.measured import Figure
from tests.reliability.places import Place
from tests.reliability.queues import Journal, read_journals, value_of

KILLS, WORKERS, PROCESSES = 20, 50, 2
PARAMETERS = 6  # so many that the tuner does not come to one point twice by itself, such as an end of a range
STEPS, STEP_SECONDS = 3, 0.5  # of a trial; the seconds are a mean
SECONDS_BETWEEN = (0.5, 4.0)  # from the first thing that a server acknowledged to its end
PATIENCE_SECONDS = 1_800.0  # of a worker for one answer: longer than all kills take
START_SECONDS = 120.0
PROGRESS_SECONDS = 600.0  # the first takes 15 s on two cores that are nearly idle: all that takes part is imported then


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each worker is to do."""

    url: str
    token: str
    study_id: int
    folder: Path  # for the journals
    step_seconds: float


def run(
    place: Place,
    *,
    kills: int = KILLS,
    workers: int = WORKERS,
    seconds_between: tuple[float, float] = SECONDS_BETWEEN,
    step_seconds: float = STEP_SECONDS,
    seed: int = 0,
) -> list[Figure]:
    """Workers train as many trials as they can while the server is being killed and started again."""
    where = f"server killed, {place.kind}, {kills} kills, {workers} workers"
    rng, port = random.Random(seed), free_port()
    with place.fresh() as storage, tempfile.TemporaryDirectory() as folder:
        store = open_store(storage)
        study_id, token = prepare(store, Path(folder))
        task = Task(
            url=f"http://127.0.0.1:{port}",
            token=token,
            study_id=study_id,
            folder=Path(folder),
            step_seconds=step_seconds,
        )
        server = start(storage, port, Path(folder))
        try:
            with at_work(task, workers) as stop:
                for _ in range(kills):
                    wait_for_progress(Path(folder))
                    time.sleep(rng.uniform(*seconds_between))
                    server.send_signal(signal.SIGKILL)
                    server.wait()
                    server = start(storage, port, Path(folder))
                wait_for_progress(Path(folder))
                stop.set()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
        noted = read_journals(Path(folder))
        figures = judge(store, study_id, noted, where)
        store.dispose()
    return figures


def prepare(store: Store, folder: Path) -> tuple[int, str]:
    """A study that workers ask, and a token for them."""
    spec = parse_spec(
        {
            "study": "asked",
            "task": {"name": "task", "metric": "loss", "direction": "minimize"},
            "space": {f"x{number}": {"type": "float", "low": 0.0, "high": 1.0} for number in range(PARAMETERS)},
            "budget": {"trials": 1_000_000},
            "pruner": "none",
        }
    )
    study_id = create_study(store, spec, folder=folder, mlflow_uri=None)
    tokens.create_token(store, owner="admin", role="admin", created_by="a test")
    secret, _ = tokens.create_token(store, owner="box", role="worker", created_by="a test")
    return study_id, secret


def start(storage: str, port: int, folder: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    """A server that answers; environment: what its processes have besides."""
    command = [sys.executable, "-m", "hpo", "serve", "--port", str(port), "--storage", storage, "--mlflow", "none"]
    command += [
        "--runs",
        str(folder / "runs"),
        "--projects",
        str(folder),
        "--log-file",
        str(folder / "server.log"),
        *options,
    ]
    with (folder / "server.err").open("w") as complaints:
        server = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended: " + (folder / "server.err").read_text()
        try:
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                return server
        except (URLError, OSError):
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


def wait_for_progress(folder: Path) -> None:
    """Until some worker notes something: on a busy machine a server takes its time."""
    before, deadline = _size_of(folder), time.monotonic() + PROGRESS_SECONDS
    while _size_of(folder) == before:
        assert time.monotonic() < deadline, f"the workers get no answer in {PROGRESS_SECONDS:g} s"
        time.sleep(0.02)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.jsonl"))


@contextmanager
def at_work(task: Task, workers: int) -> Iterator[Any]:
    """The workers, in a few processes; the event ends them after the trials that they are at."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    shares = [list(range(process, workers, PROCESSES)) for process in range(PROCESSES)]
    processes = [context.Process(target=_work_side_by_side, args=(task, share, stop)) for share in shares if share]
    for process in processes:
        process.start()
    try:
        yield stop
        for process in processes:
            process.join(PATIENCE_SECONDS)
            assert process.exitcode == 0, f"a process of workers ended with {process.exitcode}, see above"
    finally:
        for process in processes:
            process.kill()


def _work_side_by_side(task: Task, names: list[int], stop: Any) -> None:
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            _work(task, name, stop)
        except BaseException as error:
            failures.append(error)
            stop.set()
            raise

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.flush()
    os._exit(1 if failures else 0)


def _work(task: Task, name: int, stop: Any) -> None:
    """Ask, report, tell; note what was acknowledged and how long each answer took."""
    rng, journal = random.Random(name), Journal(task.folder / f"{name}.jsonl")
    with Client(task.url, task.token, patience_seconds=PATIENCE_SECONDS) as client:
        while not stop.is_set():
            started = time.monotonic()
            trial = client.ask(task.study_id, worker=f"worker {name}")
            journal.note("asked", seconds=time.monotonic() - started)
            if trial is None:
                continue
            attempt = {"number": trial.number, "attempt": trial.attempt}
            value = value_of(Claim(trial_id=0, **attempt))
            try:
                for step in range(STEPS):
                    time.sleep(rng.expovariate(1 / task.step_seconds))
                    trial.report(step, value + step)
                    journal.note("reported", **attempt, step=step, value=value + step)
                trial.tell(value)
                journal.note("finished", sure=True, **attempt, value=value)
            except StaleAttemptError:
                journal.note("refused", sure=True, **attempt, value=value)


def judge(store: Store, study_id: int, noted: Iterable[dict[str, Any]], where: str) -> list[Figure]:
    """What the history holds against what the workers were told."""
    noted = list(noted)
    trials = {trial.number: trial for trial in history.list_trials(store, study_id)}
    complete = {
        (trial.number, trial.attempt, trial.value) for trial in trials.values() if trial.state == TrialState.COMPLETE
    }
    accepted = [(each["number"], each["attempt"], each["value"]) for each in noted if each["kind"] == "finished"]
    reports = [each for each in noted if each["kind"] == "reported"]
    lost_reports = [
        each
        for each in reports
        if trials[each["number"]].attempt == each["attempt"]
        and trials[each["number"]].intermediate_values.get(each["step"]) != each["value"]
    ]
    times = Counter(number for number, _, _ in accepted)
    proposed = Counter(repr(sorted(trial.params.items())) for trial in trials.values())
    print(*(f"{count} x {params}" for params, count in proposed.items() if count > 1), sep="\n", end="")
    asked = [each["seconds"] for each in noted if each["kind"] == "asked"]
    zero = {
        "acknowledged results lost": len(set(accepted) - complete),
        "acknowledged reports lost": len(lost_reports),
        "trials doubled": sum(count > 1 for count in times.values()),
        "trials that nobody was told of": len(complete - set(accepted)),
        "trials stuck": sum(not trial.state.is_finished() for trial in trials.values()),
        "proposals handed out twice": sum(count - 1 for count in proposed.values()),
        "results refused": sum(each["kind"] == "refused" for each in noted),
    }
    return [
        *(Figure(what=f"{where}: {what}", ours=number, at_most=0) for what, number in zero.items()),
        Figure(what=f"{where}: trials trained", ours=len(complete), at_least=1),
        Figure(
            what=f"{where}: an ask, median",
            ours=float(np.median(asked)),
            unit="s",
            note=f"p95 {np.quantile(asked, 0.95):.2f} s, longest {max(asked):.1f} s, with the server away at times",
        ),
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
