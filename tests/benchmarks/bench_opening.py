"""How long until a study of 10,000 trials is open, and what does one more trial on it cost? Against RDBStorage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import numpy as np
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import insert, text, update

from hpo import HistoryStorage
from storage.distributions import fields_of
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.models import studies
from storage.sources import Source
from tests.benchmarks.rivals.storages import PARAMETERS, REPORTS, Opener, databases, internal_values, set_parameters
from tests.measured import Figure, faster, in_turn

TRIALS = 10_000
ROUNDS = 3
ASKS = 30  # in each round
TARGET_RATIO = 10.0
TARGET_ASK_MS = 5.0
STUDY = "large"


def main() -> Iterator[Figure]:
    """Seconds until all trials are there, and milliseconds for one more ask, as medians of several rounds."""
    for kind in ("SQLite", "PostgreSQL"):
        with databases(kind) as storages:
            fill_ours(storages["ours"]())
            fill_rdb(storages["RDBStorage"]())
            yield opening(kind, storages)
            yield from asking(kind, storages)


def opening(kind: str, storages: dict[str, Opener]) -> Figure:
    seconds = in_turn(ROUNDS, {name: partial(seconds_to_open, opener) for name, opener in storages.items()})
    return faster(
        f"open a study of {TRIALS:,} trials, {kind}",
        seconds["ours"],
        seconds["RDBStorage"],
        unit="s",
        rival_name="RDBStorage",
        at_least=TARGET_RATIO,
    )


def asking(kind: str, storages: dict[str, Opener]) -> Iterator[Figure]:
    """What an ask takes, and what the disk alone takes in the same rounds: on PostgreSQL a new trial waits for it."""
    opened = {name: opener() for name, opener in storages.items()}
    for storage in opened.values():
        milliseconds_to_ask(storage)  # reads all trials, once
    measurements = {name: partial(milliseconds_to_ask, storage) for name, storage in opened.items()}
    measurements["disk"] = partial(milliseconds_to_commit, opened["ours"])
    milliseconds = in_turn(ROUNDS, measurements)
    disk = statistics.median(milliseconds["disk"])
    yield Figure(
        what=f"one more ask on {TRIALS:,} trials, {kind}",
        ours=statistics.median(milliseconds["ours"]),
        rival=statistics.median(milliseconds["RDBStorage"]),
        rival_name="RDBStorage",
        unit="ms",
        at_most=TARGET_ASK_MS,
        note=f"one commit that waits for the disk took {disk:.1f} ms",
    )
    yield Figure(what=f"one commit that waits for the disk, {kind}", ours=disk, unit="ms")


def seconds_to_open(opener: Opener) -> float:
    """By a program that has just started, all imports done: until it has every trial."""
    started = time.perf_counter()
    storage = opener()
    study_id = storage.get_study_id_from_name(STUDY)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    seconds = time.perf_counter() - started
    assert len(trials) >= TRIALS
    assert len(trials[TRIALS // 2].params) == len(PARAMETERS)
    assert len(trials[TRIALS // 2].intermediate_values) == REPORTS
    return seconds


def milliseconds_to_ask(storage: BaseStorage) -> float:
    """What a sampler's proposal costs in the storage: create a trial, read all others, set the parameters; median."""
    study_id = storage.get_study_id_from_name(STUDY)
    taken = []
    for ask in range(ASKS):
        started = time.perf_counter()
        trial_id = storage.create_new_trial(study_id)
        storage.get_all_trials(study_id, deepcopy=False)
        set_parameters(storage, trial_id, ask)
        taken.append(time.perf_counter() - started)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    return 1000 * statistics.median(taken)


def milliseconds_to_commit(storage: BaseStorage) -> float:
    """What COMMIT alone takes, where it waits for the disk; median."""
    assert isinstance(storage, HistoryStorage)
    taken = []
    for _ in range(ASKS):
        with storage.store.write() as connection:
            connection.execute(update(studies).values(quarantine=None))
            started = time.perf_counter()
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def fill_ours(storage: BaseStorage) -> None:
    """As an import does, with the name that the study has on the other side."""
    assert isinstance(storage, HistoryStorage)
    space = {name: fields_of(distribution) for name, distribution in PARAMETERS.items()}
    task = PastTask(name=STUDY, study=STUDY, metric="loss", direction="minimize", space=space)
    numbers = range(1, TRIALS + 1)
    intake = Intake(storage.store, source=Source(name="bench", kind="table", location="", settings={}))
    intake.take_table(
        task,
        RunColumns(
            keys=[str(n) for n in numbers],
            names=tuple(PARAMETERS),
            internal=np.array([internal_values(n) for n in numbers]),
            values=np.array([1.0 / n for n in numbers]),
            started_at=np.full(TRIALS, time.time()),
            finished_at=np.full(TRIALS, time.time()),
            curves={n - 1: [(step, 1.0 / (step + n)) for step in range(REPORTS)] for n in numbers},
        ),
    )
    intake.finish()


def fill_rdb(storage: BaseStorage) -> None:
    """The rows that RDBStorage itself would write, many at a time: one by one takes it minutes."""
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], STUDY)
    rdb = storage._backend
    assert isinstance(rdb, RDBStorage)
    now = datetime.now(UTC).replace(tzinfo=None)
    numbers = range(1, TRIALS + 1)
    definitions = {name: distribution_to_json(distribution) for name, distribution in PARAMETERS.items()}
    rows = {
        models.TrialModel: [
            {"trial_id": n, "number": n - 1, "study_id": study_id, "state": TrialState.COMPLETE}
            | {"_datetime_start_utc": now, "_datetime_complete_utc": now}
            for n in numbers
        ],
        models.TrialParamModel: [
            {"trial_id": n, "param_name": name, "param_value": value, "distribution_json": definitions[name]}
            for n in numbers
            for name, value in zip(PARAMETERS, internal_values(n), strict=True)
        ],
        models.TrialValueModel: [
            {"trial_id": n, "objective": 0, "value": 1.0 / n}
            | {"value_type": models.TrialValueModel.TrialValueType.FINITE}
            for n in numbers
        ],
        models.TrialIntermediateValueModel: [
            {"trial_id": n, "step": step, "intermediate_value": 1.0 / (step + n)}
            | {"intermediate_value_type": models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE}
            for n in numbers
            for step in range(REPORTS)
        ],
    }
    with rdb.scoped_session() as session:
        for model, content in rows.items():
            session.execute(insert(model), content)
        session.commit()
        if rdb.engine.dialect.name == "postgresql":
            session.execute(text("SELECT setval('trials_trial_id_seq', :last)"), {"last": TRIALS})
            session.commit()
