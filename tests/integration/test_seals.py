"""Does everything that is done to a finished trial behind the history's back show, and nothing that may be done?"""

import os
import signal
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from sqlalchemy import select, text

from storage import schema, seals
from storage.backup import backup, restore
from storage.database import Store
from storage.errors import SealKeyError, StaleAttemptError, StorageError
from storage.importers import flags
from storage.importers.intake import Intake
from storage.importers.report import Flag
from storage.importers.runs import PastRun, PastTask
from storage.models import trials
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from storage.sources import Source, forget
from storage.studies import claim_trial, create_study, delete_study_without_results, finish_trial, report
from tests import history_0001
from tests.filled import DISTRIBUTIONS, SPACE, fill

KEY = "a key that nobody guesses"
SOURCE = Source(name="old runs", kind="table", location="runs.csv")
NARROW = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd"]},
}


def broken(store):
    with store.read() as connection:
        return list(seals.find_broken(connection, progress=lambda _share: None))


def change(store, statement, **values):
    with store.write() as connection:
        connection.execute(text(statement), values)


def finished(store, study_id, *, value=0.5, worker="w", **outcome):
    claim = claim_trial(store, study_id, worker=worker, lease_seconds=60, max_trials=None)
    report(store, claim, step=0, value=1.0)
    finish_trial(store, claim, state=TrialState.COMPLETE, value=value, **outcome)
    return claim


def imported(store, study, *runs, space=NARROW):
    intake = Intake(store, source=SOURCE)
    intake.take(PastTask(name=study, study=study, metric="loss", direction="minimize", space=space), runs)
    return intake.finish()


def run(key, value=0.5, optimizer="sgd"):
    params, attrs = {"lr": 0.01, "optimizer": optimizer}, {"host": "a"}
    return PastRun(key=key, params=params, value=value, curve=[(0, 1.0), (1, -0.0)], user_attrs=attrs)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(seals.KEY_VARIABLE, raising=False)


# What may be done


def test_all_that_programs_do_stays_whole(store):
    assert broken(store) == []
    fill(store)
    imported(store, "past", run("a"), run("b"))
    imported(store, "past", run("a"), run("c"))
    imported(store, "past", run("d", optimizer="adam"), space=NARROW | {"optimizer": SPACE["optimizer"]})  # it widens
    HistoryStorage(store).create_new_trial(
        1, create_trial(value=1.0, params={"layers": 2}, distributions={"layers": DISTRIBUTIONS["layers"]})
    )
    assert broken(store) == []
    flags._quarantine(store, [Flag(study="past", kind="scale break", evidence="percent", quarantined=True)])
    assert broken(store) == []
    flags.trust(store, "past")
    assert broken(store) == []
    forget(store, "old runs")
    create_study(store, name="empty")
    delete_study_without_results(store, "empty")
    assert broken(store) == []


def test_a_late_result_is_sealed_anew(store):
    study_id = create_study(store, name="s")
    stalled = claim_trial(store, study_id, worker="a", lease_seconds=-1, max_trials=1)
    faster = claim_trial(store, study_id, worker="b", lease_seconds=60, max_trials=1)
    finish_trial(store, faster, state=TrialState.COMPLETE, value=1.0)
    with pytest.raises(StaleAttemptError):
        finish_trial(store, stalled, state=TrialState.COMPLETE, value=2.0)
    assert broken(store) == []
    change(store, "UPDATE trial_attributes SET value = '[]'")
    assert broken(store) == [("trial 0 of study 's'", "changed since it was sealed: its attributes")]


def test_a_history_of_before_is_sealed_by_its_upgrade(store_url):
    history_0001.fill(store_url)
    schema.upgrade(store_url)
    store = open_store(store_url)
    assert broken(store) == []
    change(store, "UPDATE trials SET error = 'tampered' WHERE id = (SELECT min(id) FROM trials WHERE state = 1)")
    assert [problem for _, problem in broken(store)] == ["changed since it was sealed: its outcome"]
    store.dispose()


def test_a_backup_takes_the_seals_along(store, tmp_path):
    fill(store)
    backup(store, tmp_path / "saved.db")
    restore(tmp_path / "saved.db", f"sqlite:///{tmp_path / 'new.db'}")
    copy = open_store(f"sqlite:///{tmp_path / 'new.db'}")
    assert broken(copy) == [] and seals.fingerprint(copy) == seals.fingerprint(store)
    finished(copy, create_study(copy, name="more"))
    assert broken(copy) == [] and seals.fingerprint(copy) != seals.fingerprint(store)
    copy.dispose()


def test_sixteen_processes_finish_trials_of_one_study(store_url, in_processes):
    store = open_store(store_url)
    study_id = create_study(store, name="s")
    store.dispose()

    def work(index):
        mine = Store(store_url)
        for _ in range(3):
            finished(mine, study_id, value=float(index), worker=f"w{index}")
        create_study(mine, name=f"of {index}")
        mine.dispose()

    in_processes(work, 16)
    assert broken(store) == []
    with store.read() as connection:
        assert len(connection.execute(select(trials.c.id)).all()) == 48
    store.dispose()


