"""Which workers there are, and what each of them trains."""

from __future__ import annotations

from subprocess import Popen
from typing import Any

from sqlalchemy import update

from hpo.service.state import Service
from storage import machines, studies
from storage.database import Store
from storage.models import machines as table
from tests.integration.service.conftest import ClientAs
from tests.integration.service.test_desk import create

FACTS: dict[str, Any] = {"host": "box", "devices": ["GPU 0"], "jobs": 2, "version": "1"}


def test_a_worker_comes_is_seen_and_leaves(store: Store) -> None:
    machines.join(store, worker="ann/w", owner="ann", **FACTS)
    (first,) = machines.list_machines(store)
    assert (first.devices, first.jobs, first.is_here, first.left_at, first.holds) == (("GPU 0",), 2, True, None, ())
    assert machines.leave(store, "ann/w")
    (left,) = machines.list_machines(store)
    assert not left.is_here
    machines.join(store, worker="ann/w", owner="ann", **{**FACTS, "jobs": 3})
    (back,) = machines.list_machines(store)
    assert (back.jobs, back.is_here, back.joined_at) == (3, True, first.joined_at)
    assert machines.see(store, "ann/w")
    assert not machines.see(store, "nobody")


def test_one_that_is_silent_is_away_by_the_databases_clock_and_comes_last(store: Store) -> None:
    for worker in ("a/silent", "b/here"):
        machines.join(store, worker=worker, owner="ann", **FACTS)
    with store.write() as connection:
        silent = update(table).where(table.c.worker == "a/silent")
        connection.execute(silent.values(seen_at=table.c.seen_at - machines.AWAY_SECONDS))
    assert [(each.worker, each.is_here) for each in machines.list_machines(store)] == [
        ("b/here", True),
        ("a/silent", False),
    ]
    assert machines.forget_silent(store) == 0
    with store.write() as connection:
        connection.execute(silent.values(seen_at=table.c.seen_at - machines.FORGOTTEN_SECONDS))
    assert machines.forget_silent(store) == 1
    assert [each.worker for each in machines.list_machines(store)] == ["b/here"]


def test_what_a_worker_trains_is_told(store: Store) -> None:
    study_id = studies.create_study(store, name="s", task="t", metric="loss")
    machines.join(store, worker="ann/w", owner="ann", **FACTS)
    claim = studies.claim_trial(store, study_id, worker="ann/w", lease_seconds=60, max_trials=None)
    assert claim is not None
    (machine,) = machines.list_machines(store)
    assert [(each.study_id, each.number, each.attempt) for each in machine.holds] == [(study_id, 0, 1)]


def test_where_somebody_may_ask_the_process_that_proposes_is_there_before(
    client_as: ClientAs, service: Service, store: Store
) -> None:
    assert not service.desk.is_awaited()
    worker = client_as("worker", "ann")
    assert service.desk.is_awaited()
    assert worker.post("/api/v1/machines", json={"worker": "w", **FACTS}).status_code == 204
    worker.post("/api/v1/machines", json={"worker": "another", **FACTS})
    (warm,) = _processes_that_propose(service)
    study_id = create(store)
    assert worker.post(f"/api/v1/studies/{study_id}/ask", json={"worker": "w"}).status_code == 200
    assert _processes_that_propose(service) == [warm]
    assert warm.poll() is None


def _processes_that_propose(service: Service) -> list[Popen[str]]:
    return [each._process for each in service.desk._proposer._processes if each._process is not None]


def test_machines_over_http(client_as: ClientAs, service: Service) -> None:
    worker, viewer = client_as("worker", "ann"), client_as("viewer")
    assert worker.post("/api/v1/machines", json={"worker": "w", **FACTS}).status_code == 204
    (record,) = viewer.get("/api/v1/machines").json()["items"]
    assert (record["worker"], record["owner"], record["host"], record["is_here"]) == ("ann/w", "ann", "box", True)
    assert worker.post("/api/v1/machines/leave", json={"worker": "w"}).status_code == 204
    assert viewer.get("/api/v1/machines", params={"here": True}).json()["items"] == []
    assert viewer.post("/api/v1/machines", json={"worker": "w", **FACTS}).status_code == 403
    assert worker.post("/api/v1/machines", json={"worker": "w", **FACTS, "jobs": 0}).status_code == 422
