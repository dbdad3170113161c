"""Does `verify` find what is wrong, each thing by its name, and nothing where all is well?"""

import json

import pytest
from sqlalchemy import text

from storage import integrity, schema
from storage.database import Store
from storage.errors import SchemaOutdatedError, SchemaTooNewError, StoreUnavailableError
from storage.integrity import CHECKS, verify
from storage.schema import open_store
from storage.studies import create_study
from tests import history_0001
from tests.filled import fill

OWN = "study \"digits <b>'first'</b>; DROP TABLE trials\""
FIRST = f"trial 0 of {OWN}"


@pytest.fixture
def filled(store):
    fill(store)
    return store


@pytest.fixture
def own_store(store_url):
    """One whose tables may be broken."""
    store = open_store(store_url)
    fill(store)
    yield store
    store.dispose()


def break_by(store, *statements, **values):
    """Change rows behind everybody's back."""
    with store.write() as connection:
        for statement in statements:
            connection.execute(text(statement), values)


def found(store):
    """What is wrong, but for the seals: rows that are changed here are broken seals all."""
    return [(each.check, each.subject, each.detail) for each in verify(store) if each.check != "seals"]


def test_nothing_is_wrong_with_a_new_history(store):
    assert verify(store) == []


def test_nothing_is_wrong_with_a_filled_history(filled):
    told = []
    assert verify(filled, progress=told.append) == []
    assert told == sorted(told) and told[-1] == 1.0


def test_nothing_is_wrong_with_a_history_of_before_that_was_upgraded(store_url):
    history_0001.fill(store_url)
    with pytest.raises(SchemaOutdatedError, match="hpo db upgrade"):
        verify(Store(store_url))
    schema.upgrade(store_url)
    store = Store(store_url)
    assert verify(store) == []
    store.dispose()


