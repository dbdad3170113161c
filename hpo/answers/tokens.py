"""A token in JSON: everything but its secret."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from storage.tokens import Token


def token_fields(token: Token) -> dict[str, Any]:
    """Its fields by name, as `hpo tokens list --json` prints them and the API gives them."""
    return {
        "id": token.token_id,
        "owner": token.owner,
        "role": token.role,
        "hint": token.hint,
        "created_by": token.created_by,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "used_at": token.used_at,
        "is_valid": token.is_valid(now=datetime.now(UTC)),
    }
