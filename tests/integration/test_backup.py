"""Does a backup hold everything, from one moment, and does bringing it back replace nothing unasked?"""

import shutil
import sqlite3
import subprocess
import sys
import threading

import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from storage import backup as module
from storage import schema
from storage.backup import backup, examine, restore
from storage.database import Store
from storage.errors import BackupError, SchemaTooNewError, StoreUnavailableError
from storage.models import metadata
from storage.schema import open_store
from storage.studies import claim_trial, create_study, finish_trial
from tests import history_0001
from tests.filled import content, fill

ROW = text("INSERT INTO tasks (name, metric, direction, created_at) VALUES (:name, 'loss', 'minimize', 0)")


@pytest.fixture
def filled(store):
    fill(store)
    return store


@pytest.fixture
def saved(sqlite_store, tmp_path):
    """A backup, and what it must hold."""
    fill(sqlite_store)
    backup(sqlite_store, tmp_path / "saved.db")
    return tmp_path / "saved.db", content(sqlite_store)


@pytest.fixture
def target_url(request, tmp_path):
    """The URL of an empty database of either kind, beside the one that is saved."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'target.db'}"
    return request.getfixturevalue("postgresql_url")


both_targets = pytest.mark.parametrize("target_url", ["sqlite", "postgresql"], indirect=True)


def opened(url):
    store = open_store(url, upgrade=False)
    try:
        return content(store)
    finally:
        store.dispose()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def left_beside(path):
    return [name for name in names_in(path.parent) if "draft" in name]


@both_targets
def test_a_history_moves_whole_between_databases_of_either_kind(filled, target_url, tmp_path):
    saved = backup(filled, tmp_path / "saved.db")
    restored = restore(saved.path, target_url)
    assert opened(target_url) == content(filled)
    assert restored.kept is None
    assert restored.contents.rows == saved.rows == {name: len(rows) for name, rows in content(filled).items()}
    assert left_beside(saved.path) == []


@both_targets
def test_ids_that_were_given_are_not_given_again(filled, target_url, tmp_path):
    expected = create_study(filled, name="next")
    assert expected > max(row[0] for row in content(filled)["studies"][:-1]) + 1  # a study had been deleted
    with filled.write() as connection:
        connection.execute(text("DELETE FROM studies WHERE name = 'next'"))
    backup(filled, tmp_path / "saved.db")
    restore(tmp_path / "saved.db", target_url)
    store = open_store(target_url)
    assert create_study(store, name="next", task="new task", metric="new") == expected + 1
    store.dispose()


def test_live_work_goes_on_in_what_was_brought_back(saved, postgresql_url):
    restore(saved[0], postgresql_url)
    store = open_store(postgresql_url)
    claim = claim_trial(store, 1, worker="new", lease_seconds=60, max_trials=None)
    finish_trial(store, claim, state=TrialState.COMPLETE, value=0.05)
    store.dispose()


def test_a_backup_shows_one_moment_and_nobody_waits_for_it(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGES_AT_A_TIME", 1)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 1)
    before = content(filled)
    told = []

    def write_meanwhile(share):
        with filled.write() as connection:  # from here, so that it would wait for ever
            connection.execute(ROW, {"name": f"meanwhile {len(told)}"})
        told.append(share)

    backup(filled, tmp_path / "saved.db", progress=write_meanwhile)
    assert len(told) > 20
    assert told == sorted(told) and told[-1] == 1.0
    assert opened(f"sqlite:///{tmp_path / 'saved.db'}") == before
    assert len(content(filled)["tasks"]) == len(before["tasks"]) + len(told)


def test_under_load_every_transaction_is_in_it_as_a_whole_or_not_at_all(store, tmp_path, in_processes):
    """Each transaction makes two rows that belong together."""
    stop = tmp_path / "stop"

    def write_or_save(index):
        own = Store(store.url)
        if index == 3:
            try:
                return [backup(own, tmp_path / f"saved-{number}.db").rows["tasks"] for number in range(3)]
            finally:
                stop.touch()
        number = 0
        while not stop.exists() or number < 5:
            with own.write(durable=False) as connection:
                for half in ("a", "b"):
                    connection.execute(ROW, {"name": f"{index} {number} {half}"})
            number += 1
        return []

    counts = in_processes(write_or_save, 4)[3]
    assert counts == sorted(counts)
    for number, count in enumerate(counts):
        rows = {row[1] for row in opened(f"sqlite:///{tmp_path / f'saved-{number}.db'}")["tasks"]}
        assert len(rows) == count
        halves = [{name[:-2] for name in rows if name.endswith(half)} for half in ("a", "b")]
        assert halves[0] == halves[1]


def test_a_backup_is_one_file_that_can_be_read_where_nothing_may_be_written(filled, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    backup(filled, folder / "saved.db")
    assert names_in(folder) == ["saved.db"]
    assert (folder / "saved.db").read_bytes()[18:20] == b"\x01\x01"  # no write-ahead log belongs to it
    with sqlite3.connect(f"file:{folder / 'saved.db'}?immutable=1", uri=True) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (len(content(filled)["trials"]),)
    connection.close()
    examine(folder / "saved.db")
    assert names_in(folder) == ["saved.db"]


def test_a_backup_can_be_used_as_a_history(saved):
    path, rows = saved
    assert opened(f"sqlite:///{path}") == rows


def test_a_file_that_is_there_is_overwritten_only_by_force(filled, tmp_path):
    path = tmp_path / "saved.db"
    path.write_text("an old one")
    with pytest.raises(BackupError, match=r"is there already.*--force"):
        backup(filled, path)
    assert path.read_text() == "an old one"
    backup(filled, path, force=True)
    assert examine(path).rows["studies"] == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [(".", "is a folder"), ("no/such/folder.db", "There is no folder"), ("history.db", "is the history itself")],
)
def test_where_a_backup_cannot_be(sqlite_store, tmp_path, name, reason):
    fill(sqlite_store)
    before = content(sqlite_store)
    with pytest.raises(BackupError, match=reason):
        backup(sqlite_store, tmp_path / name, force=True)
    assert content(sqlite_store) == before


def test_a_history_that_is_not_there_or_too_new_is_not_saved(store_url, tmp_path):
    store = Store(store_url)
    with pytest.raises(StoreUnavailableError, match="there is no history"):
        backup(store, tmp_path / "saved.db")
    open_store(store_url).dispose()
    with store.write() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(SchemaTooNewError):
        backup(store, tmp_path / "saved.db")
    store.dispose()
    assert not (tmp_path / "saved.db").exists()


def test_a_damaged_history_does_not_replace_a_good_backup(saved, sqlite_store):
    path, rows = saved
    sqlite_store.dispose()
    damaged = bytearray(sqlite_store.path.read_bytes())
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    sqlite_store.path.write_bytes(damaged)
    with pytest.raises((BackupError, StoreUnavailableError), match=r"damaged|malformed"):
        backup(sqlite_store, path, force=True)
    assert opened(f"sqlite:///{path}") == rows
    assert left_beside(path) == []


def test_no_room_for_a_backup(filled, small_disk):
    with pytest.raises(BackupError, match=r"no room left|No space left"):
        backup(filled, small_disk / "saved.db")
    assert names_in(small_disk) == []
    assert content(filled)["studies"]


# Bringing back


def refill(url):
    """A history with one study, which differs from what is brought back."""
    store = open_store(url)
    create_study(store, name="precious", task="other", metric="loss")
    store.dispose()
    return opened(url)


@both_targets
def test_what_is_there_is_replaced_only_by_force(saved, target_url):
    path, rows = saved
    there = refill(target_url)
    with pytest.raises(BackupError, match=r"holds 1 studies.*\n.*--force"):
        restore(path, target_url)
    assert opened(target_url) == there
    restored = restore(path, target_url, force=True)
    assert opened(target_url) == rows
    if target_url.startswith("sqlite"):
        assert opened(f"sqlite:///{restored.kept}") == there
    store = open_store(target_url)
    assert create_study(store, name="more") not in {row[0] for row in rows["studies"]}
    store.dispose()


@both_targets
def test_an_empty_history_may_be_filled(saved, target_url):
    path, rows = saved
    open_store(target_url).dispose()
    restore(path, target_url)
    assert opened(target_url) == rows


def test_what_was_written_last_is_kept_with_the_file_that_is_replaced(saved, tmp_path):
    """The write-ahead log is a part of what is there, and not of what comes."""
    path, rows = saved
    url = f"sqlite:///{tmp_path / 'target.db'}"
    there = refill(url)
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('UPDATE studies SET name = ?', ['late']);"
        "c.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "target.db")], check=True)
    assert (tmp_path / "target.db-wal").stat().st_size > 0
    restored = restore(path, url, force=True)
    assert opened(url) == rows
    assert [row[1] for row in opened(f"sqlite:///{restored.kept}")["studies"]] == ["late"] != [there["studies"][0][1]]


def test_a_file_that_others_have_open_is_not_taken_from_under_them(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_USE_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'target.db'}"
    there = refill(url)
    other = open_store(url)
    with pytest.raises(StoreUnavailableError, match="other processes have it open"):
        restore(saved[0], url, force=True)
    assert content(other) == there
    create_study(other, name="still there")
    other.dispose()
    restore(saved[0], url, force=True)
    assert opened(url) == saved[1]


def test_workers_on_a_server_wait_and_then_see_what_was_brought_back(saved, postgresql_url):
    path, rows = saved
    refill(postgresql_url)
    store = open_store(postgresql_url)
    with store.read() as connection:
        connection.execute(text("SELECT count(*) FROM studies"))
        restoring = threading.Thread(target=restore, args=(path, postgresql_url), kwargs={"force": True})
        restoring.start()
        assert connection.scalar(text("SELECT count(*) FROM studies")) == 1
    restoring.join()
    assert content(store) == rows
    store.dispose()


def test_a_damaged_file_is_replaced_by_force_and_kept(saved, tmp_path):
    path, rows = saved
    target = tmp_path / "target.db"
    target.write_bytes(b"torn" * 5_000)
    url = f"sqlite:///{target}"
    with pytest.raises(BackupError, match=r"something that cannot be read.*\n.*--force"):
        restore(path, url)
    restored = restore(path, url, force=True)
    assert opened(url) == rows
    assert restored.kept.read_bytes() == b"torn" * 5_000


def test_tables_of_another_program_are_not_replaced_unasked(saved, tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute('CREATE TABLE "latest ""metrics" (a)')
    connection.close()
    with pytest.raises(BackupError, match="tables of another program"):
        restore(saved[0], f"sqlite:///{tmp_path / 'mlflow.db'}")


def torn(path):
    content = bytearray(path.read_bytes())
    content[-8192:] = b"\xaa" * 8192
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10_000])


def orphaned(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM studies WHERE id = 1")
    connection.close()


def indexes_lost(path):
    """An index that does not say what its table says."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '(source)', '(name)') WHERE name = 'ix_studies_source'"
        )
    connection.close()


