"""Is the summary that was brought up to date the one that reading everything anew would give?"""

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, func, select, update

from storage.arrays import counted_values, family_arrays
from storage.database import Store
from storage.distributions import ParameterSets
from storage.families import list_families
from storage.importers.flags import trust
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.models import family_summaries, studies
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from storage.sources import Source, forget
from storage.summaries import LATEST_STUDIES, TRIALS_OF_A_STUDY, Summaries

SPACE = {"x": {"type": "float", "low": 0.0, "high": 1.0}, "c": {"type": "categorical", "choices": ["a", "b"]}}
COMPLETE, PRUNED, FAIL = (optuna.trial.TrialState[name].value for name in ("COMPLETE", "PRUNED", "FAIL"))


def take(store, name, n, *, source="table", first=0, direction="minimize"):
    rng = np.random.default_rng([n, first, len(name)])
    task = PastTask(name=name, study=name, metric="loss", direction=direction, space=SPACE)
    internal = np.column_stack([rng.random(n), rng.integers(0, 2, n)])
    keys = [str(number) for number in range(first, first + n)]
    intake = Intake(store, source=Source(name=source, kind="table", location=source))
    intake.take_table(task, RunColumns(keys=keys, names=("x", "c"), internal=internal, values=rng.random(n)))
    return intake.finish()


def summary(store, summaries=None):
    summaries = summaries or Summaries(ParameterSets())
    families = summaries.families(store)
    return [summaries.of(store, family) for family in families]


def content(found):
    return [
        (study.study_id, study.name, study.finished, study.values.tolist(), study.internal.tolist())
        for one in found
        for study in one.studies
    ]


def cold(store):
    """As a new process finds it that has no summary to start from."""
    with store.write() as connection:
        connection.execute(delete(family_summaries))
    return content(summary(store))


def test_a_summary_holds_each_study_with_its_best_trial_first(store):
    take(store, "one", 30)
    take(store, "two", 20, direction="minimize")
    (found,) = summary(store)
    arrays = family_arrays(store, found.family.name)
    for study in found.studies:
        rows = arrays.by_study[study.study_id]
        assert study.finished == len(study.values) == len(rows)
        assert study.values[0] == arrays.values[rows].min()
        assert sorted(study.values.tolist()) == sorted(arrays.values[rows].tolist())
        assert study.params(0) in [arrays.params(row) for row in rows]


def test_a_summary_that_is_damaged_is_made_anew(store):
    take(store, "one", 30)
    sound = content(summary(store))
    with store.read() as connection:
        kept = connection.execute(select(family_summaries.c.payload)).scalar_one()
    for damaged in (b"", bytes(range(256)), kept[:-8], kept[: -8 * 3]):
        with store.write() as connection:
            connection.execute(update(family_summaries).values(payload=damaged))
        assert content(summary(store)) == sound


def test_new_trials_and_new_studies_are_seen(store):
    summaries = Summaries(ParameterSets())
    take(store, "one", 30)
    summary(store, summaries)
    take(store, "one", 5, first=30)
    take(store, "two", 5)
    known = content(summary(store, summaries))
    assert known == cold(store)
    assert [(name, finished) for _, name, finished, *_ in known] == [("one", 35), ("two", 5)]


def test_another_process_starts_from_what_is_kept(store):
    for index in range(12):
        take(store, f"study {index:02}", 20)
    summary(store)
    read = []

    def count(connection, cursor, statement, *rest):
        read.append("configuration" in statement)

    event.listen(Engine, "after_cursor_execute", count)
    try:
        assert content(summary(store)) == content(summary(store))
    finally:
        event.remove(Engine, "after_cursor_execute", count)
    assert read and not any(read)


def test_what_was_forgotten_is_forgotten_everywhere(store):
    summaries = Summaries(ParameterSets())
    take(store, "kept", 20)
    take(store, "gone", 20, source="other")
    before = summary(store, summaries)
    forget(store, "other")
    after = content(summary(store, summaries))
    assert len(before[0].studies) == 2
    assert after == cold(store)
    assert [name for _, name, *_ in after] == ["kept"]


