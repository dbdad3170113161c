"""Do statements say to the drivers what SQLAlchemy would, and find the rows by their index?"""

import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sqlalchemy import bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from storage import frozen_trials
from storage import studies as live
from storage.distributions import ParameterSet
from storage.models import studies, trials
from storage.statements import Statement, is_listed
from storage.studies import create_study

NAMED = Statement(
    select(studies.c.id, studies.c.name.label("called"), studies.c.space)
    .where(studies.c.name == bindparam("name"), studies.c.source == "hindsight")
    .limit(1)
)
LISTED = Statement(
    lambda dialect: select(studies.c.id).where(is_listed(dialect, studies.c.id, "ids")).order_by(studies.c.id)
)


def test_values_are_bound_and_rows_have_names(store):
    name = "'; DROP TABLE studies; -- %s :name ä"
    create_study(store, name=name)
    (found,) = store.fetch(NAMED, name=name)
    assert (found.id, found.called, found.space) == (1, name, None)
    assert store.fetch(NAMED, name="other") == []


def test_numbers_in_a_list(store):
    for name in "abc":
        create_study(store, name=name)
    assert [row.id for row in store.fetch(LISTED, ids=json.dumps([3, 1, 99]))] == [1, 3]
    assert store.fetch(LISTED, ids="[]") == []


def test_changes_are_counted_and_kept(store):
    create_study(store, name="a")
    trial = Statement(insert(trials).values(study_id=1, number=bindparam("number"), state=0).returning(trials.c.id))
    made = store.change(trial, number=0)
    assert (made.first.id, made.changed) == (1, 1)
    with pytest.raises(IntegrityError):
        store.change(trial, number=0)
    assert store.change(trial, number=1).changed == 1
    with store.read() as connection:
        assert connection.execute(select(trials.c.number).order_by(trials.c.id)).scalars().all() == [0, 1]


@pytest.mark.parametrize("statement", [live._OLDEST_WAITING, live._MORE_WAIT_THAN, live._EXPIRED, live._LEASED])
def test_sqlite_finds_the_few_unfinished_trials_by_their_index(sqlite_store, statement):
    assert "ix_trials_unfinished (study_id=? AND state=?)" in plan(sqlite_store, statement)
    assert "TEMP B-TREE" not in plan(sqlite_store, statement)


def test_sqlite_reads_no_more_trials_than_may_be_new(sqlite_store):
    steps = plan(sqlite_store, frozen_trials._NEWS)
    assert "ix_trials_unfinished" in steps and "number>?" in steps and "number=?" in steps
    assert plan(sqlite_store, frozen_trials._BESIDE).count("PRIMARY KEY (trial_id=?)") == 2


def plan(store, statement):
    with store.read() as connection:
        compiled = statement._compile(connection.dialect)
        names = ("study_id", "trial_id", "worker", "many", "known", "numbers")
        values = dict.fromkeys(names, 1) | {"numbers": "[1]", "ids": "[1]"} | compiled.constants
        driver = connection.connection.driver_connection
        return "; ".join(row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", values))


def test_configurations_decoded_together_are_those_decoded_alone():
    sets = [
        ParameterSet(names=(), distributions=()),
        ParameterSet(
            names=("x", "n", "c"),
            distributions=(FloatDistribution(0, 1), IntDistribution(0, 9), CategoricalDistribution((None, "a", 1.5))),
        ),
    ]
    params = [{"x": 0.25, "n": 3, "c": None}, {"x": 1.0, "n": 9, "c": 1.5}]
    encoded = [sets[1].encode(each) for each in params]
    assert sets[1].decode_all(encoded) == params == [sets[1].decode(each) for each in encoded]
    assert all(type(each["n"]) is int for each in sets[1].decode_all(encoded))
    assert sets[0].decode_all([b"", b""]) == [{}, {}]
