"""Which part of a traceback helps whoever wrote the model?"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from traceback import FrameSummary, StackSummary, TracebackException

OURS = Path(__file__).parents[1]
RECIPES = OURS / "recipes"  # are read like a user's code
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def is_user_code(filename: str) -> bool:
    """Whether a frame is neither ours nor a library's."""
    path = Path(filename)
    if filename.startswith("<frozen") or any(path.is_relative_to(folder) for folder in LIBRARIES):
        return False
    return path.is_relative_to(RECIPES) or not path.is_relative_to(OURS)


def format_traceback(error: BaseException) -> str:
    """The traceback without what lies between the start of the process and the user's code, or between its frames.

    What the user's code called last stays to the end, be it in a library.
    """
    exception = TracebackException.from_exception(error)
    told: TracebackException | None = exception
    while told is not None:
        told.stack = _shorten(told.stack)
        told = told.__cause__ or told.__context__
    return "".join(exception.format())


def _shorten(stack: StackSummary) -> StackSummary:
    by_user = [is_user_code(frame.filename) for frame in stack]
    if not any(by_user):
        return stack
    last = max(place for place, is_by_user in enumerate(by_user) if is_by_user)
    kept: list[FrameSummary] = [frame for place, frame in enumerate(stack) if by_user[place] or place > last]
    return StackSummary.from_list(kept)
