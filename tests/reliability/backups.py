"""Is a backup that is taken while many write a whole, and does it hold all that was acknowledged before it began?"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from storage.backup import backup, restore
from storage.integrity import verify
from storage.optuna_storage import HistoryStorage
from storage.schema import Store, open_store
from storage.studies import claim_trial, finish_trial, report
from tests.measured import Figure
from tests.reliability.places import Place
from tests.reliability.queues import STUDY, Journal, judge, queue, read_journals, value_of

WRITERS, BACKUPS = 4, 5
SECONDS_BETWEEN = 2.0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one backup had in it."""

    lost: int
    doubled: int
    findings: list[str]
    seconds: float


def run(
    place: Place, *, writers: int = WRITERS, backups: int = BACKUPS, seconds_between: float = SECONDS_BETWEEN
) -> list[Figure]:
    """Back up, restore into an empty database of the same kind, verify; meanwhile the writers never stop."""
    where = f"backup under load, {place.kind}, {writers} writers, {backups} backups"
    with place.fresh() as url, tempfile.TemporaryDirectory() as name:
        folder, study_id = Path(name), queue(url, 0)
        context = multiprocessing.get_context("fork")
        enough = context.Event()
        team = [context.Process(target=_write, args=(url, study_id, folder, index, enough)) for index in range(writers)]
        for process in team:
            process.start()
        taken = []
        for number in range(backups):
            time.sleep(seconds_between)
            acknowledged = read_journals(folder)
            started = time.perf_counter()
            store = Store(url)
            backup(store, folder / f"{number}.backup")
            store.dispose()
            seconds = time.perf_counter() - started
            taken.append(_inspected(place, folder / f"{number}.backup", acknowledged, seconds))
        enough.set()
        for process in team:
            process.join()
    findings = [finding for each in taken for finding in each.findings]
    return [
        Figure(what=f"{where}: acknowledged results missing", ours=sum(each.lost for each in taken), at_most=0),
        Figure(what=f"{where}: trials doubled", ours=sum(each.doubled for each in taken), at_most=0),
        Figure(what=f"{where}: findings", ours=len(findings), at_most=0, note="; ".join(findings[:5])),
        Figure(what=f"{where}: writers that failed", ours=sum(p.exitcode != 0 for p in team), at_most=0),
        Figure(what=f"{where}: the longest took", ours=max(each.seconds for each in taken), unit="s"),
    ]


def _inspected(place: Place, path: Path, acknowledged: list[dict[str, object]], seconds: float) -> Taken:
    with place.fresh() as url:
        restore(path, url)
        store = open_store(url)
        outcome = judge(store, HistoryStorage(store).get_study_id_from_name(STUDY), acknowledged)
        findings = [str(finding) for finding in verify(store)]
        store.dispose()
    return Taken(lost=outcome.lost, doubled=outcome.doubled, findings=findings, seconds=seconds)


def _write(url: str, study_id: int, folder: Path, index: int, enough: object) -> None:
    storage, journal = HistoryStorage(url), Journal(folder / f"{index}.jsonl")
    store = storage.store
    while not enough.is_set():
        claimed = claim_trial(store, study_id, worker=str(index), lease_seconds=600, max_trials=None)
        storage.set_trial_param(claimed.trial_id, "x", float(claimed.number), FloatDistribution(0, 1e9))
        report(store, claimed, step=0, value=1.0)
        finish_trial(store, claimed, state=TrialState.COMPLETE, value=value_of(claimed))
        attempt = {"number": claimed.number, "attempt": claimed.attempt}
        journal.note("finished", **attempt, value=value_of(claimed))
