"""How long may a client take to say what it wants? Bodies have their own time (`hpo.api.bodies`); this is for heads.

Without it a client that connects and says nothing, or its request letter by letter, holds its connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0  # for the head of the first request; after an answer the server's keep-alive time holds


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on clients who do not ask."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
        """A client has come."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        has_asked = self.cycle is not None
        if not has_asked:
            self.transport.close()
