"""Are transactions whole, durable where promised, and safe among threads, forks and copies?"""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import ProgrammingError

from storage import connections
from storage.database import Store, database_now, insert_many
from storage.errors import StoreUnavailableError
from storage.models import studies, tasks
from storage.optuna_storage import HistoryStorage
from storage.statements import Statement
from storage.studies import create_study


def names(store):
    with store.read() as connection:
        return set(connection.execute(select(studies.c.name)).scalars())


def test_an_error_undoes_the_transaction(store):
    def fail():
        with store.write() as connection:
            connection.execute(insert(studies).values(name="half", directions="[]", created_at=0.0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(store) == set()


def increment(store, times):
    for _ in range(times):
        with store.write(durable=False) as connection:
            seen = connection.execute(select(studies.c.created_at).with_for_update()).scalar_one()
            connection.execute(update(studies).values(created_at=seen + 1))


def counted(store):
    with store.read() as connection:
        return connection.execute(select(studies.c.created_at)).scalar_one()


@pytest.fixture
def counter(store):
    create_study(store, name="counter")
    with store.write() as connection:
        connection.execute(update(studies).values(created_at=0.0))
    return store


def test_processes_lose_no_update(counter, in_processes):
    in_processes(lambda _: increment(counter, 100), 4)  # forked: the store must open connections of its own
    assert counted(counter) == 400


def test_threads_lose_no_update(counter):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: increment(counter, 25), range(8)))
    assert counted(counter) == 200


def test_a_reader_does_not_wait_for_a_writer(store):
    with store.write() as connection:
        connection.execute(insert(studies).values(name="unseen", directions="[]", created_at=0.0))
        assert names(store) == set()
    assert names(store) == {"unseen"}


def test_a_reader_sees_one_moment(store):
    with store.read() as connection:
        assert not connection.execute(select(studies.c.name)).all()
        create_study(store, name="later")
        assert not connection.execute(select(studies.c.name)).all()


def test_a_copy_reaches_the_same_database(store):
    create_study(store, name="shared")
    copied = pickle.loads(pickle.dumps(store))
    assert names(copied) == {"shared"}
    copied.dispose()


def test_results_wait_for_the_disk_and_the_rest_does_not(store):
    setting = "PRAGMA synchronous" if store.dialect == "sqlite" else "SHOW synchronous_commit"
    for durable, expected in [(True, {2, "on"}), (False, {1, "off"}), (True, {2, "on"})]:
        with store.write(durable=durable) as connection:
            assert connection.execute(text(setting)).scalar() in expected


def test_the_databases_clock_is_right(store):
    with store.read() as connection:
        assert abs(connection.execute(select(database_now())).scalar_one() - time.time()) < 1


def test_a_lock_has_one_holder(store):
    with store.exclusive("test", wait_seconds=0) as first:
        assert first
        with Store(store.url).exclusive("test", wait_seconds=0) as second:
            assert not second
        with store.exclusive("other", wait_seconds=0) as other:
            assert other
    with store.exclusive("test", wait_seconds=0) as again:
        assert again


def test_a_database_that_goes_away_is_named_without_its_password(sqlite_store):
    sqlite_store.path.write_bytes(b"gone" * 5000)
    sqlite_store.dispose()
    with pytest.raises(StoreUnavailableError, match=r"history\.db"):
        names(sqlite_store)


def test_the_server_may_be_restarted_meanwhile(postgresql_store):
    create_study(postgresql_store, name="before")
    with postgresql_store.write() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
    assert names(postgresql_store) == {"before"}


def test_an_address_at_which_nobody_has_ever_answered_may_be_wrong(monkeypatch):
    monkeypatch.setattr(connections, "UNKNOWN_PATIENCE_SECONDS", 0.0)
    with pytest.raises(StoreUnavailableError, match=r"://\*\*\*@localhost:1"):
        names(Store("postgresql://nobody:secret@localhost:1/history", patience_seconds=3600.0))


def test_a_copy_is_as_patient(store):
    copied = pickle.loads(pickle.dumps(Store(store.url, patience_seconds=1.5)))
    assert copied.patience_seconds == 1.5
    assert HistoryStorage(copied).patience_seconds == 1.5


def test_threads_write_and_read_at_the_same_time(store):
    create_study(store, name="shared")

    def work(index):
        create_study(store, name=str(index))
        return names(store) >= {"shared", str(index)}

    with ThreadPoolExecutor(12) as pool:  # more than there are connections that are kept open
        assert all(pool.map(work, range(40)))
    assert len(names(store)) == 41


def test_an_error_of_one_statement_is_no_error_of_the_next(store):
    for _ in range(3):
        with pytest.raises(ProgrammingError if store.dialect == "postgresql" else StoreUnavailableError):
            store.fetch(Statement(select(text("missing FROM studies"))))
        assert names(store) == set()


def test_a_path_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///history.db")
    assert store.path == tmp_path / "history.db"
    assert pickle.loads(pickle.dumps(store)).path == store.path


def test_a_password_is_not_shown():
    store = Store("postgresql://user:secret@host/name")
    assert "secret" not in repr(store)
    assert "secret" in store.url


def test_a_connection_that_breaks_while_many_rows_come_is_told_as_any(postgresql_store: Store) -> None:
    """Sealing a finished trial copies rows: a server that restarts then is waited for, as everywhere."""
    store, columns = postgresql_store, ("name", "metric", "direction", "created_at")
    rows = [("digits", "loss", "minimize", 0.0)]

    def broken() -> None:
        with store.write() as connection:
            own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with store.read() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({own})")
            insert_many(connection, tasks, columns, rows)

    with pytest.raises(StoreUnavailableError):
        broken()
    with store.write() as connection:
        insert_many(connection, tasks, columns, rows)