@pytest.mark.parametrize("kills", [6])
def test_a_worker_that_is_killed_at_any_moment_leaves_no_trial_without_its_seal(store_url, kills):
    store = open_store(store_url)
    study_id = create_study(store, name="s")
    store.dispose()
    for index in range(kills):
        child = os.fork()
        if child == 0:
            mine = Store(store_url)
            while True:
                finished(mine, study_id, worker=f"w{index}")
        while store.fetch(seals._LAST_NUMBER, study_ids=f"[{study_id}]")[0].number < 4 * (index + 1):
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert broken(store) == []
    store.dispose()


# What must show

ALTERATIONS = {
    "outcome": (
        "UPDATE trials SET value = value + 1e-9 WHERE {it}",
        "UPDATE trials SET more_values = '[1.0]' WHERE {it}",
        "UPDATE trials SET state = 2 WHERE {it}",
        "UPDATE trials SET finished_at = 5 WHERE {it}",
        "UPDATE trials SET started_at = 1 WHERE {it}",
        "UPDATE trials SET cost_seconds = 1, epochs = 7 WHERE {it}",
        "UPDATE trials SET error = 'it was bad' WHERE {it}",
    ),
    "configuration": ("UPDATE trials SET configuration = :bytes WHERE {it}",),
    "curve": (
        "UPDATE intermediate_values SET value = value + 1e-9 WHERE trial_id = (SELECT id FROM trials WHERE {it})",
        "DELETE FROM intermediate_values WHERE trial_id = (SELECT id FROM trials WHERE {it})",
        "INSERT INTO intermediate_values SELECT id, 77, 0.5 FROM trials WHERE {it}",
    ),
    "attributes": (
        "INSERT INTO trial_attributes SELECT id, 'user', 'tampered', '1' FROM trials WHERE {it}",
        "DELETE FROM trial_attributes WHERE trial_id = (SELECT id FROM trials WHERE {it})",
    ),
    "provenance": (
        "UPDATE trials SET seed = 1, hardware = 'better' WHERE {it}",
        "UPDATE trials SET code_version = 'other' WHERE {it}",
        "UPDATE trials SET checkpoint = '/tmp/other.ckpt' WHERE {it}",
        "UPDATE trials SET source_key = 'x' WHERE {it}",
    ),
}
EVERY = [(part, statement) for part, statements in ALTERATIONS.items() for statement in statements]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def sealed(request, tmp_path_factory):
    """Three studies of five trials each, and a way to have them again as they were."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("seals") / "history.db"
        store = open_store(f"sqlite:///{path}")
        yield fill_three(store)
        store.dispose()
    else:
        store = request.getfixturevalue("migrated_postgresql")
        with store.write() as connection:
            connection.execute(text(f"TRUNCATE {', '.join(seals.chains.metadata.tables)} RESTART IDENTITY"))
        yield fill_three(store)


def fill_three(store):
    for name in ("a", "b", "c"):
        imported(store, name, *(run(f"{name}{number}", value=0.1 + number) for number in range(4)))
        finished(store, number_of(store, name), finished_at=1.7e9)
    assert broken(store) == []
    return store


def number_of(store, name):
    with store.read() as connection:
        return connection.execute(text("SELECT id FROM studies WHERE name = :name"), {"name": name}).scalar_one()


class _UndoneError(Exception):
    """Takes back what was changed."""


def found_after(store, statements, values=None):
    """How many rows the last statement changes, and what is broken then; all is taken back."""
    changed, found = 0, []
    with suppress(_UndoneError), store.write() as connection:
        for statement in statements:
            changed = connection.execute(text(statement), values or {}).rowcount
        found = list(seals.find_broken(connection, progress=lambda _share: None))
        raise _UndoneError
    return changed, found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(study=st.sampled_from("abc"), number=st.integers(0, 4), what=st.sampled_from(EVERY))
def test_a_changed_trial_is_named_with_what_was_changed(sealed, study, number, what):
    part, statement = what
    it = f"number = {number} AND study_id = {number_of(sealed, study)}"
    values = {"bytes": b"\0" * 16} if ":bytes" in statement else {}
    changed, found = found_after(sealed, [statement.format(it=it)], values)
    named = [(f"trial {number} of study {study!r}", f"changed since it was sealed: its {part}")]
    assert found == (named if changed else [])


IS_B = "(SELECT id FROM studies WHERE name = 'b')"
OTHERS = {
    "a trial that is gone": (
        [f"DELETE FROM trials WHERE number = 2 AND study_id = {IS_B}"],
        [("trial 2 of study 'b'", "it was removed behind the history's back")],
    ),
    "the last trial that is gone": (
        [f"DELETE FROM trials WHERE number = 4 AND study_id = {IS_B}"],
        [("trial 4 of study 'b'", "it was removed behind the history's back")],
    ),
    "a trial that is new": (
        [f"INSERT INTO trials (study_id, number, state, value) VALUES ({IS_B}, 5, 1, 0.0)"],
        [("trial 5 of study 'b'", "it was inserted, or finished, behind the history's back")],
    ),
    "a trial that runs again": (
        [f"UPDATE trials SET state = 0 WHERE number = 1 AND study_id = {IS_B}"],
        [("trial 1 of study 'b'", "it was finished, and is not any more")],
    ),
    "trials that changed places": (
        [
            f"UPDATE trials SET number = 77 WHERE number = 0 AND study_id = {IS_B}",
            f"UPDATE trials SET number = 0 WHERE number = 1 AND study_id = {IS_B}",
            f"UPDATE trials SET number = 1 WHERE number = 77 AND study_id = {IS_B}",
        ],
        [
            ("trial 0 of study 'b'", "changed since it was sealed: its outcome, its provenance"),
            ("trial 1 of study 'b'", "changed since it was sealed: its outcome, its provenance"),
        ],
    ),
    "a study that is gone": (
        [f"DELETE FROM trials WHERE study_id = {IS_B}", "DELETE FROM studies WHERE name = 'b'"],
        [("study 2", "it was removed behind the history's back")],
    ),
    "a study that is gone with its seals": (
        [
            f"DELETE FROM seals WHERE study_id = {IS_B}",
            f"DELETE FROM chains WHERE study_id = {IS_B}",
            f"DELETE FROM trials WHERE study_id = {IS_B}",
            "DELETE FROM studies WHERE name = 'b'",
        ],
        [("study 2", "it was removed behind the history's back")],
    ),
    "a study that is new": (
        ["INSERT INTO studies (id, name, directions, created_at) VALUES (77, 'x', '[\"minimize\"]', 1)"],
        [("study 'x'", "it was inserted behind the history's back")],
    ),
    "a direction": (
        ["UPDATE studies SET directions = '[\"maximize\"]' WHERE name = 'b'"],
        [("study 'b'", "its facts were changed: task, directions, source, study file, provenance or quarantine")],
    ),
    "a seal that is gone": (
        [f"DELETE FROM seals WHERE study_id = {IS_B} AND position = 2"],
        [
            ("study 'b'", "entries 2 to 2 of its chain of seals were removed"),
            ("trial 4 of study 'b'", "it was inserted, or finished, behind the history's back"),
        ],
    ),
    "a head that is another": (
        [f"UPDATE chains SET head = (SELECT head FROM chains WHERE study_id = 1) WHERE study_id = {IS_B}"],
        [("study 'b'", "its chain of seals was changed: it does not lead to its head")],
    ),
    "what a choice means": (
        ["""UPDATE distributions SET definition = replace(definition, '"sgd"', '"sgx"')"""],
        [
            (f"trial {number} of study {study!r}", "changed since it was sealed: its configuration")
            for study in "abc"
            for number in range(4)
        ],
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_removed_inserted_or_given_another_meaning_is_named(sealed, what):
    statements, expected = OTHERS[what]
    assert found_after(sealed, statements)[1] == expected


# The key


def test_without_the_key_nobody_seals_what_he_has_changed(sqlite_url, monkeypatch):
    monkeypatch.setenv(seals.KEY_VARIABLE, KEY)
    store = open_store(sqlite_url)
    finished(store, create_study(store, name="s"))
    assert broken(store) == []
    monkeypatch.delenv(seals.KEY_VARIABLE)
    with pytest.raises(SealKeyError, match="HPO_SEAL_KEY is not set"):
        open_store(sqlite_url)
    assert "sealed with the key" in broken(store)[0][1]
    change(store, "UPDATE trials SET value = 0")
    hints = store.fetch(seals._HINT_OF, study_id=0)
    seals.seal_again(store)  # as an intruder can, and he puts the right hint there
    change(store, "UPDATE chains SET key_hint = :hint", hint=hints[0].key_hint)
    monkeypatch.setenv(seals.KEY_VARIABLE, KEY)
    found = broken(store)
    assert ("the history", "its chain of seals was changed: it does not lead to its head") in found
    assert found[-1][0] == "trial 0 of study 's'"
    store.dispose()


def test_a_key_that_comes_later_needs_to_seal_what_is_there(store, monkeypatch):
    finished(store, create_study(store, name="s"))
    monkeypatch.setenv(seals.KEY_VARIABLE, KEY)
    with pytest.raises(SealKeyError, match="hpo db seal"):
        open_store(store.url)
    assert seals.seal_again(store) == 1
    open_store(store.url).dispose()
    assert broken(store) == []


def test_a_short_key_is_refused(sqlite_url, monkeypatch):
    monkeypatch.setenv(seals.KEY_VARIABLE, "short")
    with pytest.raises(SealKeyError, match="at least 16"):
        finished(store := open_store(sqlite_url), create_study(store, name="s"))


def test_what_runs_is_not_sealed_anew(store):
    claim_trial(store, create_study(store, name="s"), worker="w", lease_seconds=60, max_trials=1)
    with pytest.raises(StorageError, match="running"):
        seals.seal_again(store)