@pytest.mark.parametrize("target_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (torn, "malformed|damaged"),
        (cut, "malformed|damaged"),
        (orphaned, "belongs to a row of studies that is not there"),
        (indexes_lost, "damaged: .*ix_studies_source"),
        (lambda path: path.write_text("no database" * 1_000), "file is not a database"),
        (lambda path: path.write_bytes(b""), "there is no history in it"),
        (lambda path: path.unlink(), "There is no file"),
    ],
    ids=["torn", "cut", "orphaned", "indexes lost", "text", "empty", "missing"],
)
def test_a_damaged_backup_changes_nothing(saved, target_url, damage, reason):
    path, _ = saved
    there = refill(target_url)
    damage(path)
    with pytest.raises(BackupError, match=reason) as refused:
        restore(path, target_url, force=True)
    assert len(str(refused.value).splitlines()) == 1
    assert opened(target_url) == there
    assert left_beside(path) == []


def test_a_damaged_backup_changes_nothing_on_a_server_either(saved, postgresql_url):
    there = refill(postgresql_url)
    orphaned(saved[0])
    with pytest.raises(BackupError, match="belongs to a row of studies that is not there"):
        restore(saved[0], postgresql_url, force=True)
    assert opened(postgresql_url) == there


def test_a_database_of_another_program_is_no_backup(tmp_path, sqlite_url):
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE albums (a)")
    connection.close()
    with pytest.raises(BackupError, match="there is no history in it"):
        restore(tmp_path / "other.db", sqlite_url)


