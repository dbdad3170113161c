"""How is an answer sent that was made as plain data, or as JSON already?"""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import Response

from hpo.answers.plain import jsonable

MEDIA_TYPE = "application/json"


def as_json(content: Any, *, status: int = 200) -> Response:
    """Plain data as JSON; what JSON cannot say (NaN, infinity) is null."""
    text = json.dumps(jsonable(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return already_json(text.encode("utf-8", "surrogatepass"), status=status)


def already_json(body: bytes, *, status: int = 200) -> Response:
    """What is JSON already."""
    return Response(body, status_code=status, media_type=MEDIA_TYPE)


def says(kind: Any, example: Any = None, *, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route that answers with plain data says of it: its type, and an example.

    The type describes the answer, and checks nothing on its way out: that it is told right, the type checker sees
    where the answer is made, and the tests where it is sent.
    """
    return {status: {"model": kind} | ({} if example is None else {"content": {MEDIA_TYPE: {"example": example}}})}


def is_file(*media_types: str, or_json: Any = None) -> dict[int | str, dict[str, Any]]:
    """What a route that answers with a file says of it. or_json: the type of what is sent where JSON is asked for."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    more = {} if or_json is None else {"model": or_json}
    return {200: {"content": content, "description": "The file.", **more}}
