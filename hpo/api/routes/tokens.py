"""`/tokens`: who may use the service. An admin makes tokens, sees them without their secrets, and revokes them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from hpo.answers.tokens import token_fields
from hpo.api.access import Admin, ServiceState
from hpo.api.paging import Cursor, Limit, Page, decode_cursor, encode_cursor
from hpo.api.wire_accounts import NewToken, Token
from storage import tokens
from storage.audit import Doer
from storage.tokens import DEFAULT_DAYS, LEAST_DAYS, MOST_DAYS, Role

SECONDS_PER_DAY = 86_400.0

router = APIRouter(prefix="/tokens", tags=["accounts"])


class TokenRequest(BaseModel):
    """For whom a token is wanted."""

    owner: Annotated[str, Field(min_length=1, max_length=100, description="A person or a machine.", examples=["ann"])]
    role: Role = Field(
        description="viewer: read; operator: launch and change studies too; admin: everything; "
        "worker: take part in studies, nothing else."
    )
    days: Annotated[
        float | None,
        Field(ge=LEAST_DAYS, le=MOST_DAYS, allow_inf_nan=False, description="Until it expires; null: never."),
    ] = DEFAULT_DAYS


@router.get("")
def list_tokens(who: Admin, service: ServiceState, limit: Limit = 100, cursor: Cursor = None) -> Page[Token]:
    """All tokens, the valid, the expired and the revoked, oldest first."""
    after = decode_cursor(cursor, int)
    found = [token for token in tokens.list_tokens(service.store) if after is None or token.token_id > after]
    shown = found[:limit]
    more = encode_cursor(shown[-1].token_id) if len(found) > limit else None
    return Page(items=[Token(**token_fields(token)) for token in shown], next=more)


@router.post("", status_code=201)
def create_token(who: Admin, service: ServiceState, wanted: TokenRequest) -> NewToken:
    """Make a token. Its secret is in this answer and nowhere else."""
    secret, token = tokens.create_token(
        service.store,
        owner=wanted.owner,
        role=wanted.role,
        created_by=who.owner,
        lifetime_seconds=None if wanted.days is None else wanted.days * SECONDS_PER_DAY,
        doer=Doer(who=who.owner, action="token.create"),
    )
    return NewToken(secret=secret, **token_fields(token))


@router.delete("/{token_id}", status_code=204)
def revoke_token(who: Admin, service: ServiceState, token_id: Annotated[int, Path(ge=1, le=2**31 - 1)]) -> None:
    """End a token, and the browser sessions that were opened with it."""
    tokens.revoke_token(service.store, token_id, doer=Doer(who=who.owner, action="token.revoke"))
