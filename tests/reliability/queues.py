"""A study whose trials wait, workers that do them, and whether each was done exactly once."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import func, insert, select

from storage.models import UNFINISHED, outbox, trial_attributes, trials
from storage.retries import retried
from storage.schema import Store, open_store
from storage.seals import find_broken
from storage.studies import LATE_RESULTS_ATTRIBUTE, Claim, create_study
from tests.measured import Figure

STUDY = "queue"


def queue(url: str, number_of_trials: int) -> int:
    """A new store with a study in which that many trials wait; returns its id."""
    store = open_store(url)
    study_id = create_study(store, name=STUDY, task="task", metric="loss", mlflow_uri="sqlite:///unused.db")
    waiting = [
        {"study_id": study_id, "number": number, "state": TrialState.WAITING.value}
        for number in range(number_of_trials)
    ]
    if waiting:
        with store.write() as connection:
            connection.execute(insert(trials), waiting)
    store.dispose()
    return study_id


@retried
def is_all_done(store: Store, study_id: int) -> bool:
    """Whether nothing waits and nothing runs."""
    query = select(func.count()).where(trials.c.study_id == study_id, trials.c.state.in_(UNFINISHED))
    with store.read() as connection:
        return connection.scalar(query) == 0


def value_of(claim: Claim) -> float:
    """What an attempt brings: another number for each."""
    return claim.number + claim.attempt / 1000


class Journal:
    """What a worker knows for certain, in a file of its own. `sure=True` waits until it is on the disk."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(self, kind: str, *, sure: bool = False, **content: Any) -> None:
        os.write(self._file, (json.dumps({"kind": kind, **content}) + "\n").encode())  # one call: never half a line
        if sure:
            os.fsync(self._file)


def read_journals(folder: Path) -> list[dict[str, Any]]:
    """Everything that all workers noted."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the queue, against what the workers were told."""

    lost: int  # results that a worker was told are kept, and that are not there
    doubled: int  # trials whose outcome was accepted from two attempts, or told to MLflow twice
    stuck: int  # trials that never came to an end
    wrong: int  # trials that ended with something that their attempt did not bring
    late: int  # results that were refused
    late_lost: int  # and not kept as late ones
    unsealed: int  # trials, studies and chains that are not as they were sealed

    def figures(self, where: str) -> list[Figure]:
        """Each must be zero."""
        said = {
            "acknowledged results lost": self.lost,
            "trials doubled": self.doubled,
            "trials stuck": self.stuck,
            "wrong outcomes": self.wrong,
            "late results not kept": self.late_lost,
            "broken seals": self.unsealed,
        }
        return [Figure(what=f"{where}: {what}", ours=number, at_most=0) for what, number in said.items()]


def judge(store: Store, study_id: int, noted: Iterable[dict[str, Any]]) -> Outcome:
    """Compare the store with what the workers noted: "finished" and "refused", with trial, attempt and value."""
    with store.read() as connection:
        rows = connection.execute(
            select(trials.c.number, trials.c.state, trials.c.attempt, trials.c.value)
            .where(trials.c.study_id == study_id)
            .order_by(trials.c.number)
        ).all()
        ends = connection.execute(
            select(trials.c.number, outbox.c.payload)
            .join_from(outbox, trials, outbox.c.trial_id == trials.c.id)
            .where(outbox.c.kind == "run_finished", trials.c.study_id == study_id)
        ).all()
        kept_late = connection.execute(
            select(trials.c.number, trial_attributes.c.value)
            .join_from(trial_attributes, trials)
            .where(trial_attributes.c.key == LATE_RESULTS_ATTRIBUTE, trials.c.study_id == study_id)
        ).all()
        unsealed = len(list(find_broken(connection, progress=lambda _share: None)))
    noted = list(noted)
    accepted = {(line["number"], line["attempt"], line["value"]) for line in noted if line["kind"] == "finished"}
    refused = {(line["number"], line["attempt"], line["value"]) for line in noted if line["kind"] == "refused"}
    there = {(row.number, row.attempt, row.value) for row in rows if row.state == TrialState.COMPLETE.value}
    late = {(number, each["attempt"], each["value"]) for number, text in kept_late for each in json.loads(text)}
    told = Counter(number for number, payload in ends if json.loads(payload)["status"] == "FINISHED")
    acknowledged = Counter(number for number, _, _ in accepted)
    twice = {number for counted in (told, acknowledged) for number, times in counted.items() if times > 1}
    complete = [row for row in rows if row.state == TrialState.COMPLETE.value]
    brought = {row.number: value_of(Claim(trial_id=0, number=row.number, attempt=row.attempt)) for row in rows}
    wrong = [row for row in rows if row.state in (TrialState.FAIL.value, TrialState.PRUNED.value)]
    wrong += [row for row in complete if row.value != brought[row.number] or told[row.number] == 0]
    assert [row.number for row in rows] == list(range(len(rows))), "the numbers have gaps"
    return Outcome(
        lost=len(accepted - there),
        doubled=len(twice),
        stuck=sum(row.state in UNFINISHED for row in rows),
        wrong=len(wrong),
        late=len(refused),
        late_lost=len(refused - late),
        unsealed=unsealed,
    )
