"""Does every migration keep what a filled database holds, up, down and up again, on both kinds of database?"""

import json
import re
import shutil
from contextlib import suppress

import pytest
from sqlalchemy import CheckConstraint, inspect, text

from storage import schema
from storage.database import Store
from storage.errors import RevisionError, SchemaOutdatedError, SchemaTooNewError, StoreUnavailableError
from storage.families import leave_family, settle_family
from storage.history import get_study, list_studies
from storage.integrity import verify
from storage.schema import downgrade, open_store, schema_state, upgrade, what_is_lost
from storage.studies import claim_trial, create_study
from tests import history_0001
from tests.filled import fill

REVISIONS = [script.revision for script in schema._scripts().walk_revisions()][::-1]
LATER = REVISIONS[1:]


def structure(url):
    """Tables, columns, keys, checks and indexes: what the database enforces."""
    store = Store(url)
    with store.read() as connection:
        found, tables = inspect(connection), {}
        for table in found.get_table_names():
            tables[table] = {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in found.get_columns(table)
                },
                "primary key": found.get_pk_constraint(table)["constrained_columns"],
                "foreign keys": sorted(
                    (key["constrained_columns"], key["referred_table"], str(key["options"]))
                    for key in found.get_foreign_keys(table)
                ),
                "unique": sorted((key["name"], key["column_names"]) for key in found.get_unique_constraints(table)),
                "checks": sorted(check["name"] for check in found.get_check_constraints(table)),
                "indexes": sorted(
                    (index["name"], index["column_names"], bool(index["unique"]), condition(index))
                    for index in found.get_indexes(table)
                ),
                "ids": is_autoincrement(connection, table),
            }
    store.dispose()
    return tables


def condition(index):
    options = index.get("dialect_options", {})
    return next((str(value) for name, value in options.items() if name.endswith("_where")), None)


def is_autoincrement(connection, table):
    if connection.dialect.name != "sqlite":
        return None
    definition = connection.scalar(text("SELECT sql FROM sqlite_schema WHERE name = :name"), {"name": table})
    return bool(re.search("AUTOINCREMENT", definition, re.IGNORECASE))


@pytest.fixture(scope="module")
def fresh_sqlite(tmp_path_factory):
    """The structure of a database that was made at each revision, and never migrated."""
    folder = tmp_path_factory.mktemp("fresh")
    for revision in REVISIONS:
        upgrade(f"sqlite:///{folder / revision}.db", revision)
    return {revision: structure(f"sqlite:///{folder / revision}.db") for revision in REVISIONS}


@pytest.mark.parametrize("revision", LATER)
def test_up_down_up_keeps_what_both_versions_know(store_url, revision):
    expected = history_0001.fill(store_url, many=history_0001.MANY)
    before = REVISIONS[REVISIONS.index(revision) - 1]
    upgrade(store_url, before)
    then = history_0001.rows(store_url)
    upgrade(store_url, revision)
    now = history_0001.rows(store_url)
    downgrade(store_url, before)
    assert without_version(history_0001.rows(store_url)) == without_version(then)
    upgrade(store_url, revision)
    assert history_0001.rows(store_url) == now
    upgrade(store_url)
    assert history_0001.trials(store_url) == expected


def without_version(tables):
    return {name: rows for name, rows in tables.items() if name != schema.VERSION_TABLE}


def test_the_trials_of_the_first_version_are_those_that_this_one_reads(store_url):
    expected = history_0001.fill(store_url)
    upgrade(store_url)
    found = history_0001.trials(store_url)
    assert found == expected
    for study, trials in expected.items():  # not only equal, but of the same types: True is not 1.0
        for one, other in zip(trials, found[study], strict=True):
            assert list(map(repr, one["params"].values())) == list(map(repr, other["params"].values()))


def test_what_this_version_wrote_goes_back_to_the_first_and_returns(store_url):
    """Trials in every state, with parameters of every kind, those that were enqueued and those that came late."""
    store = open_store(store_url)
    fill(store)
    store.dispose()
    expected = history_0001.trials(store_url)
    downgrade(store_url, REVISIONS[0])
    upgrade(store_url)
    assert history_0001.trials(store_url) == expected
    store = open_store(store_url)
    assert verify(store) == []
    store.dispose()


@pytest.mark.parametrize("revision", LATER)
def test_a_migrated_database_is_made_like_a_new_one(tmp_path, revision, fresh_sqlite):
    url = f"sqlite:///{tmp_path / 'history.db'}"
    history_0001.fill(url)
    upgrade(url, revision)
    assert structure(url) == fresh_sqlite[revision]
    before = REVISIONS[REVISIONS.index(revision) - 1]
    downgrade(url, before)
    assert structure(url) == fresh_sqlite[before]


@pytest.mark.parametrize("revision", LATER)
def test_on_a_server_too(postgresql_server, revision):
    from tests.conftest import _database

    before = REVISIONS[REVISIONS.index(revision) - 1]
    with _database(postgresql_server) as migrated, _database(postgresql_server) as fresh:
        upgrade(fresh, before)
        upgrade(migrated, revision)
        downgrade(migrated, before)
        assert structure(migrated) == structure(fresh)
        upgrade(migrated, revision)
        upgrade(fresh, revision)
        assert structure(migrated) == structure(fresh)


