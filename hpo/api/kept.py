"""How is content described that is told as it was kept? By its type, which nothing checks on the way out.

What an older version has kept, or somebody's own program, is told all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

from hpo.studies.spec import StudySpec
from hpo.tuning.receipts import KeptReceipt


@dataclass(frozen=True)
class _KeptAs:
    kind: Any

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(TypeAdapter(self.kind).core_schema)


StudyFile: TypeAlias = Annotated[dict[str, Any], _KeptAs(StudySpec)]
"""The content of a study file, as it was written."""

Receipt: TypeAlias = Annotated[dict[str, Any], _KeptAs(KeptReceipt)]
"""Why a trial was proposed, as it was kept with it."""
