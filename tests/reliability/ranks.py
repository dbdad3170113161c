"""Do the ranks of a trial leave together, whatever happens to one of them, and is each trial recorded once?

Studies run as `hpo tune` runs them. Their trials train on several processes of this machine that gloo joins. Trials
are pruned at random epochs; or, in their first attempt, one of their processes is killed, or stopped so that it hangs,
which must be noticed after the study's `stall_minutes`.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import select

from hpo.running.runner import StudyRunner, Watcher
from hpo.studies.study_file import parse_spec
from storage.models import trials
from storage.schema import open_store
from storage.studies import Claim
from tests.measured import Figure
from tests.reliability.places import Place
from trainers.processes.lifetimes import trial_of

USER_CODE = Path(__file__).parents[1] / "integration" / "user_code"
PRUNES, KILLS, STOPS = 100, 50, 20
EPOCHS = 4
STEP_SECONDS = 0.02  # of 8 (2 ranks) or 4 (4 ranks) steps an epoch
ATTACKED_STEP_SECONDS = 0.08
STALL_SECONDS = 6.0
HANG_SECONDS = 60.0  # without the end of any trial
GONE_SECONDS = {signal.SIGKILL: 30.0, signal.SIGSTOP: STALL_SECONDS + 15.0}  # RELIABILITY's promise
POLL_SECONDS = 0.02


def run(place: Place, *, prunes: int = PRUNES, kills: int = KILLS, stops: int = STOPS, seed: int = 0) -> list[Figure]:
    """Prune on 2 and on 4 ranks; kill and stop ranks of trials on 2 ranks, a third of the killed under a server."""
    return [
        *prune(place, count=prunes, ranks=2, seed=seed),
        *prune(place, count=prunes, ranks=4, seed=seed),
        *attack(place, signal.SIGKILL, count=kills - kills // 3, strategy="ddp", seed=seed),
        *attack(place, signal.SIGKILL, count=kills // 3, strategy="parameter_server", seed=seed),
        *attack(place, signal.SIGSTOP, count=stops, strategy="ddp", seed=seed),
    ]


# Pruning


class _PruningRunner(StudyRunner):
    """Prunes each trial at an epoch that chance has chosen for it."""

    epochs: dict[int, int]  # by number of the trial, where it is pruned; set before the run
    asked: dict[int, int]  # how often each was asked about

    def _is_to_be_pruned(self, claim: Claim) -> bool:
        asked = self.asked[claim.number] = self.asked.get(claim.number, 0) + 1
        return asked > self.epochs[claim.number]


def prune(place: Place, *, count: int, ranks: int, seed: int) -> list[Figure]:
    """Every trial is pruned; all its ranks must have left at the same step."""
    rng = random.Random(seed)
    epochs = {number: rng.randrange(EPOCHS - 1) for number in range(count)}
    with place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        runner = _runner(_PruningRunner, url, Path(folder), count, ranks=ranks, step_seconds=STEP_SECONDS)
        runner.epochs, runner.asked = epochs, {}
        started = time.monotonic()
        runner.run(resume=False)
        seconds = time.monotonic() - started
        attempts = sorted(Path(folder).glob("*/trial-*/attempt-*"))
        together = sum(_left_at(attempt, ranks) == {str(epochs[_number(attempt)])} for attempt in attempts)
        rows, orphans = _rows(url), _orphans(attempts)
    where = f"pruned at random, {ranks} ranks, {count} trials"
    return [
        Figure(what=f"{where}: recorded once, as pruned", ours=_recorded(rows, TrialState.PRUNED, 1), at_least=count),
        Figure(what=f"{where}: all ranks left in the same epoch", ours=together, at_least=count),
        Figure(
            what=f"{where}: attempts beyond the first (a hang would need one)", ours=len(attempts) - count, at_most=0
        ),
        Figure(what=f"{where}: processes left", ours=orphans, at_most=0),
        Figure(what=f"{where}: time of a trial", ours=seconds / count, unit="s"),
    ]


def _left_at(attempt: Path, ranks: int) -> set[str]:
    return {(attempt / f"epoch-{rank}").read_text() for rank in range(ranks)}


# Killing and stopping


@dataclass(kw_only=True)
class _Attacker:
    """Hits a random process of each trial's first attempt, and watches how long the others stay."""

    folder: Path
    number: signal.Signals
    ranks: int
    rng: random.Random
    hit: dict[Path, str] = field(default_factory=dict)  # by attempt, who
    stays: list[float] = field(default_factory=list)  # seconds from a hit until all processes were gone
    is_over: threading.Event = field(default_factory=threading.Event)
    watches: list[threading.Thread] = field(default_factory=list)

    def work(self) -> None:
        while not self.is_over.wait(POLL_SECONDS):
            for attempt in self.folder.glob("*/trial-*/attempt-1"):
                if attempt not in self.hit and (processes := self._processes(attempt)):
                    self.hit[attempt] = ""
                    self.watches.append(threading.Thread(target=self._strike, args=(attempt, processes)))
                    self.watches[-1].start()

    def _processes(self, attempt: Path) -> dict[str, int]:
        """The processes by name, once the ranks have begun."""
        try:
            ranks = {f"rank {rank}": int((attempt / f"pid-{rank}").read_text()) for rank in range(self.ranks)}
            trial = int((attempt / "trial-0").read_text())
            children = Path(f"/proc/{trial}/task/{trial}/children").read_text().split()
        except (OSError, ValueError):
            return {}
        others = [pid for pid in map(int, children) if pid not in ranks.values()]
        return ranks | {f"server {pid}": pid for pid in others}

    def _strike(self, attempt: Path, processes: dict[str, int]) -> None:
        time.sleep(self.rng.uniform(0.0, 1.5))
        name = self.rng.choice(sorted(processes))
        os.kill(processes[name], self.number)
        self.hit[attempt] = name
        struck = time.monotonic()
        while any(map(_is_there, processes.values())):
            time.sleep(POLL_SECONDS)
        self.stays.append(time.monotonic() - struck)


