"""What is each value of a hyperparameter worth, in the mean task, in a new one, and in each? Charts."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from dashboards.charts.look import (
    ACCENT,
    BAND,
    FAINT,
    INK,
    SECOND,
    WIDE_BAND,
    Chart,
    number_axis,
    numbers,
    plain,
    row_height,
    short,
)
from hpo.arrays import Array
from hpo.decisions.past_effects import PastEffects
from hpo.spaces.parameter_axes import Axis
from hpo.statistics.effects import Estimates
from hpo.statistics.importance import Importance
from hpo.statistics.random_effects import FEWEST_TASKS, LEVEL

TASKS_DRAWN = 40  # in a forest plot: more cannot be read
OUT_OF_SIGHT = 1.5  # times the heights of what is known


def curve_chart(found: PastEffects, j: int) -> Chart:
    """What each value of a parameter is worth: the mean with its 95%, that of a new task, what went along."""
    axis = found.axes.axes[j]
    traces = _choices(found, j) if axis.choices else _number(found, j)
    return {
        "title": f"What {axis.name} is worth",
        "table": _cells(found, j),
        "data": [*traces, _along(found, j)],
        "layout": {
            "xaxis": _x_axis(axis),
            "yaxis": {
                "title": {"text": unit_of(found)},
                "zeroline": True,
                "range": list(_heights(found, j, traces)),
            },
            "legend": {"orientation": "h"},
            "hovermode": "closest" if axis.choices else "x unified",
        },
    }


def _cells(found: PastEffects, j: int) -> dict[str, Any]:
    """What is told of each range, as a table."""
    start = sum(found.runs.sizes[:j])
    _, along = found.went_along
    judged = found.adjusted
    assert judged is not None
    rows = [
        [label, *map(float, (along.mean[c], judged.mean[c], *judged.interval[c], *judged.prediction[c]))]
        for c, label in enumerate(found.axes.axes[j].labels, start=start)
    ]
    columns = ["range", "went along", "adjusted", "95% from", "to", "new task: 95% from", "to"]
    return {"columns": columns, "rows": rows}


def _number(found: PastEffects, j: int) -> list[dict[str, Any]]:
    assert found.adjustment is not None
    values, coordinates = found.axes.axes[j].curve()
    x = np.array(values, dtype=np.float64)
    curve = found.adjustment.along(j, coordinates)
    traces = []
    for ends, fill, name in (
        (curve.prediction, WIDE_BAND, "95% for a new task"),
        (curve.interval, BAND, "95% for the mean"),
    ):
        known = np.isfinite(curve.mean) & np.isfinite(ends).all(axis=1)
        if known.any():
            low, high = ends[known].T
            edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "type": "scatter"}
            traces.append({**edge, "x": numbers(x[known]), "y": numbers(low), "showlegend": False})
            traces.append(
                {**edge, "x": numbers(x[known]), "y": numbers(high), "fill": "tonexty", "fillcolor": fill, "name": name}
            )
    known = np.isfinite(curve.mean)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "adjusted mean",
            "x": numbers(x[known]),
            "y": numbers(curve.mean[known]),
            "line": {"color": ACCENT, "width": 2},
            "hovertemplate": "%{y:+.2f}",
        }
    )
    return traces


def _choices(found: PastEffects, j: int) -> list[dict[str, Any]]:
    """Choices as bars: a choice comes with the parameters that depend on it, so nothing moves along a curve."""
    estimates = found.adjusted
    assert estimates is not None
    start = sum(found.runs.sizes[:j])
    cells = slice(start, start + found.runs.sizes[j])
    x, mean = np.arange(found.runs.sizes[j], dtype=np.float64) - 0.1, estimates.mean[cells]
    traces = []
    for ends, width, color, size, name in (
        (estimates.prediction[cells], 1.5, ACCENT, 3, "95% for a new task"),
        (estimates.interval[cells], 6, BAND, 7, "95% for the mean"),
    ):
        known = np.isfinite(mean) & np.isfinite(ends).all(axis=1)
        if known.any():
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": numbers(x[known]),
                    "y": numbers(mean[known]),
                    "marker": {"symbol": "square", "size": size, "color": color},
                    "error_y": _bars(mean[known], ends[known]) | {"color": color, "thickness": width, "width": 0},
                    "hoverinfo": "skip",
                }
            )
    known = np.isfinite(mean)
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "adjusted mean",
            "x": numbers(x[known]),
            "y": numbers(mean[known]),
            "marker": {"size": 9, "color": ACCENT},
            "hovertemplate": "%{y:+.2f}",
        }
    )
    return traces


def _along(found: PastEffects, j: int) -> dict[str, Any]:
    """What went along with each range, at its middle."""
    axis = found.axes.axes[j]
    _, along = found.went_along
    start = sum(found.runs.sizes[:j])
    mean = along.mean[start : start + len(axis.labels)]
    if found.raw_units:
        mean = mean - np.nanmean(found.runs.outcomes)
    known = np.isfinite(mean)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "went along with the range",
        "x": numbers(_middles(axis)[known]),
        "y": numbers(mean[known]),
        "marker": {"symbol": "diamond-open", "size": 9, "color": SECOND, "line": {"width": 2}},
        "text": [plain(label) for label, is_known in zip(axis.labels, known, strict=True) if is_known],
        "hovertemplate": "%{text}: %{y:+.2f}",
    }


def _heights(found: PastEffects, j: int, traces: list[dict[str, Any]]) -> tuple[float, float]:
    """From where to where a chart goes: what is known is in sight, and vague predictions are cut off."""
    estimates = found.adjusted
    assert estimates is not None
    start = sum(found.runs.sizes[:j])
    cells = slice(start, start + found.runs.sizes[j])
    known = np.concatenate([estimates.interval[cells].ravel(), traces[-1]["y"], [0.0]])  # the mean is drawn last
    if not found.raw_units:
        known = np.concatenate([known, found.went_along[1].mean[cells]])
    low, high = np.nanmin(known), np.nanmax(known)
    reach = max(high - low, 1e-9) * OUT_OF_SIGHT
    predicted = np.clip(estimates.prediction[cells], low - reach, high + reach)
    low, high = np.nanmin([low, *predicted.ravel()]), np.nanmax([high, *predicted.ravel()])
    room = 0.1 * max(high - low, 1e-9)
    return float(low - room), float(high + room)


# What each task says


def forest_chart(found: PastEffects, j: int, place: int) -> Chart:
    """One range of a parameter, task by task with 95% intervals, and below them the mean and a new task."""
    estimates = found.adjusted
    assert estimates is not None
    assert found.adjustment is not None
    c = sum(found.runs.sizes[:j]) + place
    of_tasks, errors = estimates.of_tasks[:, c], estimates.errors[:, c]
    known = np.flatnonzero(np.isfinite(of_tasks) & np.isfinite(errors))
    order = known[np.argsort(of_tasks[known], kind="stable")]
    drawn = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), TASKS_DRAWN)).astype(int))]
    if not len(order):
        drawn = order
    names = [found.tasks[found.adjustment.looked_at[task]] for task in drawn]
    half = 1.96 * errors[drawn]
    weight = errors[drawn].min(initial=np.inf) / errors[drawn]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "a task",
            "x": numbers(of_tasks[drawn]),
            "y": list(range(2, len(drawn) + 2)),
            "error_x": {"type": "data", "array": numbers(half), "color": FAINT, "thickness": 1.2, "width": 0},
            "marker": {"symbol": "square", "size": numbers(5 + 6 * weight), "color": INK},
            "text": [plain(name) for name in names],
            "hovertemplate": "%{text}: %{x:+.2f}<extra></extra>",
        }
    ]
    rows = [("mean", estimates.interval[c], 1)]
    if estimates.tasks[c] >= FEWEST_TASKS:
        rows.append(("a new task", estimates.prediction[c], 0))
    for name, ends, at in rows:
        if np.isfinite(ends).all():
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [float(estimates.mean[c])],
                    "y": [at],
                    "error_x": _bars(estimates.mean[[c]], ends[None])
                    | {"color": ACCENT, "thickness": 8 if at else 3, "width": 0},
                    "marker": {"symbol": "diamond", "size": 10, "color": INK},
                    "hovertemplate": f"{name}: %{{x:+.2f}}<extra></extra>",
                }
            )
    ticks = [*(at for _, _, at in reversed(rows)), *range(2, len(drawn) + 2)]
    labels = [*(name for name, _, _ in reversed(rows)), *(short(name) for name in names)]
    what = unit_of(found) if len(drawn) == len(order) else f"{unit_of(found)}; {len(drawn)} of {len(order)} tasks"
    axis = found.axes.axes[j]
    return {
        "title": f"{axis.name} {'=' if axis.choices else 'in'} {axis.labels[place]}, task by task",
        "table": {
            "columns": ["task", "effect", "95% from", "to"],
            "rows": [
                [found.tasks[found.adjustment.looked_at[task]], *map(float, (mean, mean - error, mean + error))]
                for task in order
                for mean, error in ((of_tasks[task], 1.96 * errors[task]),)
            ],
        },
        "data": traces,
        "layout": {
            "height": row_height(len(ticks)),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {
                "title": {"text": what},
                "zeroline": True,
                "range": _in_sight(estimates, c, of_tasks[drawn], half),
            },
            "yaxis": {
                "tickmode": "array",
                "tickvals": ticks,
                "ticktext": labels,
                "range": [-0.7, len(drawn) + 1.7],
                "showgrid": False,
                "zeroline": False,
                "automargin": True,
            },
        },
    }


def _in_sight(estimates: Estimates, c: int, values: Array, half: Array) -> list[float]:
    """What is far out is cut off: one task that says next to nothing must not flatten all others."""
    usual = np.minimum(half, 2.0 * np.median(half)) if len(half) else half
    ends = np.concatenate([estimates.interval[c], estimates.prediction[c], values - usual, values + usual, [0.0]])
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = 0.05 * max(high - low, 1e-9)
    return [low - room, high + room]


# Importance


def importance_chart(names: list[str], shares: Importance) -> Chart:
    """The share of the outcome's variance that each parameter explains, with its 95% interval, the largest on top."""
    order = np.argsort(shares.shares, kind="stable")
    return {
        "title": "What the outcome depends on",
        "table": {
            "columns": ["parameter", "share", "95% from", "to"],
            "rows": [
                [names[j], float(shares.shares[j]), *map(float, shares.intervals[j])] for j in reversed(order.tolist())
            ],
        },
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": "share of the variance",
                "x": numbers(shares.shares[order]),
                "y": list(range(len(order))),
                "marker": {"color": ACCENT},
                "error_x": _bars(shares.shares[order], shares.intervals[order])
                | {"color": INK, "thickness": 1.5, "width": 4},
                "text": [plain(names[j]) for j in order],
                "textposition": "none",
                "hovertemplate": "%{text}: %{x:.0%}<extra></extra>",
            }
        ],
        "layout": {
            "height": row_height(len(order)),
            "bargap": 0.5,
            "xaxis": {
                "title": {"text": f"share of the variance,<br>{LEVEL:.0%} intervals over {shares.over}"},
                "tickformat": ".0%",
                "rangemode": "tozero",
            },
            "yaxis": {
                "tickmode": "array",
                "tickvals": list(range(len(order))),
                "ticktext": [short(names[j]) for j in order],
                "automargin": True,
                "showgrid": False,
            },
        },
    }