def test_the_history_is_no_backup_of_itself(sqlite_store):
    with pytest.raises(BackupError, match="is the history itself"):
        restore(sqlite_store.path, sqlite_store.url, force=True)


def test_a_copy_that_was_made_by_hand_is_a_backup_too(sqlite_store, tmp_path):
    """With the log beside it, which nobody has put into the file yet."""
    fill(sqlite_store)
    for suffix in ("", "-wal"):
        shutil.copy(f"{sqlite_store.path}{suffix}", f"{tmp_path / 'copy.db'}{suffix}")
    restore(tmp_path / "copy.db", f"sqlite:///{tmp_path / 'target.db'}")
    assert opened(f"sqlite:///{tmp_path / 'target.db'}") == content(sqlite_store)


def test_a_row_that_the_other_database_cannot_hold_changes_nothing(sqlite_store, postgresql_url, tmp_path):
    create_study(sqlite_store, name="nul \0 in a name")
    backup(sqlite_store, tmp_path / "saved.db")
    there = refill(postgresql_url)
    with pytest.raises(BackupError, match=r"A row of studies does not go into PostgreSQL: .*NUL"):
        restore(tmp_path / "saved.db", postgresql_url, force=True)
    assert opened(postgresql_url) == there


@both_targets
def test_an_older_backup_is_upgraded_on_its_way(tmp_path, target_url):
    expected = history_0001.fill(f"sqlite:///{tmp_path / 'old.db'}")
    store = Store(f"sqlite:///{tmp_path / 'old.db'}")
    saved = backup(store, tmp_path / "saved.db")
    store.dispose()
    assert saved.revision == "0001"
    restore(saved.path, target_url)
    assert history_0001.trials(target_url) == expected
    assert examine(saved.path).revision == "0001"


def test_an_older_history_is_saved_as_it_is(store_url, tmp_path):
    expected = history_0001.fill(store_url)
    store = Store(store_url)
    assert backup(store, tmp_path / "saved.db").revision == "0001"
    store.dispose()
    schema.upgrade(f"sqlite:///{tmp_path / 'saved.db'}")
    assert history_0001.trials(f"sqlite:///{tmp_path / 'saved.db'}") == expected


@both_targets
def test_a_newer_backup_is_refused(saved, target_url):
    path, _ = saved
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    connection.close()
    with pytest.raises(SchemaTooNewError, match="pip install --upgrade hindsight-hpo"):
        restore(path, target_url)
    assert schema.schema_state(target_url).current is None


def test_every_table_has_something_in_it(sqlite_store):
    """Otherwise the tests above would say nothing about it."""
    fill(sqlite_store)
    rows = content(sqlite_store)
    assert set(rows) == set(metadata.tables)
    assert [name for name in rows if not rows[name]] == []