def test_a_study_in_quarantine_says_nothing_until_it_is_trusted(store):
    summaries = Summaries(ParameterSets())
    for name in ("a", "b"):
        take(store, name, 20)
    summary(store, summaries)
    mixed = PastTask(name="m", study="m", metric="loss", direction="minimize", space=SPACE)
    values = np.concatenate([np.linspace(0.01, 0.5, 30), np.linspace(20, 90, 30)])
    internal = np.column_stack([np.linspace(0, 1, 60), np.zeros(60)])
    intake = Intake(store, source=Source(name="m", kind="table", location="m"))
    columns = RunColumns(keys=[str(n) for n in range(60)], names=("x", "c"), internal=internal, values=values)
    intake.take_table(mixed, columns)
    assert intake.finish().flags[0].quarantined
    assert [name for _, name, *_ in content(summary(store, summaries))] == ["a", "b"]
    assert "scale break" in (trust(store, "m") or "")
    assert trust(store, "m") is None
    assert (
        [name for _, name, *_ in content(summary(store, summaries))]
        == ["a", "b", "m"]
        == [name for _, name, *_ in cold(store)]
    )


def test_only_the_latest_studies_are_kept(sqlite_store):
    for index in range(LATEST_STUDIES + 3):
        take(sqlite_store, f"study {index:03}", 2)
    (found,) = summary(sqlite_store)
    assert [study.name for study in found.studies] == [f"study {index:03}" for index in range(3, LATEST_STUDIES + 3)]


def test_a_long_study_is_sampled_with_its_best_and_its_scale(sqlite_store):
    most = TRIALS_OF_A_STUDY[1]
    take(sqlite_store, "long", 3 * most)
    (found,) = summary(sqlite_store)
    (study,) = found.studies
    arrays = family_arrays(sqlite_store, found.family.name)
    assert (study.finished, len(study.values)) == (3 * most, most)
    best = np.sort(arrays.values)[: most // 2]
    assert set(best.tolist()) <= set(study.values.tolist())
    assert np.median(study.quantiles) == pytest.approx(np.median(arrays.values), abs=0.02)


def test_optuna_programs_are_in_it_as_soon_as_they_finish_a_trial(store):
    storage = HistoryStorage(store)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0), study_name="live")
    for trials in range(1, 4):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 3), n_trials=1)
        (family,) = storage.past_families()
        (sample,) = storage.past_studies(family)
        assert (sample.name, sample.finished) == ("live", trials)
    assert len(list_families(store)) == 1


@pytest.fixture(scope="module")
def busy_store(tmp_path_factory):
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('summaries') / 'history.db'}")
    yield store
    store.dispose()


steps = st.lists(
    st.tuples(st.sampled_from(["take", "forget", "look"]), st.integers(0, 3), st.integers(1, 6)), max_size=12
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_order_of_events_gives_the_same_summary(busy_store: Store, events):
    summaries = Summaries(ParameterSets())
    for kind, index, n in events:
        name = f"source {index}"
        if kind == "take":
            with busy_store.read() as connection:
                query = select(func.count()).select_from(studies).where(studies.c.source == name)
                first = 10 * connection.execute(query).scalar_one()
            take(busy_store, f"study {index}", n, source=name, first=first + n)
        elif kind == "look":
            summary(busy_store, summaries)
        else:
            with busy_store.read() as connection:
                known = connection.execute(select(studies.c.id).where(studies.c.source == name)).first()
            if known is not None:
                forget(busy_store, name)
    assert content(summary(busy_store, summaries)) == cold(busy_store)


def test_what_trials_count_with():
    states = np.array([COMPLETE, COMPLETE, FAIL, PRUNED, PRUNED])
    values = np.array([1.0, 3.0, np.nan, 0.5, 9.0])
    assert counted_values(states, values, maximize=False).tolist() == [1.0, 3.0, 9.0, 2.0, 9.0]
    assert counted_values(states, values, maximize=True).tolist() == [1.0, 3.0, 0.5, 0.5, 2.0]
    assert np.isnan(counted_values(states[2:3], values[2:3], maximize=True)).all()