def test_ids_go_on_after_a_migration(store_url):
    history_0001.fill(store_url)
    upgrade(store_url)
    before = history_0001.rows(store_url)
    store = open_store(store_url)
    for table in ("studies", "families", "parameter_sets"):
        assert before[table], table
    study = create_study(store, name="new", task="new", metric="new", space={"a": {"type": "int", "low": 0, "high": 1}})
    assert study == len(before["studies"]) + 1
    assert (
        claim_trial(store, study, worker="w", lease_seconds=60, max_trials=None).trial_id == len(before["trials"]) + 1
    )
    store.dispose()


def test_a_study_of_before_and_one_of_now_are_of_one_family(store_url):
    history_0001.fill(store_url)
    upgrade(store_url)
    store = open_store(store_url)
    create_study(store, name="now", task="digits", metric="val_loss", space=history_0001.DECLARED)
    families = {study.name: study.family for study in list_studies(store)}
    assert families["first"] == families["second"] == families["now"]
    assert len(set(families.values())) == len(families) - 2
    store.dispose()


def test_families_are_named_as_this_version_names_them(store_url):
    """The migration, which must not import the code, comes to the same as the code."""
    history_0001.fill(store_url)
    upgrade(store_url)
    store = open_store(store_url)
    query = text(
        "SELECT studies.name, families.name, families.metric, families.directions, families.space "
        "FROM studies LEFT JOIN families ON families.id = family_id ORDER BY studies.id"
    )
    with store.read() as connection:
        migrated = connection.execute(query).all()
    for study in list_studies(store):
        with store.write() as connection:
            leave_family(connection, study.study_id)
            settle_family(store, connection, study.study_id)
    with store.read() as connection:
        settled = connection.execute(query).all()
    assert [parsed(row) for row in migrated] == [parsed(row) for row in settled]
    assert [row[0] for row in migrated if row[1] is None] == ["empty"]
    store.dispose()


def parsed(row):
    return [json.loads(value) if value and index >= 3 else value for index, value in enumerate(row)]


def test_a_migration_that_fails_changes_nothing(store_url):
    history_0001.fill(store_url)
    store = Store(store_url)
    with store.write() as connection:
        connection.execute(text("UPDATE trials SET params = '{' WHERE number = 9"))
        before = connection.execute(text("SELECT id, params FROM trials ORDER BY id")).all()
    with suppress(ValueError, StoreUnavailableError):
        upgrade(store_url)
        raise AssertionError("it was upgraded")
    assert schema_state(store_url).current == "0001"
    with store.read() as connection:
        assert connection.execute(text("SELECT id, params FROM trials ORDER BY id")).all() == before
    store.dispose()


# What must not be used


def test_a_history_of_before_is_refused_with_the_command_to_run(store_url):
    history_0001.fill(store_url)
    with pytest.raises(SchemaOutdatedError, match=r"has schema 0001.*\n  hpo db upgrade --storage"):
        open_store(store_url)
    assert schema_state(store_url).current == "0001"
    upgrade(store_url)
    store = open_store(store_url)
    assert get_study(store, "first").best == -1e300
    store.dispose()


def test_the_program_of_before_refuses_the_history_of_now(store_url, tmp_path, monkeypatch):
    open_store(store_url).dispose()
    folder = shutil.copytree(schema._migrations(), tmp_path / "migrations")
    for script in (folder / "versions").glob("*.py"):
        if not script.name.startswith(REVISIONS[0]):
            script.unlink()
    monkeypatch.setattr(schema, "_migrations", lambda: folder)
    for use in (open_store, upgrade, lambda url: downgrade(url, "base")):
        with pytest.raises(SchemaTooNewError, match="pip install --upgrade hindsight-hpo"):
            use(store_url)


# The way back


def test_what_is_lost_on_the_way_back_is_said_step_by_step(store_url):
    upgrade(store_url)
    lost = what_is_lost(store_url, "base")
    assert [line.split(":")[0] for line in lost] == REVISIONS[::-1]
    assert "whole history is lost" in lost[-1]
    assert what_is_lost(store_url, REVISIONS[-2]) == lost[:1]
    assert all("what only this version knows" not in line for line in lost), "a migration does not say what it loses"


@pytest.mark.parametrize("revision", ["nonsense", "9999", "", "head", "0002; DROP TABLE trials"])
def test_there_is_no_way_to_a_version_that_is_not_there(store_url, revision):
    upgrade(store_url)
    with pytest.raises(
        RevisionError, match="it can go back to 0001, base" if len(REVISIONS) == 2 else "can go back to"
    ):
        downgrade(store_url, revision)
    assert schema_state(store_url).is_current


def test_there_is_no_way_back_to_where_it_is(store_url):
    upgrade(store_url, "0001")
    with pytest.raises(RevisionError, match="is where it is already, at 0001; it can go back to base"):
        downgrade(store_url, "0001")
    with pytest.raises(RevisionError, match="cannot go to '0002'"):
        downgrade(store_url, "0002")


def test_there_is_no_way_back_from_nothing(store_url):
    with pytest.raises(StoreUnavailableError, match="there is no history"):
        downgrade(store_url, "base")


def test_checks_are_still_made_after_migrations(store_url):
    """A column that is dropped must not take the checks of its table with it."""
    history_0001.fill(store_url)
    upgrade(store_url)
    from storage.models import metadata

    store = Store(store_url)
    with store.read() as connection:
        for name, table in metadata.tables.items():
            migrated = {check["name"] for check in inspect(connection).get_check_constraints(name)}
            assert migrated == {check.name for check in table.constraints if isinstance(check, CheckConstraint)}
    store.dispose()
