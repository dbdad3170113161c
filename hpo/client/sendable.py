"""What can be sent as JSON? A number that is none is sent as text; a text is cut where a service would refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

LONGEST_TEXT = 10_000  # characters of a reason or a note that a service takes
CUT = " …"


def sendable(content: Any) -> Any:
    """The same as JSON has it, at any depth: NaN and the infinities as text, NumPy's numbers as plain ones."""
    if isinstance(content, str | bool) or content is None:
        return content
    if isinstance(content, Mapping):
        return {name: sendable(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [sendable(each) for each in content]
    if isinstance(content, Integral):
        return int(content)
    return number(float(content)) if isinstance(content, Real) else content


def number(value: float) -> float | str:
    """A number; what is no finite one is told by its name."""
    return value if value - value == 0.0 else str(value)


def text(words: str) -> str:
    """The words, or as many of the first as a service takes."""
    return words if len(words) <= LONGEST_TEXT else words[: LONGEST_TEXT - len(CUT)] + CUT
