"""What does the API say of itself? OpenAPI, in which errors have the media type that they come with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from hpo.api.problems import MEDIA_TYPE

JSON = "application/json"
PROBLEM = {"$ref": "#/components/schemas/Problem"}


def install(app: FastAPI) -> None:
    """Let the description of `app` say that errors are problem+json."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for response in _responses(described()):
                content = response.get("content", {})
                if content.get(JSON, {}).get("schema") == PROBLEM:
                    content[MEDIA_TYPE] = content.pop(JSON)
        return described()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way to change it


def _responses(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operations in schema["paths"].values():
        for operation in operations.values():
            if isinstance(operation, dict):
                yield from operation.get("responses", {}).values()
