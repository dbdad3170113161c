"""How fast does the service answer a team? 50 clients at once, 100,000 trials in the store, on SQLite and PostgreSQL.

Each client asks for a trial, reads while it trains, reports and tells, and waits a moment before each request as people
and trainers do, so that a trial takes some seven seconds and about forty run; they begin one after the other. The
clients share a process beside the server's. A live update is the time from a report to its event.
HPO_BENCH_TRIALS and HPO_BENCH_SECONDS in the environment make a shorter run of it.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hpo.client.client import Client
from hpo.running.creation import create_study
from hpo.studies.study_file import parse_spec
from storage import history, tokens
from storage.schema import open_store
from tests.benchmarks.filled_history import NEWEST, restore_history
from tests.measured import Figure
from tests.reliability.places import Place, postgresql_place, sqlite_place
from tests.servers import hpo_serve

CLIENTS, TRIALS = 50, 100_000
SECONDS = 60.0
PAUSE_SECONDS = 1.0  # between the requests of a client, a mean: 50 requests a second in all
READS = ("studies", "study", "trials", "trial", "curve")
READ_SECONDS, ASK_SECONDS, LIVE_SECONDS = 0.1, 0.15, 1.0

Times = dict[str, list[float]]


def main() -> Iterator[Figure]:
    """Seconds by kind of request, errors, and live updates."""
    trials = int(os.environ.get("HPO_BENCH_TRIALS", TRIALS))
    seconds = float(os.environ.get("HPO_BENCH_SECONDS", SECONDS))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        for place in (sqlite_place(folder), stack.enter_context(postgresql_place())):
            yield from measure(place, trials=trials, seconds=seconds)


def measure(
    place: Place, *, clients: int = CLIENTS, trials: int = TRIALS, seconds: float = SECONDS
) -> Iterator[Figure]:
    """The figures of one kind of database."""
    with place.fresh() as storage, tempfile.TemporaryDirectory() as folder:
        token, study_id, past_id = _prepare(storage, Path(folder), trials)
        with hpo_serve(storage, Path(folder)) as url:
            first = _first_ask(url, token, study_id)
            times, errors = _at_work(url, token, study_id, past_id, clients, seconds)
            live = _live_updates(url, token, study_id)
    where = f"service, {place.kind}, {clients} clients, {trials:,} trials"
    bars = {**dict.fromkeys(READS, READ_SECONDS), "ask": ASK_SECONDS}
    for kind, taken in sorted(times.items()):
        middle, most, last = np.quantile(taken, [0.5, 0.95, 0.99])
        yield Figure(
            what=f"{where}: {kind}, p95",
            ours=1e3 * float(most),
            unit="ms",
            at_most=None if kind not in bars else 1e3 * bars[kind],
            note=f"{len(taken)} requests, p50 {1e3 * middle:.0f} ms, p99 {1e3 * last:.0f} ms",
        )
    yield Figure(what=f"{where}: the first ask, which starts the proposer", ours=first, unit="s")
    yield Figure(what=f"{where}: errors", ours=len(errors), at_most=0, note="; ".join(sorted(set(errors))[:3]))
    yield Figure(
        what=f"{where}: a live update after a report, the slowest", ours=max(live), unit="s", at_most=LIVE_SECONDS,
        note=f"median {statistics.median(live):.2f} s of {len(live)}",
    )  # fmt: skip


def _prepare(storage: str, folder: Path, trials: int) -> tuple[str, int, int]:
    """Past studies with so many trials in all, a study that is asked for trials, and a token."""
    restore_history(trials, storage)
    store = open_store(storage)
    past_id = history.get_study(store, NEWEST).study_id
    spec = parse_spec(
        {
            "study": "asked",
            "task": {"name": "task", "metric": "loss", "direction": "minimize"},
            "space": {name: {"type": "float", "low": 1e-5, "high": 1.0, "log": True} for name in ("a", "b", "c")},
            "budget": {"trials": 1_000_000},
        }
    )
    study_id = create_study(store, spec, folder=folder, mlflow_uri=None)
    secret, _ = tokens.create_token(store, owner="team", role="admin", created_by="a benchmark")
    store.dispose()
    return secret, study_id, past_id


def _first_ask(url: str, token: str, study_id: int) -> float:
    """Seconds until the service has worked out its first proposal."""
    started = time.perf_counter()
    with Client(url, token, patience_seconds=120.0) as client:
        trial = client.ask(study_id, lease_seconds=600.0)
        assert trial is not None
        taken = time.perf_counter() - started
        trial.tell(0.5)
    return taken


def _at_work(
    url: str, token: str, study_id: int, past_id: int, clients: int, seconds: float
) -> tuple[Times, list[str]]:
    times: Times = defaultdict(list)
    errors: list[str] = []
    lock, until = threading.Lock(), time.monotonic() + seconds

    def work(seed: int) -> None:
        rng = random.Random(seed)
        time.sleep(rng.uniform(0.0, 8.0 * PAUSE_SECONDS))
        with Client(url, token) as client:
            while time.monotonic() < until:
                try:
                    for kind, seconds_taken in _round(client, study_id, past_id, rng, seed):
                        with lock:
                            times[kind].append(seconds_taken)
                except Exception as error:
                    errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, errors


def _round(client: Client, study_id: int, past_id: int, rng: random.Random, seed: int) -> Iterator[tuple[str, float]]:
    """What a client does again and again; what each request took."""

    def timed(action: Callable[[], object]) -> float:
        time.sleep(rng.expovariate(1 / PAUSE_SECONDS))
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    number, get = rng.randrange(100), client.transport.get
    trials = f"/studies/{past_id}/trials"
    time.sleep(rng.expovariate(1 / PAUSE_SECONDS))
    started = time.perf_counter()
    trial = client.ask(study_id, worker=f"worker {seed}", lease_seconds=600.0)
    yield "ask", time.perf_counter() - started
    yield "studies", timed(lambda: get("/studies", limit=100))
    yield "study", timed(lambda: get(f"/studies/{past_id}"))
    yield "trials", timed(lambda: get(trials, where="params.lr < 0.01", order="value", limit=100))
    yield "trial", timed(lambda: get(f"{trials}/{number}"))
    yield "curve", timed(lambda: get(f"{trials}/{number}/curve"))
    if trial is not None:
        yield "report", timed(lambda: trial.report(0, rng.random()))
        yield "tell", timed(lambda: trial.tell(rng.random()))


def _live_updates(url: str, token: str, study_id: int, updates: int = 20) -> list[float]:
    """Seconds from a report to its event."""
    heard: dict[int, float] = {}
    with Client(url, token) as client, client.watch(study_id) as events:
        trial = client.ask(study_id, lease_seconds=600.0)
        assert trial is not None

        def listen() -> None:
            for event in events:
                if event.trial is not None and event.trial.number == trial.number:
                    for step in event.trial.intermediate_values:
                        heard.setdefault(step, time.perf_counter())
                    if event.trial.state.is_finished():
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        time.sleep(2.0)
        sent = {}
        for step in range(updates):
            trial.report(step, 1.0 / (step + 1))
            sent[step] = time.perf_counter()
            time.sleep(0.7)
        trial.tell(0.5)
        listener.join(30.0)
    return [heard[step] - sent[step] for step in sent]