def attack(place: Place, number: signal.Signals, *, count: int, strategy: str, seed: int) -> list[Figure]:
    """One process of every trial is hit in the first attempt; the second must be left to finish."""
    verb = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped"}[number]
    with place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        runner = _runner(
            StudyRunner, url, Path(folder), count, ranks=2, strategy=strategy, step_seconds=ATTACKED_STEP_SECONDS
        )
        attacker = _Attacker(folder=Path(folder), number=number, ranks=2, rng=random.Random(seed))
        thread = threading.Thread(target=attacker.work)
        thread.start()
        try:
            runner.run(resume=False)
        finally:
            attacker.is_over.set()
            thread.join()
        for watch in attacker.watches:
            watch.join(HANG_SECONDS)
        rows = _rows(url)
        orphans = _orphans(sorted(Path(folder).glob("*/trial-*/attempt-*")))
    where = f"one process {verb}, {strategy}, {count} trials"
    first = sum("rank 0" in name for name in attacker.hit.values())
    return [
        Figure(what=f"{where}: hit", ours=len(attacker.stays), at_least=count, note=f"{first} of them rank 0"),
        Figure(
            what=f"{where}: one retry each, then complete", ours=_recorded(rows, TrialState.COMPLETE, 2), at_least=count
        ),
        Figure(
            what=f"{where}: all processes gone, at most",
            ours=max(attacker.stays, default=0.0),
            unit="s",
            at_most=GONE_SECONDS[number],
            note=f"median {sorted(attacker.stays)[len(attacker.stays) // 2] if attacker.stays else 0.0:.2f} s",
        ),
        Figure(what=f"{where}: processes left", ours=orphans, at_most=0),
    ]


# Both


def _runner(
    cls: type[Any], url: str, folder: Path, count: int, *, ranks: int, step_seconds: float, strategy: str = "ddp"
) -> Any:
    content = {
        "study": f"{strategy} on {ranks} ranks",
        "task": {"name": "plane", "metric": "val_loss", "direction": "minimize"},
        "trainer": {
            "model": {"class_path": "parallel_models.Net", "init_args": {"step_seconds": step_seconds}},
            "max_epochs": EPOCHS,
            "devices": ranks,
            "accelerator": "cpu",
            "threads": 1,
            "strategy": strategy,
            "stall_minutes": STALL_SECONDS / 60,
        },
        "space": {"lr": {"type": "float", "low": 0.01, "high": 0.1}},
        "budget": {"trials": count},
        "pruner": "none",
    }
    notices = Watcher(notice=lambda message: print(f"   {message.splitlines()[0]}", flush=True))
    return cls(
        parse_spec(content),
        folder=USER_CODE,
        storage=url,
        mlflow="none",
        runs=folder,
        jobs=2,
        watcher=notices,
    )


def _rows(url: str) -> list[Any]:
    store = open_store(url)
    with store.read() as connection:
        rows = list(connection.execute(select(trials.c.number, trials.c.state, trials.c.attempt, trials.c.deaths)))
    store.dispose()
    return rows


def _recorded(rows: Collection[Any], state: TrialState, attempts: int) -> int:
    """Trials that ended in that state in that attempt, all earlier ones having died."""
    good = {row.number for row in rows if (row.state, row.attempt, row.deaths) == (state.value, attempts, attempts - 1)}
    return len(good) if len(good) == len(rows) else min(len(good), len(rows) - 1)


def _number(attempt: Path) -> int:
    return int(attempt.parent.name.removeprefix("trial-"))


def _orphans(attempts: Collection[Path]) -> int:
    """Processes of ended trials that are still there."""
    origins = {int(path.read_text()) for attempt in attempts for path in attempt.glob("trial-0")}
    return sum(trial_of(pid) in origins for pid in _all_processes())


def _all_processes() -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        yield int(folder.name)


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
