"""How do trials learn? Their curves, the running ones in front, each with where it is heading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.look import FAINT, SECOND, Chart, series_colour, short, whole_ticks

MOST_REPORTS = 400  # of one curve that are drawn


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """What a trial has reported."""

    number: int
    state: str  # running, complete, pruned, ...
    points: Mapping[int, float]  # value by step
    ending: tuple[float, float, float] | None = None  # predicted at its end, and its 90% interval
    chance: float | None = None  # that it will be the best then


def learning_curves_chart(
    behind: Sequence[LearningCurve], before: Sequence[LearningCurve], *, metric: str, last_step: int | None = None
) -> Chart:
    """Some curves faintly behind, others before them in colour. last_step: where a trial usually ends."""
    traces: list[dict[str, Any]] = []
    for state, colour in (("complete", FAINT), ("pruned", SECOND)):
        members = [curve for curve in behind if curve.state == state]
        if members:
            traces.append(_together(members, state, colour))
    for place, curve in enumerate(before):
        traces += _with_forecast(curve, series_colour(place), last_step)
    return {
        "title": f"{metric} while training",
        "data": traces,
        "empty": "No trial has reported anything on the way yet.",
        "layout": {
            "xaxis": {"title": {"text": "step"}, "zeroline": False, **_steps([*behind, *before])},
            "yaxis": {"title": {"text": short(metric)}, "zeroline": False},
            "hovermode": "closest",
        },
        "summary": _summary(before),
        "table": {
            "columns": ["trial", "state", "step", metric],
            "rows": [
                [curve.number, curve.state, step, value if math.isfinite(value) else None]
                for curve in [*before, *behind]
                for step, value in curve.points.items()
            ],
        },
    }


def _steps(curves: Sequence[LearningCurve]) -> dict[str, Any]:
    """How the axis of steps is marked: only whole ones, also where there is but one."""
    steps = [step for curve in curves for step in curve.points]
    if not steps:
        return {}
    first, last = min(steps), max(steps)
    alone = {} if first < last or any(curve.ending for curve in curves) else {"range": [first - 0.5, last + 0.5]}
    return whole_ticks(last - first) | alone


def _together(members: Sequence[LearningCurve], name: str, colour: str) -> dict[str, Any]:
    """Many curves as one line with gaps: fast to draw."""
    x: list[Any] = []
    y: list[Any] = []
    text: list[Any] = []
    for curve in members:
        points = _thinned(curve.points)
        x += [*(step for step, _ in points), None]
        y += [*(value for _, value in points), None]
        text += [f"trial {curve.number}"] * (len(points) + 1)
    return {
        "type": "scatter",
        "mode": "lines" if any(len(curve.points) > 1 for curve in members) else "markers",
        "name": name,
        "x": x,
        "y": y,
        "text": text,
        "line": {"color": colour, "width": 1},
        "marker": {"color": colour, "size": 5},
        "opacity": 0.5,
        "hovertemplate": "%{text}, step %{x}: %{y:.5g}<extra></extra>",
    }


def _with_forecast(curve: LearningCurve, colour: str, last_step: int | None) -> list[dict[str, Any]]:
    points = _thinned(curve.points)
    name = f"trial {curve.number}"
    line = {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 40 else "lines",
        "name": name,
        "legendgroup": name,
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "line": {"color": colour, "width": 2.2},
        "marker": {"size": 5},
        "hovertemplate": f"{name}, step %{{x}}: %{{y:.5g}}<extra></extra>",
    }
    if curve.ending is None or not points:
        return [line]
    predicted, low, high = curve.ending
    step, value = points[-1]
    end = max(last_step or 0, step + 1)
    chance = "" if curve.chance is None else f"<br>{curve.chance:.0%} that it will be the best"
    way = {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": name,
        "showlegend": False,
        "x": [step, end],
        "y": [value, predicted],
        "line": {"color": colour, "width": 1.4, "dash": "dot"},
        "hoverinfo": "skip",
    }
    ending = {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": name,
        "showlegend": False,
        "x": [end],
        "y": [predicted],
        "error_y": {"array": [high - predicted], "arrayminus": [predicted - low], "color": colour, "thickness": 1.4},
        "marker": {"color": colour, "size": 8, "symbol": "circle-open"},
        "hovertemplate": f"{name} at its end: %{{y:.5g}}, 90% {low:.5g} … {high:.5g}{chance}<extra></extra>",
    }
    return [line, way, ending]


def _thinned(points: Mapping[int, float]) -> list[tuple[int, float | None]]:
    items = [(step, value if math.isfinite(value) else None) for step, value in points.items()]
    if len(items) <= MOST_REPORTS:
        return items
    stride = math.ceil(len(items) / MOST_REPORTS)
    return [*items[:-1:stride], items[-1]]


def _summary(before: Sequence[LearningCurve]) -> str:
    running = [curve for curve in before if curve.points]
    said = [f"trial {curve.number} is at {list(curve.points.values())[-1]:.5g}" for curve in running]
    return "; ".join(said) or "Learning curves."
