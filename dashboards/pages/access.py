"""`/access`: who may use the service, and who changed what? For admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboards.frame import PageAdmin, back_to, page
from hpo.answers.tokens import token_fields
from hpo.api.access import Identity, ServiceState
from hpo.api.paging import Cursor
from hpo.api.routes import audit as audit_routes
from hpo.api.routes import tokens as token_routes
from hpo.api.wire_accounts import NewToken, Token
from hpo.service.state import Service
from storage import tokens
from storage.tokens import DEFAULT_DAYS, LEAST_DAYS, LONGEST_OWNER, MOST_DAYS, ROLES, Role

ENTRIES_SHOWN = 50

router = APIRouter()


@router.get("/access")
def get_access(
    request: Request,
    admin: PageAdmin,
    service: ServiceState,
    who: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Cursor = None,
) -> HTMLResponse:
    """The tokens, and the audit log. who, action: only what this owner did, only this."""
    return _shown(request, admin, service, who=who or None, action=action or None, cursor=cursor)


@router.post("/access/tokens")
def post_token(
    request: Request,
    admin: PageAdmin,
    service: ServiceState,
    owner: Annotated[str, Form(min_length=1, max_length=LONGEST_OWNER)],
    role: Annotated[Role, Form()],
    days: Annotated[float | None, Form(ge=LEAST_DAYS, le=MOST_DAYS, allow_inf_nan=False)] = None,
) -> HTMLResponse:
    """Make a token, and show its secret in the answer: once. days: nothing for one that lasts for ever."""
    wanted = token_routes.TokenRequest(owner=owner, role=role, days=days)
    made = token_routes.create_token(who=admin, service=service, wanted=wanted)
    return _shown(request, admin, service, made=made)


@router.post("/access/tokens/{token_id}/revoke")
def post_revoke(
    admin: PageAdmin, service: ServiceState, token_id: Annotated[int, Path(ge=1, le=2**31 - 1)]
) -> RedirectResponse:
    """End a token with its sessions."""
    token_routes.revoke_token(who=admin, service=service, token_id=token_id)
    return back_to("/access")


def _shown(
    request: Request,
    admin: Identity,
    service: Service,
    *,
    made: NewToken | None = None,
    who: str | None = None,
    action: str | None = None,
    cursor: str | None = None,
) -> HTMLResponse:
    log = audit_routes.list_audit(admin, service, who=who, action=action, limit=ENTRIES_SHOWN, cursor=cursor)
    known = [token for token in tokens.list_tokens(service.store) if token.session_of is None]
    return page(
        request,
        "access.html",
        admin,
        tokens=[Token(**token_fields(token)) for token in reversed(known)],
        made=made,
        log=log,
        asked={"who": who, "action": action},
        roles=ROLES,
        default_days=f"{DEFAULT_DAYS:g}",
        least_days=f"{LEAST_DAYS:g}",
        most_days=f"{MOST_DAYS:g}",
        longest_owner=LONGEST_OWNER,
    )
