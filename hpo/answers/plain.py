"""How is anything said in JSON? Without NaN and infinity, times in ISO 8601, states by their names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

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
    if isinstance(content, Mapping):
        return {str(key): jsonable(value) for key, value in content.items()}
    if isinstance(content, Iterable) and not isinstance(content, str | bytes):
        return [jsonable(value) for value in content]
    return content
