"""Each scenario on a small scale: does the history keep its promises when everything around it fails?"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.measured import Figure, table
from tests.postgresql import database, postgresql_server
from tests.reliability import (
    backups,
    checkpoints,
    claims,
    first_start,
    full_disk,
    imports,
    kills,
    ranks,
    restarts,
    server_kills,
)
from tests.reliability.places import Place, sqlite_place


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "SQLite":
        return sqlite_place(tmp_path)
    server_url = request.getfixturevalue("postgresql_server")
    return Place(kind="PostgreSQL", fresh=lambda: database(server_url))


def keeps_its_promises(figures: list[Figure]) -> bool:
    """All but those of time, which belong to the full form on a quiet machine."""
    print(table(figures))
    return all(figure.is_met for figure in figures if figure.unit != "s")


def test_claims(place: Place) -> None:
    assert keeps_its_promises(claims.run(place, processes=8, trials=100))


def test_kills(place: Place) -> None:
    assert keeps_its_promises(kills.run(place, trials=60, kills=12, workers=4))


def test_restarts() -> None:
    with postgresql_server() as server:
        place = Place(kind="PostgreSQL", fresh=lambda: database(server.url), restart=server.restart)
        assert keeps_its_promises(
            restarts.run(place, trials=16, workers=4, seconds_between=(0.5, 1.5), step_seconds=0.2)
        )


def test_first_start(place: Place) -> None:
    assert keeps_its_promises(first_start.run(place, processes=8, rounds=2))


def test_imports(place: Place) -> None:
    assert keeps_its_promises(imports.run(place, runs=500, imports=3, processes=2, kills=3))


def test_full_disk() -> None:
    assert keeps_its_promises(full_disk.run(trials=60, outages=2))


def test_backups(place: Place) -> None:
    assert keeps_its_promises(backups.run(place, writers=2, backups=1, seconds_between=0.5))


@pytest.mark.usefixtures("warm_templates")
def test_ranks(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    assert keeps_its_promises(ranks.prune(place, count=4, ranks=2, seed=1))
    assert keeps_its_promises(ranks.attack(place, signal.SIGKILL, count=2, strategy="parameter_server", seed=1))


@pytest.mark.usefixtures("warm_templates")
def test_checkpoints() -> None:
    assert keeps_its_promises(checkpoints.run(kills=4, weights_bytes=2**21))


def test_server_kills(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    assert keeps_its_promises(server_kills.run(place, kills=3, workers=8, seconds_between=(0.0, 1.0), step_seconds=0.2))
