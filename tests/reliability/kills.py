"""Is anything lost, doubled or stuck when workers are killed at any moment, and how soon is their trial tried again?

The workers are warm: forked with everything imported, so that what is hit is work and not a start. Some stall instead,
without a sign of life for longer than their lease, and come back with a result.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState
from sqlalchemy import select

from storage.errors import StaleAttemptError
from storage.models import outbox, trials
from storage.schema import Store, open_store
from storage.studies import Claim, claim_trial, extend_leases, finish_trial, start_trial
from tests.measured import Figure
from tests.reliability.places import Place
from tests.reliability.queues import Journal, is_all_done, judge, queue, read_journals, value_of

TRIALS, KILLS, WORKERS = 1_000, 200, 8
LEASE_SECONDS, HEARTBEAT_SECONDS = 1.5, 0.5
TRAINING_SECONDS = 0.2  # on average
STALLED_SHARE = 0.02  # of the attempts
ANY_NUMBER = 10**6  # of deaths: what is tried again is tried until it is done
PATIENCE_MILLISECONDS = 100  # for a worker that is at the chosen phase; then any that is at work will do
DEADLINE_SECONDS = 900.0  # after which what is not done is stuck


class Phase(IntEnum):
    """What a worker is at, for the killer to choose from."""

    IDLE = 0
    CLAIMING = 1
    BEFORE_HEARTBEAT = 2
    TRAINING = 3
    FINISHING = 4  # the commit, and until the result is in the worker's own journal


TARGETS = [phase for phase in Phase if phase != Phase.IDLE]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each worker is to do."""

    url: str
    study_id: int
    trials: int
    folder: Path  # for the journals


def run(
    place: Place, *, trials: int = TRIALS, kills: int = KILLS, workers: int = WORKERS, seed: int = 0
) -> list[Figure]:
    """Workers do all trials while they are being killed and replaced."""
    where = f"kill -9, {place.kind}, {kills} kills over {trials:,} trials"
    with place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        task = Task(url=url, study_id=queue(url, trials), trials=trials, folder=Path(folder))
        killed = _kill_workers(task, kills, workers, random.Random(seed))
        store = open_store(url)
        noted = read_journals(task.folder)
        outcome, delays = judge(store, task.study_id, noted), requeue_delays(store, task.study_id, noted)
        store.dispose()
    phases = ", ".join(f"{number} {phase.name.lower()}" for phase, number in sorted(killed.items()))
    return [
        *outcome.figures(where),
        Figure(what=f"{where}: killed", ours=killed.total(), at_least=kills, note=phases),
        Figure(
            what=f"{where}: requeued after the end of the lease, p99 of {len(delays)}",
            ours=float(np.percentile(delays, 99)) if delays else 0.0,
            unit="s",
            at_most=HEARTBEAT_SECONDS,
            note=f"median {np.median(delays or [0]):.3f} s; lease {LEASE_SECONDS} s, heartbeat {HEARTBEAT_SECONDS} s",
        ),
        Figure(what=f"{where}: late results, refused and kept", ours=outcome.late),
    ]


def requeue_delays(store: Store, study_id: int, noted: Iterable[dict[str, Any]]) -> list[float]:
    """Seconds from the end of a lease until its trial was in the queue again, for all whose worker noted its lease."""
    leased = [line for line in noted if line["kind"] == "leased"]
    lease_until = {(line["number"], line["attempt"]): line["until"] for line in leased}  # the last one noted counts
    query = (
        select(trials.c.number, outbox.c.attempt, outbox.c.created_at, outbox.c.payload)
        .join_from(outbox, trials, outbox.c.trial_id == trials.c.id)
        .where(outbox.c.kind == "run_finished", trials.c.study_id == study_id)
    )
    with store.read() as connection:
        ends = connection.execute(query).all()
    return [
        end.created_at - lease_until[end.number, end.attempt]
        for end in ends
        if json.loads(end.payload)["status"] == "KILLED" and lease_until.get((end.number, end.attempt)) is not None
    ]


# Killing


