"""How do pages say numbers, times and amounts? The filters of the templates."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from optuna.trial import TrialState

from dashboards.controls import on_page
from hpo.answers.plain import jsonable
from hpo.cli import show

NOTHING, MINUS = "–", "−"


def number(value: float | None) -> str:
    """Four significant digits."""
    return show.number(value).replace("-", MINUS) if value is not None and math.isfinite(value) else NOTHING


def amount(value: float | None) -> str:
    """As `number`, but large whole numbers in full."""
    return show.amount(value).replace("-", MINUS) if value is not None and math.isfinite(value) else NOTHING


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    return NOTHING if seconds is None else show.duration(seconds)


def percent(share: float | None) -> str:
    """`0.034` as `3.4%`; as many digits as tell it from nothing and from all."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{share:.1%}" if 0 < abs(share) < 0.1 or 0.99 < share < 1 else f"{share:.0%}"


def interval(bounds: tuple[float, float] | None) -> str:
    """`0.12 … 0.34`."""
    return "" if bounds is None else f"{number(bounds[0])} … {number(bounds[1])}"


def moment(time: datetime | None) -> Markup:
    """A time that a script turns into the reader's own; without one it is UTC."""
    if time is None:
        return Markup(NOTHING)
    utc = time.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), utc.strftime("%Y-%m-%d %H:%M:%S UTC"), utc.strftime("%Y-%m-%d %H:%M")
    )


def ago(time: datetime | None, *, now: datetime | None = None) -> str:
    """`5 min ago`."""
    if time is None:
        return NOTHING
    seconds = ((now or datetime.now(UTC)) - time).total_seconds()
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return "just now"


def count(number_of: int, one: str, many: str | None = None) -> str:
    """`1 trial`, `1,200 trials`."""
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}"


def configuration(params: Mapping[str, Any]) -> Markup:
    """A configuration on one line, names lighter than values."""
    parts = [
        Markup('<span class="param"><span class="quiet">{}</span> {}</span>').format(name, value_text(value))
        for name, value in params.items()
    ]
    return Markup(" ").join(parts)


def running(counts: Mapping[TrialState, int]) -> int:
    """How many trials run."""
    return counts[TrialState.RUNNING]


def value_text(value: Any) -> str:
    """A hyperparameter's value."""
    return show.number(value) if isinstance(value, float) else str(value)


def memory(size: int | None) -> str:
    """Bytes as `1.2 GB`; nothing for nothing."""
    if size is None:
        return ""
    power = min(max(int(math.log10(max(size, 1)) // 3), 0), 4)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def only(params: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Some of the hyperparameters."""
    return {name: params[name] for name in names if name in params}


def hyper_column(column: tuple[str, str]) -> tuple[str, str, bool, str]:
    """A column of `parts.table` for a hyperparameter: its name, and the field that it is ordered by."""
    name, field = column
    return name, name, True, field


def objective_column(objective: Mapping[str, str]) -> tuple[str, str, bool, None]:
    """A column of `parts.table` for an objective."""
    return objective["metric"], f"{objective['metric']} ({objective['direction']})", True, None


def data(content: Any) -> Markup:
    """JSON for a script to read, safe inside HTML."""
    text = json.dumps(jsonable(content), ensure_ascii=False)
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(safe)  # nothing in it can end a script or begin a tag


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "amount": amount,
    "duration": duration,
    "percent": percent,
    "interval": interval,
    "moment": moment,
    "ago": ago,
    "count": count,
    "configuration": configuration,
    "value_text": value_text,
    "running": running,
    "only": only,
    "memory": memory,
    "hyper_column": hyper_column,
    "objective_column": objective_column,
    "shell": shlex.quote,
    "data": data,
    "on_page": on_page,
}
