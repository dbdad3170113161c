"""`/audit`: who changed what by the service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from hpo.api.access import Admin, ServiceState
from hpo.api.paging import Cursor, Limit, Page, decode_cursor, encode_cursor
from hpo.api.wire_accounts import AuditRecord, record_of
from storage import audit

router = APIRouter(prefix="/audit", tags=["accounts"])


@router.get("")
def list_audit(
    admin: Admin,
    service: ServiceState,
    who: Annotated[str | None, Query(max_length=200, description="Only what this owner did.")] = None,
    action: Annotated[str | None, Query(max_length=200, description="Only this, e.g. study.pause.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AuditRecord]:
    """Every change that was made by the API or a page, the newest first."""
    before = decode_cursor(cursor, int)
    found = audit.list_entries(service.store, limit=limit + 1, before=before, action=action, who=who)
    shown = found[:limit]
    more = encode_cursor(shown[-1].entry_id) if len(found) > limit else None
    return Page(items=[record_of(entry) for entry in shown], next=more)
