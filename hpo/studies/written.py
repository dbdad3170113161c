"""How may parts of a study file be written in short? Said in its JSON schema, as editors and other programs read it.

The types of `hpo.studies.spec` say what is meant; their validators also take a text, or leave out what a recipe brings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

JsonSchema = dict[str, Any]


@dataclass(frozen=True)
class Or:
    """Besides the type that it annotates, this may be written."""

    other: tuple[tuple[str, Any], ...]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Either of them."""
        return {"anyOf": [handler(core), dict(self.other)]}


OR_TEXT = Or((("type", "string"),))  # a class by its import path, a pruner by its name, ...
OR_FALSE = Or((("const", False),))  # YAML's `off`
OR_MACRO = Or((  # see `hpo.spaces.space_macros`
    ("type", "object"),
    ("properties", {"type": {"enum": ["optimizer", "schedule"]}, "choices": {"items": {"type": "string"}}}),
    ("required", ["type"]),
))  # fmt: skip


def needs_only(*keys: str) -> Callable[[JsonSchema], None]:
    """Of the keys of a section only these must be in the file: a recipe, or another key, brings the others."""

    def change(schema: JsonSchema) -> None:
        schema["required"] = list(keys)

    return change
