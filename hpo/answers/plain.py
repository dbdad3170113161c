"""How is anything said in JSON? Without NaN and infinity, times in ISO 8601, states by their names, types by fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from optuna.trial import TrialState

Number: TypeAlias = float | None
"""A number as it is sent: None where it was none, or is not known."""

_AS_THEY_ARE = frozenset({str, int, bool})


def jsonable(content: Any) -> Any:
    """The content as JSON can say it; what it cannot say (NaN, infinity) is None."""
    if content is None or type(content) in _AS_THEY_ARE:
        return content
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, datetime):
        return content.isoformat()
    if isinstance(content, TrialState):
        return content.name
    if isinstance(content, Path):
        return str(content)
    if is_dataclass(content) and not isinstance(content, type):
        return {each.name: jsonable(getattr(content, each.name)) for each in fields(content)}
    if isinstance(content, Mapping):
        return {str(key): jsonable(value) for key, value in content.items()}
    if isinstance(content, Iterable) and not isinstance(content, str | bytes):
        return [jsonable(value) for value in content]
    return content
