"""Does every database get the right tables, once, and is a wrong one refused?"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, create_engine, inspect, text

from storage import schema
from storage.errors import SchemaOutdatedError, SchemaTooNewError, StoreUnavailableError
from storage.models import metadata
from storage.schema import VERSION_TABLE, downgrade, open_store, schema_state, upgrade
from storage.studies import create_study

NEXT_MIGRATION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9999", "0004"
def upgrade(): op.create_table("later", sa.Column("id", sa.Integer(), primary_key=True))
def downgrade(): op.drop_table("later")
"""


@pytest.fixture
def next_version(tmp_path, monkeypatch):
    """A context in which the program is one version further."""
    folder = shutil.copytree(schema._migrations(), tmp_path / "migrations")
    (folder / "versions" / "9999_later.py").write_text(NEXT_MIGRATION)

    def enter():
        monkeypatch.setattr(schema, "_migrations", lambda: folder)
        return monkeypatch

    return enter


def test_migrations_and_models_are_the_same(store):
    with store.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []


def test_check_constraints_are_the_same(store):
    with store.read() as connection:
        for name, table in metadata.tables.items():
            migrated = {check["name"] for check in inspect(connection).get_check_constraints(name)}
            assert migrated == {c.name for c in table.constraints if isinstance(c, CheckConstraint)}


def test_up_down_up_on_a_filled_database(store_url):
    store = open_store(store_url)
    create_study(store, name="first", task="digits", metric="val_loss", space={"lr": {"type": "float"}})
    store.dispose()
    downgrade(store_url, "base")
    assert schema_state(store_url).current is None
    upgrade(store_url)
    assert schema_state(store_url).is_current
    create_study(open_store(store_url), name="first")


def test_eight_processes_start_on_an_empty_database(store_url, in_processes):
    def start(index):
        return create_study(open_store(store_url), name=f"study {index}", task="digits", metric="val_loss")

    assert sorted(in_processes(start, 8)) == list(range(1, 9))


def test_threads_may_start_different_histories_at_once(tmp_path):
    urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(8)]
    with ThreadPoolExecutor(len(urls)) as pool:
        assert all(store.path.exists() for store in pool.map(open_store, urls))


def test_an_older_schema_is_refused_until_it_is_upgraded(store_url, next_version):
    open_store(store_url).dispose()
    next_version()
    with pytest.raises(SchemaOutdatedError, match="hpo db upgrade --storage"):
        open_store(store_url)
    assert schema_state(store_url).current == "0004"
    upgrade(store_url)
    open_store(store_url).dispose()


def test_a_newer_schema_is_refused(store_url, next_version):
    patched = next_version()
    open_store(store_url).dispose()
    patched.undo()
    for use in (open_store, upgrade):
        with pytest.raises(SchemaTooNewError, match="pip install --upgrade hindsight-hpo"):
            use(store_url)


def test_an_empty_database_stays_empty_without_permission(store_url):
    with pytest.raises(StoreUnavailableError, match="there is no history in this database"):
        open_store(store_url, upgrade=False)
    assert schema_state(store_url).current is None


def test_looking_does_not_create_the_file(tmp_path):
    assert schema_state(f"sqlite:///{tmp_path / 'new.db'}").current is None
    assert not list(tmp_path.iterdir())


def test_another_programs_tables_are_not_touched(store_url):
    engine = create_engine(schema.Store(store_url).url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE trials (id INTEGER)"))
    engine.dispose()
    with pytest.raises(StoreUnavailableError, match="another program's tables"):
        open_store(store_url)


@pytest.mark.parametrize(
    ("table", "owner"), [("latest_metrics", "MLflow"), ("study_directions", "Optuna"), ("albums", "another program")]
)
def test_a_file_of_another_program_is_refused_and_a_server_is_shared(sqlite_url, postgresql_url, table, owner):
    for url in (sqlite_url, postgresql_url):
        engine = create_engine(schema.Store(url).url)
        with engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE {table} (id INTEGER)"))
        engine.dispose()
    for use in (open_store, upgrade):
        with pytest.raises(StoreUnavailableError, match=rf"{owner}'s tables are there already \({table}\). Use a file"):
            use(sqlite_url)
    open_store(postgresql_url).dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:////nowhere/at/all/history.db", "there is no folder /nowhere/at/all"),
        ("history.db", "not a database URL"),
        ("mysql://user:secret@host/name", "'mysql' is not supported"),
        ("postgresql://user:secret@127.0.0.1:9/name", "refused"),
    ],
)
def test_what_cannot_be_opened_says_why_in_few_lines(url, reason):
    with pytest.raises(StoreUnavailableError, match=reason) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 8


def test_a_file_that_is_no_database(tmp_path):
    path = Path(tmp_path / "notes.db")
    path.write_text("Not a database, but long enough to look like one. " * 100)
    with pytest.raises(StoreUnavailableError, match="file is not a database"):
        open_store(f"sqlite:///{path}")
