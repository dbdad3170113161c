"""What a cell of a table means: nothing, a number, a time, a duration, a state."""

import math
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

from optuna.trial import TrialState

from storage.importers.inference import ABSENT, repair

EMPTY = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "nat"))  # as programs write an empty cell
LONGEST_EMPTY = max(map(len, EMPTY))
UNFINISHED = "unfinished"
_WORDS: dict[TrialState | str, str] = {
    TrialState.COMPLETE: "complete completed finished finish done success succeeded successful ok passed terminated",
    TrialState.PRUNED: "pruned stopped early_stopped earlystopped",
    TrialState.FAIL: "fail failed failure error errored crash crashed killed aborted cancelled canceled diverged"
    " timeout timed_out oom preempted",
    UNFINISHED: "running run waiting queued pending scheduled started starting created new paused suspended",
}
STATES: dict[str, TrialState | str] = {word: state for state, words in _WORDS.items() for word in words.split()}

_DURATION = re.compile(r"(?:(?P<days>\d+)\s*days?,?\s*)?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d(\.\d+)?)")
_EPOCH_UNITS = ((1e8, 1e11, 1.0), (1e11, 1e14, 1e-3), (1e14, 1e17, 1e-6), (1e17, 1e20, 1e-9))  # seconds to nanoseconds


def content(cell: Any) -> Any:
    """A cell with its type; ABSENT where it is empty."""
    if isinstance(cell, str):
        word = cell.strip()
        return ABSENT if len(word) <= LONGEST_EMPTY and word.lower() in EMPTY else repair(word)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ABSENT
    return str(cell) if isinstance(cell, datetime | date | timedelta) else repair(cell)


def number(cell: Any) -> float | None:
    """The number in a cell; None where there is none. Raises ValueError where there is something else."""
    value = content(cell)
    if value is ABSENT or value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:80]!r} is no number")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{str(value)[:20]}… is too large") from None


def integer(cell: Any) -> int | None:
    """The integer in a cell that a database can hold; None where there is none."""
    value = content(cell)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def text(cell: Any) -> str | None:
    """The text in a cell as every database keeps it; None where there is none."""
    if content(cell) is ABSENT:
        return None
    return str(cell).strip().replace("\0", "").encode("utf-8", "replace").decode()


def seconds(cell: Any, factor: float = 1.0) -> float | None:
    """A duration in seconds: a number times the factor, or `1 days 02:03:04.5`; None where there is none."""
    if isinstance(cell, timedelta):
        return cell.total_seconds()
    try:
        value = number(cell)
    except ValueError:
        match = _DURATION.fullmatch(str(cell).strip())
        if match is None:
            return None
        parts = {name: float(part or 0) for name, part in match.groupdict().items() if name in _UNITS}
        return sum(part * _UNITS[name] for name, part in parts.items())
    return None if value is None or value < 0 else value * factor


_UNITS = {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}


def moment(cell: Any) -> tuple[float | None, bool]:
    """A time in seconds since the epoch, None where there is none; and whether it had no zone, and is taken as UTC.

    Understood are ISO 8601 and numbers of seconds to nanoseconds since the epoch.
    """
    if isinstance(cell, str):
        with suppress(ValueError):
            cell = datetime.fromisoformat(cell.strip())
    if isinstance(cell, datetime):
        aware = cell if cell.tzinfo is not None else cell.replace(tzinfo=UTC)
        return aware.timestamp(), cell.tzinfo is None
    try:
        value = number(cell)
    except ValueError:
        return None, False
    for low, high, factor in _EPOCH_UNITS:
        if value is not None and low <= value < high:
            return value * factor, False
    return None, False


def state(cell: Any) -> TrialState | str | None:
    """The state that a word stands for, perhaps UNFINISHED; None where there is no word. Raises ValueError."""
    word = text(cell)
    if word is None:
        return None
    found = STATES.get(re.sub(r"[\s-]+", "_", word.removeprefix("TrialState.").lower()))
    if found is None:
        raise ValueError(f"{word[:80]!r} is unknown; use complete, pruned or failed")
    return found