def _kill_workers(task: Task, kills: int, workers: int, rng: random.Random) -> Counter[Phase]:
    """Kill at the moments that chance chooses, until there are enough; returns in which phases."""
    context = multiprocessing.get_context("fork")
    phases = context.RawArray("i", workers)
    killed: Counter[Phase] = Counter()
    team: dict[int, BaseProcess] = {}
    names = iter(range(10**9))

    def hire(slot: int) -> None:
        phases[slot] = Phase.IDLE
        team[slot] = context.Process(target=_work, args=(task, next(names), phases, slot))
        team[slot].start()

    for slot in range(workers):
        hire(slot)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while killed.total() < kills and time.monotonic() < deadline:
        slot = _wait_for(rng.choice(TARGETS), phases, team, rng)
        if slot is None:
            if not any(process.is_alive() for process in team.values()):
                break  # all is done
            continue
        time.sleep(rng.uniform(0.0, 0.004))  # into what it is at
        if not team[slot].is_alive():
            continue
        killed[Phase(phases[slot])] += 1
        os.kill(team[slot].pid or 0, signal.SIGKILL)
        team[slot].join()
        hire(slot)
        # Half of the time that the trials take, so that the killing is over before they are.
        time.sleep(rng.uniform(0.0, TRAINING_SECONDS * task.trials / workers / kills))
    for process in team.values():
        process.join(max(0.0, deadline - time.monotonic()))
        assert process.exitcode == 0, f"a worker ended with {process.exitcode}, see above"
    return killed


def _wait_for(aim: Phase, phases: Any, team: dict[int, BaseProcess], rng: random.Random) -> int | None:
    """The slot of a worker that is at that or, when nobody comes to it soon, at anything; None when all are idle."""
    busy: list[int] = []
    for _ in range(PATIENCE_MILLISECONDS):
        busy = [slot for slot, process in team.items() if phases[slot] != Phase.IDLE and process.is_alive()]
        found = [slot for slot in busy if phases[slot] == aim]
        if found:
            return rng.choice(found)
        time.sleep(0.001)
    return rng.choice(busy) if busy else None


def _work(task: Task, name: int, phases: Any, slot: int) -> None:
    store, rng = Store(task.url), random.Random(name)
    journal, worker = Journal(task.folder / f"{name}.jsonl"), f"worker {name}"
    while True:
        phases[slot] = Phase.CLAIMING
        claimed = claim_trial(
            store,
            task.study_id,
            worker=worker,
            lease_seconds=LEASE_SECONDS,
            max_trials=task.trials,
            max_attempts=ANY_NUMBER,
        )
        if claimed is None:
            phases[slot] = Phase.IDLE
            if is_all_done(store, task.study_id):
                return
            time.sleep(HEARTBEAT_SECONDS / 4)
            continue
        attempt = {"number": claimed.number, "attempt": claimed.attempt}
        journal.note("leased", **attempt, until=_lease_until(store, claimed))
        phases[slot] = Phase.BEFORE_HEARTBEAT
        try:
            start_trial(store, claimed, params={})
            if rng.random() < STALLED_SHARE:
                time.sleep(1.5 * LEASE_SECONDS)
            ends_at = time.monotonic() + rng.expovariate(1 / TRAINING_SECONDS)
            while (left := ends_at - time.monotonic()) > 0:
                time.sleep(min(left, HEARTBEAT_SECONDS))
                if extend_leases(store, [claimed], worker=worker, lease_seconds=LEASE_SECONDS):
                    journal.note("leased", **attempt, until=_lease_until(store, claimed))
                phases[slot] = Phase.TRAINING
            phases[slot] = Phase.FINISHING
            finish_trial(store, claimed, state=TrialState.COMPLETE, value=value_of(claimed))
            journal.note("finished", sure=True, **attempt, value=value_of(claimed))
        except StaleAttemptError:
            if phases[slot] == Phase.FINISHING:
                journal.note("refused", sure=True, **attempt, value=value_of(claimed))


def _lease_until(store: Store, claimed: Claim) -> float | None:
    with store.read() as connection:
        return connection.scalar(select(trials.c.lease_until).where(trials.c.id == claimed.trial_id))
