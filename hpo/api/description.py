"""What does the API say of itself? OpenAPI 3.1, from which clients in other languages can be made.

Errors have the media type that they come with, operations the short names of their functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from hpo.api.problems import MEDIA_TYPE

PROBLEM = {"$ref": "#/components/schemas/Problem"}


def install(app: FastAPI) -> None:
    """Let the description of `app` say that errors are problem+json."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for response in _responses(described()):
                _mend(response.get("content", {}))
        return described()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way to change it


def operation_name(route: APIRoute) -> str:
    """What a client's function for it is called."""
    return route.name


def _mend(content: dict[str, Any]) -> None:
    for kind in [kind for kind, said in content.items() if said.get("schema") == PROBLEM]:
        content[MEDIA_TYPE] = content.pop(kind)
    for said in content.values():
        if said.pop("itemSchema", None) is not None:  # of OpenAPI 3.2
            said["schema"] = {"type": "string"}


def _responses(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operations in schema["paths"].values():
        for operation in operations.values():
            if isinstance(operation, dict):
                yield from operation.get("responses", {}).values()
