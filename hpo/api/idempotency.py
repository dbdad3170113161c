"""What of a request that is sent again, because no answer came? It gets the answer of the first time.

A POST or DELETE with an `Idempotency-Key` is answered once: for a day, the same request under the same key gets that
answer again, with the header `Idempotency-Replayed`. A key counts for its token only; another request under a used key
is refused. A second one that comes while the first is being answered waits for it. Refusals that pass, such as a 503,
are not kept, and neither is an answer that holds a secret. A server that is killed forgets what it was at: then the
request is done again, and what it does is such that this does no harm.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from anyio import to_thread
from fastapi import FastAPI, Header
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpo.api import bodies
from hpo.api.access import identify
from hpo.api.problems import MEDIA_TYPE, ApiError, problem, told
from hpo.service.state import Service
from storage import replies
from storage.errors import StorageError
from storage.replies import Reply

METHODS = frozenset({"POST", "DELETE"})
HEADER, REPLAYED = "idempotency-key", "Idempotency-Replayed"
LONGEST_KEY = 200
WAIT_SECONDS = 10.0  # for an answer that is being made
CLEAN_UP_SECONDS = 3600.0
LARGEST_ANSWER = 2**20  # bytes; larger ones are not kept
PASSING = frozenset({401, 403, 408, 413, 429})  # refusals that may not be those of the next time
WITH_SECRETS = ("/tokens", "/session")  # routes whose answers are shown once

IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=LONGEST_KEY,
        description="A word of your own for this request. Send it again with the same one if no answer comes.",
    ),
]


def install(app: FastAPI, service: Service, *, prefix: str) -> None:
    """Let every POST and DELETE below `prefix` be repeated, but for those whose answers hold a secret."""
    app.add_middleware(Idempotency, service=service, prefix=prefix)


def request_name(token_id: int, key: str | None) -> str | None:
    """What the store knows a request by; None for one without a key."""
    return None if key is None else sha256(f"{token_id}/{key}".encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    token_id: int
    key: str
    request: str  # digest of all that was sent

    @property
    def name(self) -> tuple[int, str]:
        return self.token_id, self.key


class Idempotency:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, service: Service, prefix: str) -> None:
        self._app, self._store, self._prefix = app, service.store, prefix
        self._under_way: dict[tuple[int, str], asyncio.Event] = {}
        self._cleaned_up_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or give the answer that it got before."""
        key = self._key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            detail = f"header.{HEADER}: an idempotency key is a word of up to {LONGEST_KEY} printable ASCII characters"
            await problem(422, "invalid-request", detail)(scope, receive, send)
            return
        try:
            body = await _read(receive)
        except bodies.CutOffError as error:
            await told(error)(scope, receive, send)
            return
        again = bodies.again(body, receive)
        try:
            identity = await to_thread.run_sync(identify, Request(scope))
        except (ApiError, StorageError):
            await self._app(scope, again, send)  # which refuses it in its own words
            return
        asked = _Asked(token_id=identity.token.token_id, key=key, request=_digest(scope, body))
        try:
            known = await self._known(asked)
        except StorageError:
            await self._app(scope, again, send)
            return
        if known is None:
            await self._answer(asked, scope, again, send)
        else:
            await known(scope, again, send)

    def _key(self, scope: Scope) -> str | None:
        if scope["type"] != "http" or scope["method"] not in METHODS:
            return None
        path = scope["path"]
        if not path.startswith(f"{self._prefix}/") or path.removeprefix(self._prefix).startswith(WITH_SECRETS):
            return None
        key = Headers(scope=scope).get(HEADER)
        return key if key is not None and _is_offered(scope) else None

    async def _known(self, asked: _Asked) -> Response | None:
        """The answer that there is already; None where the request is to be answered now."""
        while (done := self._under_way.get(asked.name)) is not None:
            try:
                await asyncio.wait_for(done.wait(), WAIT_SECONDS)
            except TimeoutError:
                detail = "the same request is being answered just now; ask again in a moment"
                return problem(409, "request-under-way", detail, headers={"Retry-After": "1"})
        self._under_way[asked.name] = asyncio.Event()  # nobody else comes in between: nothing was awaited
        reply = None
        try:
            reply = await to_thread.run_sync(replies.recall, self._store, asked.token_id, asked.key)
        except BaseException:
            self._done(asked)
            raise
        if reply is None:
            return None
        self._done(asked)
        if reply.request != asked.request:
            detail = f"header.{HEADER}: this key was used for another request; take a new one for each"
            return problem(422, "idempotency-key-reused", detail)
        return _as_before(reply)

    async def _answer(self, asked: _Asked, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, collect)
            await self._keep(asked, messages)
        finally:
            self._done(asked)
        for message in messages:
            await send(message)

    async def _keep(self, asked: _Asked, messages: list[Message]) -> None:
        start = messages[0]
        body = b"".join(message.get("body", b"") for message in messages[1:])
        headers = Headers(raw=start["headers"])
        is_passing = start["status"] in PASSING or start["status"] >= 500 or "retry-after" in headers
        if is_passing or "set-cookie" in headers or len(body) > LARGEST_ANSWER:
            return
        reply = Reply(request=asked.request, status=start["status"], body=body.decode())
        try:
            await to_thread.run_sync(replies.keep, self._store, asked.token_id, asked.key, reply)
            if time.monotonic() - self._cleaned_up_at > CLEAN_UP_SECONDS:
                self._cleaned_up_at = time.monotonic()
                await to_thread.run_sync(replies.forget_old, self._store)
        except StorageError:
            return  # it is answered anew if it comes again

    def _done(self, asked: _Asked) -> None:
        done = self._under_way.pop(asked.name, None)
        if done is not None:
            done.set()


def _is_offered(scope: Scope) -> bool:
    """Whether there is a route for this method at this address; else the answer is a 404 or a 405, whatever the key."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


async def _read(receive: Receive) -> bytes:
    """The whole body. Raises CutOffError."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise bodies.CutOffError
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _digest(scope: Scope, body: bytes) -> str:
    method = [] if scope["method"] == "POST" else [scope["method"].encode()]  # answers of older servers have none
    about = b"\n".join([*method, scope["path"].encode(), scope["query_string"], body])
    return sha256(about).hexdigest()


def _as_before(reply: Reply) -> Response:
    is_problem = reply.status >= 400
    return Response(
        reply.body or None,
        status_code=reply.status,
        media_type=(MEDIA_TYPE if is_problem else "application/json") if reply.body else None,
        headers={REPLAYED: "true"},
    )
