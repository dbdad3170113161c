"""What happens to results when the disk with the history is full? They wait on another one, and come in later."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import TrialState
from sqlalchemy import make_url, select

from storage.errors import StoreUnavailableError
from storage.integrity import verify
from storage.models import studies
from storage.schema import Store, open_store
from storage.spool import Finish, Result, Spool, tell
from storage.studies import Claim, claim_trial, extend_leases
from tests.measured import Figure
from tests.reliability.disks import Disk, small_disk
from tests.reliability.queues import STUDY, judge, queue, value_of

TRIALS, OUTAGES, RUNNING = 400, 5, 8
LEASE_SECONDS = 600.0
MOST_BEATS = 5_000


@dataclass(kw_only=True)
class Worker:
    """Does a study's trials, and remembers what it has been told."""

    store: Store
    study_id: int
    trials: int  # in the study
    spool: Spool
    noted: list[dict[str, object]] = field(default_factory=list)  # what was recorded, or put on disk
    refusals: Counter[str] = field(default_factory=Counter)
    spooled: int = 0
    delivered: int = 0

    def work(self, number: int) -> None:
        """Do so many trials, or all that there are."""
        for _ in range(number):
            claimed = self.claim()
            if claimed is None:
                return
            self.tell(claimed)

    def outlast(self, disk: Disk, running: int) -> None:
        """Trials that run end while the disk is full; those that would start do not."""
        claims = [claimed for _ in range(running) if (claimed := self.claim()) is not None]
        started: list[Claim] = []
        self.empty_the_log()
        with disk.full():
            self.beat_until_refused(claims)
            for claimed in claims:
                try:
                    self.tell(claimed)
                except StoreUnavailableError as error:
                    self.refusals[str(error)] += 1
                    self.spool.put(_result(self.store, claimed))
                    self.spooled += 1
                    self.noted.append(_note(claimed))
            try:
                while (more := self.claim()) is not None:
                    started.append(more)
            except StoreUnavailableError as error:
                self.refusals[str(error)] += 1
        self.delivered += self.spool.deliver(self.store)
        for claimed in started:
            self.tell(claimed)

    def empty_the_log(self) -> None:
        """Without this, a log that has reached its usual size is written over and over, and needs no room."""
        with closing(sqlite3.connect(str(make_url(self.store.url).database))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def beat_until_refused(self, claims: list[Claim]) -> None:
        """Use up the room that the disk still has."""
        try:
            for _ in range(MOST_BEATS):
                extend_leases(self.store, claims, worker="worker", lease_seconds=LEASE_SECONDS)
        except StoreUnavailableError as error:
            self.refusals[str(error)] += 1

    def claim(self) -> Claim | None:
        return claim_trial(
            self.store, self.study_id, worker="worker", lease_seconds=LEASE_SECONDS, max_trials=self.trials
        )

    def tell(self, claimed: Claim) -> None:
        tell(self.store, _result(self.store, claimed))
        self.noted.append(_note(claimed))


def run(*, trials: int = TRIALS, outages: int = OUTAGES, running: int = RUNNING) -> list[Figure]:
    """The disk fills up while some trials run and others are about to start, and is emptied again; several times."""
    with small_disk() as disk, tempfile.TemporaryDirectory() as elsewhere:
        where = f"full disk, SQLite, {outages} times over {trials} trials ({type(disk).__name__})"
        url = f"sqlite:///{disk.folder}/history.db"
        study_id = queue(url, trials)
        spool = Spool(Path(elsewhere, "spool"), fallback=Path(elsewhere, "fallback"))
        worker = Worker(store=open_store(url), study_id=study_id, trials=trials, spool=spool)
        for _ in range(outages):
            worker.work(trials // (2 * outages))
            worker.outlast(disk, running)
        worker.work(trials)
        outcome = judge(worker.store, study_id, worker.noted)
        findings = [str(finding) for finding in verify(worker.store)]
        worker.store.dispose()
    unclear = [message for message in worker.refusals.elements() if "full" not in message and "I/O" not in message]
    return [
        *outcome.figures(where),
        Figure(what=f"{where}: findings", ours=len(findings), at_most=0, note="; ".join(findings[:5])),
        Figure(what=f"{where}: results spooled", ours=worker.spooled, at_least=outages),
        Figure(what=f"{where}: of them not delivered", ours=worker.spooled - worker.delivered, at_most=0),
        Figure(what=f"{where}: refusals", ours=worker.refusals.total(), at_least=2 * outages),
        Figure(
            what=f"{where}: of them without a reason",
            ours=len(unclear),
            at_most=0,
            note=next(iter(worker.refusals), ""),
        ),
    ]


def _result(store: Store, claimed: Claim) -> Result:
    with store.read() as connection:
        created_at = connection.execute(select(studies.c.created_at).where(studies.c.name == STUDY)).scalar_one()
    end = Finish(state=TrialState.COMPLETE, value=value_of(claimed))
    return Result(study=STUDY, study_created_at=created_at, claim=claimed, end=end)


def _note(claimed: Claim) -> dict[str, object]:
    return {
        "kind": "finished",
        "number": claimed.number,
        "attempt": claimed.attempt,
        "value": value_of(claimed),
    }
