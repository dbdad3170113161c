"""How do studies, configurations or methods compare? Charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards.charts.look import (
    ACCENT,
    INK,
    SECOND,
    Chart,
    numbers,
    plain,
    row_height,
    series_colour,
    short,
    translucent,
    whole_ticks,
)
from hpo.decisions.comparisons import Row
from hpo.decisions.study_courses import SideCourse

REGRETS = {"minmax": "min-max regret", "median": "median regret"}
ABOVE, SCATTER = 0.24, 0.08  # of the pairs, from the middle of their row


def course_chart(sides: Sequence[SideCourse], *, metric: str) -> Chart:
    """The incumbent of each side after each finished trial; of several runs the mean with its 95% interval."""
    traces: list[dict[str, Any]] = []
    for place, side in enumerate(sides):
        colour = series_colour(place)
        x = list(range(1, len(side.mean) + 1))
        if side.interval is not None:
            known = np.flatnonzero(np.isfinite(side.interval).all(axis=1))
            edge: dict[str, Any] = {"type": "scatter", "mode": "lines", "line": {"width": 0, "shape": "hv"}}
            edge |= {"x": [x[at] for at in known], "showlegend": False, "legendgroup": str(place), "hoverinfo": "skip"}
            traces.append({**edge, "y": numbers(side.interval[known, 0])})
            fill = {"fill": "tonexty", "fillcolor": translucent(colour)}
            traces.append({**edge, **fill, "y": numbers(side.interval[known, 1])})
        runs = "" if side.runs == 1 else f" ({side.runs} runs)"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{short(side.name)}{runs}",
                "legendgroup": str(place),
                "x": x,
                "y": numbers(side.mean),
                "line": {"color": colour, "width": 2, "shape": "hv", "dash": "solid" if place < 6 else "dash"},
                "hovertemplate": "%{y:.4g}",
            }
        )
    longest = max(len(side.mean) for side in sides)
    return {
        "title": "The best so far",
        "table": {
            "columns": ["finished trials", *(side.name for side in sides)],
            "rows": [
                [at + 1, *(float(side.mean[at]) if at < len(side.mean) else None for side in sides)]
                for at in range(longest)
            ],
        },
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "finished trials"}, "zeroline": False, **whole_ticks(longest)},
            "yaxis": {"title": {"text": f"best {short(metric)} so far"}, "zeroline": False},
            "legend": {"orientation": "h"},
            "hovermode": "x unified",
        },
    }


def gain_chart(rows: Sequence[Row]) -> Chart:
    """A row for each comparison: its pairs as dots, the estimate with its 95% interval; all of one unit."""
    shown = list(reversed(rows))
    dots: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for at, row in enumerate(shown):
        gains = np.array([pair.gain for pair in row.pairs])
        dots["x"] += numbers(gains)
        dots["y"] += numbers(at + ABOVE + SCATTER * np.sin(2.4 * np.arange(len(gains))))  # apart, always the same way
        dots["text"] += [plain(pair.label) for pair in row.pairs]
    told = [(at, row) for at, row in enumerate(shown) if row.gain is not None]
    means = [row.gain or 0.0 for _, row in told]
    ends = [row.gain_interval95 or (mean, mean) for (_, row), mean in zip(told, means, strict=True)]
    return {
        "title": f"Gain of {rows[0].first}",
        "table": {
            "columns": ["against", "at", "pairs", "gain", "95% from", "to", "p", "p after Holm"],
            "rows": [
                [row.other, row.at, row.n, row.gain, *(row.gain_interval95 or (None, None)), row.p, row.p_holm]
                for row in rows
            ],
        },
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "a pair",
                **dots,
                "marker": {"color": SECOND, "size": 6, "opacity": 0.7},
                "hovertemplate": "%{text}: %{x:+.3g}<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "name": "gain, 95%",
                "x": means,
                "y": [at for at, _ in told],
                "marker": {"symbol": "diamond", "color": ACCENT, "size": 10},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
                    "arrayminus": [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
                    "color": ACCENT,
                    "thickness": 3,
                    "width": 0,
                },
                "hovertemplate": "%{x:+.3g}<extra></extra>",
            },
        ],
        "layout": {
            "height": row_height(2 * len(shown)),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {
                "title": {
                    "text": f"gain of {short(rows[0].first)}<br>({short(rows[0].unit)}), right of 0 it is better"
                },
                "zeroline": True,
                "rangemode": "tozero",
            },
            "yaxis": {
                "tickmode": "array",
                "tickvals": list(range(len(shown))),
                "ticktext": [f"{short(row.other)}<br>{plain(row.at)}" for row in shown],
                "range": [-0.6, len(shown) - 0.4],
                "showgrid": False,
                "zeroline": False,
                "automargin": True,
            },
        },
    }


def regret_chart(overall: Sequence[Mapping[str, Any]], *, kind: str) -> Chart:
    """The mean regret of each method of a replay after so many trials. overall: as a replay's report has it."""
    traces = []
    for place, score in enumerate(overall):
        regret = score["regret"][kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(score["method"]),
                "x": [int(at) for at in regret],
                "y": list(regret.values()),
                "line": {"color": series_colour(place), "width": 2},
                "hovertemplate": "%{y:.3f}",
            }
        )
    longest = max((max(trace["x"], default=0) for trace in traces), default=0)
    return {
        "title": f"Mean {kind} regret",
        "table": {
            "columns": ["method", "trials", "regret"],
            "rows": [
                [score["method"], int(at), regret] for score in overall for at, regret in score["regret"][kind].items()
            ],
        },
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "trials"}, "zeroline": False, **whole_ticks(longest)},
            "yaxis": {"title": {"text": f"{REGRETS[kind]}, lower is better"}, "rangemode": "tozero"},
            "legend": {"orientation": "h"},
            "hovermode": "x unified",
        },
    }


def difference_chart(comparisons: Sequence[Mapping[str, Any]], *, kind: str, at: int) -> Chart:
    """Each method's regret less the baseline's after so many trials, with 95% intervals over tasks."""
    found = [
        (each["method"], one)
        for each in reversed(comparisons)
        for one in each["differences"]
        if one["kind"] == kind and one["at"] == at
    ]
    means = [one["mean"] for _, one in found]
    ends = [one["interval95"] or (one["mean"], one["mean"]) for _, one in found]
    baseline = short(comparisons[0]["baseline"])
    return {
        "title": f"Against {comparisons[0]['baseline']}",
        "table": {
            "columns": ["method", "difference", "95% from", "to", "p after Holm"],
            "rows": [
                [method, one["mean"], *(one["interval95"] or (None, None)), one["p_holm"]] for method, one in found
            ],
        },
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": means,
                "y": list(range(len(found))),
                "marker": {"symbol": "diamond", "color": ACCENT, "size": 10},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
                    "arrayminus": [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
                    "color": INK,
                    "thickness": 2,
                    "width": 0,
                },
                "hovertemplate": "%{x:+.3f}<extra></extra>",
            }
        ],
        "layout": {
            "height": row_height(2 * len(found)),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {
                "title": {
                    "text": f"{REGRETS[kind]} after {at} trials,<br>less that of {baseline}; right of 0 is worse"
                },
                "zeroline": True,
            },
            "yaxis": {
                "tickmode": "array",
                "tickvals": list(range(len(found))),
                "ticktext": [short(method) for method, _ in found],
                "range": [-0.6, len(found) - 0.4],
                "showgrid": False,
                "automargin": True,
            },
        },
    }
