"""`/machines`: the workers that pull trials, and what each of them trains."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from hpo.api.access import Reader, ServiceState, Worker
from hpo.api.paging import Cursor, Limit, Page, decode_cursor, encode_cursor
from hpo.api.routes.remote import worker_name
from hpo.api.wire_remote import JoinMachine, LeaveMachine, MachineRecord, machine_record
from storage import machines

router = APIRouter(prefix="/machines", tags=["remote work"])


@router.get("")
def list_machines(
    who: Reader,
    service: ServiceState,
    here: Annotated[bool, Query(description="Only those that were heard of in the last minute.")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[MachineRecord]:
    """The machines, those that are here first, then by when they were last heard of."""
    start = decode_cursor(cursor, int) or 0
    found = [machine for machine in machines.list_machines(service.store) if machine.is_here or not here]
    shown = found[start : start + limit] if start >= 0 else []
    more = encode_cursor(start + limit) if len(found) > start + limit else None
    return Page(items=[machine_record(machine) for machine in shown], next=more)


@router.post("", status_code=204)
def join(who: Worker, service: ServiceState, body: JoinMachine) -> None:
    """Say that a worker is there, and what it has."""
    machines.join(
        service.store,
        worker=worker_name(who, body.worker),
        owner=who.owner,
        host=body.host,
        devices=body.devices,
        jobs=body.jobs,
        version=body.version,
    )
    service.desk.get_ready()


@router.post("/leave", status_code=204)
def leave(who: Worker, service: ServiceState, body: LeaveMachine) -> None:
    """Say goodbye. The trials that it holds are given back one by one, or when their leases end."""
    machines.leave(service.store, worker_name(who, body.worker))
