"""What may a body be? Looked at before anything is made of it, so that no size, depth or number does harm.

A JSON body is read whole and checked; any other is counted while it comes.
"""

from __future__ import annotations

import asyncio
import re
from itertools import accumulate

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

MOST_BYTES = 16 * 2**20  # of a body that is not JSON: what is uploaded
MOST_JSON_BYTES = 2 * 2**20
MOST_DEPTH = 64  # lists in lists
MOST_VALUES = 100_000
MOST_DIGITS = 400  # more than the largest double has
READ_SECONDS = 30.0  # for a JSON body, or for the next part of any other
SHORT_BYTES = 2**16  # checked without a thread of its own

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_OPENS_AND_CLOSES = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_LONG_NUMBER = re.compile(rb"\d{%d}" % MOST_DIGITS)
_WITH_EXPONENT = re.compile(rb"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_NOT_A_NUMBER = re.compile(rb"NaN|Infinity")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>u[dD][89a-fA-F])|(?P<nul>u0000)|.)")


class TooLargeError(HTTPException):
    """A body of more bytes than are taken."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"the body is larger than the {most:,} bytes that are taken")


class TooSlowError(HTTPException):
    """A body that does not come."""

    def __init__(self) -> None:
        super().__init__(408, f"the rest of the body did not come within {READ_SECONDS:.0f} s")


class CutOffError(HTTPException):
    """A body whose client has gone before its end: nobody hears this, and nothing is to be made of it."""

    def __init__(self) -> None:
        super().__init__(400, "the connection ended before the whole body was here; nothing was done")


def is_json(content_type: str | None) -> bool:
    """Whether a body of that type is read as JSON."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


async def read_json(receive: Receive) -> bytes:
    """The whole body. Raises TooLargeError, TooSlowError, CutOffError."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise CutOffError
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                if size > MOST_JSON_BYTES:
                    raise TooLargeError(MOST_JSON_BYTES)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise TooSlowError from None


def again(body: bytes, receive: Receive) -> Receive:
    """`receive` as if the body came once more."""
    is_told = False

    async def tell() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return tell


def counted(receive: Receive) -> Receive:
    """`receive` that raises TooLargeError after too many bytes, and TooSlowError where the next do not come."""
    size, is_complete = 0, False

    async def read() -> Message:
        nonlocal size, is_complete
        if is_complete:
            return await receive()  # it tells that the client is gone, whenever that is
        try:
            async with asyncio.timeout(READ_SECONDS):
                message = await receive()
        except TimeoutError:
            raise TooSlowError from None
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            raise TooLargeError(MOST_BYTES)
        is_complete = not message.get("more_body", False)
        return message

    return read


async def why_not(body: bytes) -> str | None:
    """What is wrong with a JSON body, beside its syntax; None where nothing is."""
    if len(body) <= SHORT_BYTES:
        return json_fault(body)
    return await to_thread.run_sync(json_fault, body)


def json_fault(body: bytes) -> str | None:
    """The same, at once."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return "the body is not UTF-8"
    for escape in _ESCAPE.finditer(body):
        if escape["half"]:
            return "a text holds half of a surrogate pair, which is no character"
        if escape["nul"]:
            return "a text holds the character NUL"
    outside = _STRING.sub(b"", body)
    if b"\0" in body or _NOT_A_NUMBER.search(outside):
        return "the body is not JSON: it has no NUL, NaN or Infinity"
    if _depth(outside) > MOST_DEPTH:
        return f"the body is nested deeper than {MOST_DEPTH}"
    if outside.count(b",") >= MOST_VALUES:
        return f"the body holds more than {MOST_VALUES:,} values"
    if _LONG_NUMBER.search(outside) or any(_is_infinite(number) for number in _WITH_EXPONENT.findall(outside)):
        return "a number is larger than a double can be, 1.8e308"
    return None


def _depth(outside: bytes) -> int:
    steps = map(_STEPS.__getitem__, outside.translate(None, _OPENS_AND_CLOSES))
    return max(accumulate(steps), default=0)


def _is_infinite(number: bytes) -> bool:
    return abs(float(number)) == float("inf")