# Axes


def unit_of(found: PastEffects) -> str:
    """What effects are measured in."""
    if found.raw_units:
        return f"units of the task, {'higher' if found.higher_is_better else 'lower'} is better"
    return "SDs, higher is better"


def _x_axis(axis: Axis) -> dict[str, Any]:
    title = {"text": short(axis.name)}
    if isinstance(axis.distribution, CategoricalDistribution):
        ticks = {"tickmode": "array", "tickvals": list(range(len(axis.labels)))}
        labels = [short(label) for label in axis.labels]
        return {"title": title, **ticks, "ticktext": labels, "range": [-0.6, len(axis.labels) - 0.4], "zeroline": False}
    return {"title": title, "zeroline": False} | number_axis(axis.distribution)


def _middles(axis: Axis) -> Array:
    if axis.choices:
        return np.arange(len(axis.labels), dtype=np.float64) + 0.15
    low, high = np.array(axis.bounds, dtype=np.float64).T
    if getattr(axis.distribution, "log", False):
        return np.asarray(np.exp((np.log(low) + np.log(high)) / 2.0))
    return np.asarray((low + high) / 2.0)


def _bars(mean: Array, ends: Array) -> dict[str, Any]:
    """Error bars from means (k,) to ends (k, 2); none where an end is unknown."""
    low, high = np.nan_to_num(mean - ends[:, 0]), np.nan_to_num(ends[:, 1] - mean)
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(np.maximum(high, 0.0)),
        "arrayminus": numbers(np.maximum(low, 0.0)),
    }