LATE = json.dumps([{"attempt": 9, "state": "COMPLETE", "value": 1.0, "received_at": 1.0}])
COUNTS = LATE.replace("9", "1").replace("}", ', "counts_as": 3}')
WRONG = {
    "directions": (
        "UPDATE studies SET directions = '[\"up\"]' WHERE id = 1",
        "studies",
        OWN,
        "its directions are '[\"up\"]'",
    ),
    "direction of the task": (
        "UPDATE tasks SET direction = 'maximize'",
        "studies",
        OWN,
        "it is to minimize what its task is to maximize",
    ),
    "space": ("UPDATE studies SET space = '{' WHERE id = 1", "studies", OWN, "its space is not a JSON object"),
    "spec": ("UPDATE studies SET spec = '[]' WHERE id = 1", "studies", OWN, "its spec is not a JSON object"),
    "source": (
        "UPDATE studies SET source = 'nobody' WHERE id = 1",
        "studies",
        OWN,
        "it comes from 'nobody', and there is no such source",
    ),
    "family": (
        "UPDATE families SET name = 'loss-00000000' WHERE id = 1",
        "families",
        OWN,
        "it is of family 'loss-00000000'; by its space, metric and directions it is of 'val_loss-",
    ),
    "no family": ("UPDATE studies SET family_id = NULL WHERE id = 1", "families", OWN, "finished trials and no family"),
    "change": ("DELETE FROM study_changes WHERE study_id = 1", "families", OWN, "when its trials changed is not noted"),
    "revision": (
        "UPDATE study_changes SET revision = 1000 WHERE study_id = 1",
        "families",
        OWN,
        "by a revision that never was",
    ),
    "summary": (
        "UPDATE family_summaries SET revision = 1000",
        "families",
        "family 'val_loss-",
        "its summary is of a revision that never was",
    ),
    "gap": (
        "UPDATE trials SET number = 17 WHERE id = 2",
        "numbers",
        OWN,
        "its 5 trials are numbered from 0 to 17, with gaps",
    ),
    "first number": ("UPDATE trials SET number = 5 WHERE id = 1", "numbers", OWN, "from 1 to 5, with gaps"),
    "no value": ("UPDATE trials SET value = NULL WHERE id = 1", "outcomes", FIRST, "it is complete and has no value"),
    "no end": (
        "UPDATE trials SET finished_at = NULL WHERE id = 1",
        "outcomes",
        FIRST,
        "it is finished, and was not imported; when is not said",
    ),
    "lease": (
        "UPDATE trials SET lease_until = 1 WHERE id = 1",
        "outcomes",
        FIRST,
        "it has a lease and does not run",
    ),
    "lease of nobody": (
        "UPDATE trials SET worker = NULL WHERE id = 4",
        "outcomes",
        f"trial 3 of {OWN}",
        "it has a lease and nobody holds it",
    ),
    "deaths": ("UPDATE trials SET deaths = 5 WHERE id = 1", "outcomes", FIRST, "fewer than none, or than its deaths"),
    "further values": (
        "UPDATE trials SET more_values = '[1.0]' WHERE id = 1",
        "outcomes",
        FIRST,
        "it has 2 values where its study has 1 objectives",
    ),
    "further values alone": (
        "UPDATE trials SET more_values = '[1.0]' WHERE id = 3",
        "outcomes",
        f"trial 2 of {OWN}",
        "it has further values and no first one",
    ),
    "further values that are none": (
        "UPDATE trials SET more_values = '[null]' WHERE more_values IS NOT NULL",
        "outcomes",
        "trial 0 of study 'both'",
        "its further values are not numbers",
    ),
    "missing values": (
        "UPDATE trials SET more_values = NULL WHERE more_values IS NOT NULL",
        "outcomes",
        "trial 0 of study 'both'",
        "it has 1 values where its study has 2 objectives",
    ),
    "digest of a distribution": (
        "UPDATE distributions SET digest = 'x' WHERE id = 1",
        "parameters",
        "distribution 1",
        "its digest is not that of its definition",
    ),
    "distribution": (
        "UPDATE distributions SET definition = '{}' WHERE id = 1",
        "parameters",
        "distribution 1",
        "it cannot be read",
    ),
    "digest of a set": (
        "UPDATE parameter_sets SET digest = 'x' WHERE id = 1",
        "parameters",
        "parameter set 1",
        "its digest is not that of its definition",
    ),
    "set": (
        "UPDATE parameter_sets SET definition = '[[1]]' WHERE id = 1",
        "parameters",
        "parameter set 1",
        "it cannot be read",
    ),
    "set of what is not there": (
        "UPDATE parameter_sets SET definition = '[[\"lr\", 99]]' WHERE id = 1",
        "parameters",
        "parameter set 1",
        "it needs distributions that are not there, or cannot be read: [99]",
    ),
    "set with a name twice": (
        'UPDATE parameter_sets SET definition = \'[["lr", 1], ["lr", 1]]\' WHERE id = 1',
        "parameters",
        "parameter set 1",
        "a name is in it twice",
    ),
    "no configuration": (
        "UPDATE trials SET configuration = NULL WHERE id = 1",
        "configurations",
        FIRST,
        "it has a parameter set or a configuration, but not both",
    ),
    "no set": (
        "UPDATE trials SET parameter_set_id = NULL WHERE id = 1",
        "configurations",
        FIRST,
        "it has a parameter set or a configuration, but not both",
    ),
    "attribute of a study": (
        "UPDATE study_attributes SET value = 'NaN,' WHERE study_id = 1",
        "attributes",
        OWN,
        "its system attribute 'hindsight:space' is not JSON",
    ),
    "attribute of a trial": (
        "UPDATE trial_attributes SET value = '' WHERE trial_id = 1",
        "attributes",
        "trial with id 1",
        "its system attribute 'hindsight:receipt' is not JSON",
    ),
    "late result": (
        f"UPDATE trial_attributes SET value = '{LATE}' WHERE key = 'hindsight:late_results'".replace(":", "\\:"),
        "late results",
        f"trial 4 of {OWN}",
        "its late results are not what late results are",
    ),
    "late result that counts": (
        f"UPDATE trial_attributes SET value = '{COUNTS}' WHERE key = 'hindsight:late_results'".replace(":", "\\:"),
        "late results",
        f"trial 4 of {OWN}",
        "a late result counts as trial 3, which does not have it",
    ),
    "message about nothing": (
        "UPDATE outbox SET trial_id = 1000 WHERE id = 2",
        "outbox",
        "message 2 to MLflow",
        "the trial with id 1000 that it is about is not there",
    ),
    "message about another's": (
        "UPDATE outbox SET trial_id = (SELECT max(id) FROM trials) WHERE id = 2",
        "outbox",
        "message 2 to MLflow",
        "that it is about is of another study",
    ),
    "message that says nothing": (
        "UPDATE outbox SET payload = 'x' WHERE id = 2",
        "outbox",
        "message 2 to MLflow",
        "its content is not a JSON object",
    ),
}
WRONG_TABLES = {
    "index": (
        "DROP INDEX ix_trials_source_key",
        "schema",
        "ix_trials_source_key of table trials",
        "add index is needed",
    ),
    "column": ("ALTER TABLE tasks ADD COLUMN more INTEGER", "schema", "more of table tasks", "remove column is needed"),
    "table": ("DROP TABLE mlflow_runs", "schema", "table mlflow_runs", "add table is needed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(filled, what):
    check_that_it_is_found(filled, *WRONG[what])


def check_that_it_is_found(store, statement, check, subject, detail):
    break_by(store, statement)
    findings = found(store)
    matching = [each for each in findings if each[0] == check and each[1].startswith(subject) and detail in each[2]]
    assert matching, findings


@pytest.mark.parametrize("what", WRONG_TABLES)
def test_tables_that_are_not_as_the_migrations_make_them(own_store, what):
    check_that_it_is_found(own_store, *WRONG_TABLES[what])


def test_every_check_finds_something():
    covered = {check for _, check, _, _ in [*WRONG.values(), *WRONG_TABLES.values()]}
    elsewhere = {"file", "references", "keys", "curves"}  # tested below
    assert covered | elsewhere == set(CHECKS)


def test_a_run_that_was_imported_twice(own_store):
    break_by(
        own_store, "DROP INDEX ix_trials_source_key", "UPDATE trials SET source_key = 'run <1>' WHERE study_id = 1"
    )
    assert ("keys", OWN, "the run 'run <1>' is in it 5 times") in found(own_store)


def test_an_imported_trial_need_not_say_when_it_ended(filled):
    break_by(filled, "UPDATE trials SET finished_at = NULL, source_key = 'run 1' WHERE id = 1")
    assert found(filled) == []


@pytest.mark.parametrize(
    ("position", "value", "what"),
    [
        (2, 4.0, "'optimizer' cannot be 4.0 (as it is stored)"),
        (2, 0.5, "'optimizer' cannot be 0.5 (as it is stored)"),
        (2, -1.0, "'optimizer' cannot be -1.0 (as it is stored)"),
        (0, float("nan"), "'lr' cannot be nan (as it is stored)"),
        (1, float("inf"), "'layers' cannot be inf (as it is stored)"),
    ],
)
def test_a_configuration_that_cannot_be(filled, position, value, what):
    import struct

    values = [0.01, 2.0, 0.0]
    values[position] = value
    break_by(filled, "UPDATE trials SET configuration = :bytes WHERE id = 1", bytes=struct.pack("<3d", *values))
    assert found(filled) == [("configurations", FIRST, what)]


def test_a_configuration_that_was_cut(filled):
    break_by(filled, "UPDATE trials SET configuration = :bytes WHERE id = 1", bytes=b"1234567")
    assert found(filled) == [("configurations", FIRST, "its configuration has 7 bytes for 3 parameters")]


def test_what_is_not_a_number_where_the_database_can_hold_it(postgresql_store):
    fill(postgresql_store)
    break_by(
        postgresql_store,
        "UPDATE trials SET value = 'NaN' WHERE id = 1",
        "UPDATE intermediate_values SET value = 'NaN' WHERE trial_id = 2 AND step = 1",
    )
    assert found(postgresql_store) == [
        ("outcomes", FIRST, "its value is not a number"),
        ("curves", "trial with id 2", "its value at step 1 must be null where it is not a number"),
    ]


def test_rows_whose_owner_is_gone(sqlite_store):
    fill(sqlite_store)
    with sqlite_store.write() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("DELETE FROM distributions WHERE id = 2")
    sqlite_store.dispose()
    findings = found(sqlite_store)
    assert [each for each in findings if each[0] == "references"]
    assert ("parameters", OWN, "the distribution of 'layers' is not there") in findings


def test_an_index_that_misses_rows(sqlite_store):
    fill(sqlite_store)
    with sqlite_store.write() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql(
            "UPDATE sqlite_schema SET sql = replace(sql, '(source)', '(name)') WHERE name = 'ix_studies_source'"
        )
    sqlite_store.dispose()
    findings = verify(sqlite_store)
    assert {finding.check for finding in findings} == {"file", "schema"}
    assert any("ix_studies_source" in finding.detail for finding in findings if finding.is_damage)


def test_an_index_that_could_not_be_built(postgresql_store):
    break_by(
        postgresql_store, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_studies_source'::regclass"
    )
    try:
        assert ("file", "index ix_studies_source", "it is not valid: REINDEX it") in found(postgresql_store)
    finally:
        break_by(
            postgresql_store, "UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'ix_studies_source'::regclass"
        )


def test_a_row_of_another_type(sqlite_store):
    fill(sqlite_store)
    break_by(sqlite_store, "UPDATE parameter_sets SET definition = x'ff00' WHERE id = 1")
    assert "parameters" in {finding.check for finding in verify(sqlite_store)}


def test_much_of_the_same_is_cut_short(sqlite_store, monkeypatch):
    monkeypatch.setattr(integrity, "FINDINGS_PER_CHECK", 3)
    fill(sqlite_store)
    break_by(sqlite_store, "UPDATE trial_attributes SET value = ''")
    about_attributes = [finding for finding in verify(sqlite_store) if finding.check == "attributes"]
    assert len(about_attributes) == 4
    assert about_attributes[-1].detail == "there are more of these"


def test_what_is_no_history_is_not_verified(store_url):
    with pytest.raises(StoreUnavailableError, match="there is no history"):
        verify(Store(store_url))
    open_store(store_url).dispose()
    store = Store(store_url)
    break_by(store, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(SchemaTooNewError):
        verify(store)
    store.dispose()
    with pytest.raises(StoreUnavailableError, match="refused"):
        verify(Store("postgresql://user@127.0.0.1:9/name"))


def test_verifying_waits_for_nobody_and_nobody_for_it(filled):
    def write(_share):
        create_study(filled, name=f"meanwhile {len(written)}")
        written.append(1)

    written = []
    assert verify(filled, progress=write) == []
    assert len(written) >= len(CHECKS)
