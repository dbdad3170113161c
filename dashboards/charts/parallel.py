"""Which configurations did well? Parallel coordinates: an axis for each hyperparameter, a line for each trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from dashboards.charts.look import Chart, plain
from hpo.spaces.encoding import encode_value

BINS = 6  # of the values, from the best to the worst; each is one line with gaps, and has one colour
COLOURS = ("#0b8f63", "#55ac5b", "#9dbb57", "#c9b25d", "#c39a7a", "#a3a6ad")  # the best first
MOST_TRIALS = 600  # that are drawn: the best half and a sample of the others
FEW = 200  # trials, of which the best have dots too


def parallel_chart(
    trials: Sequence[tuple[int, float, Mapping[str, Any]]],
    space: Mapping[str, BaseDistribution],
    *,
    metric: str,
    maximize: bool,
) -> Chart:
    """trials: number, value and configuration of the complete ones. space: the axes."""
    ordered = sorted(trials, key=lambda trial: (-trial[1] if maximize else trial[1], trial[0]))
    shown = _thinned(ordered)
    names = list(space)
    return {
        "title": f"Configurations by {metric}",
        "data": [*_lines(shown, space, metric), _axes_trace(names)] if shown and names else [],
        "empty": "No trial has been completed yet.",
        "layout": {
            "xaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": [plain(name) for name in names],
                "side": "top",
                "showgrid": True,
                "zeroline": False,
                "range": [-0.25, len(names) - 0.6],
            },
            "yaxis": {"visible": False, "range": [-0.06, 1.06]},
            "legend": {"orientation": "h", "y": -0.02, "yanchor": "top"},
            "margin": {"l": 24, "r": 24, "t": 36, "b": 20},
            "annotations": [note for at, name in enumerate(names) for note in _ticks(at, space[name])],
            "hovermode": "closest",
        },
        "summary": f"{len(shown)} of {len(ordered)} complete trials over {len(names)} hyperparameters.",
        "table": {
            "columns": ["trial", metric, *names],
            "rows": [
                [number, value, *(_cell(params.get(name)) for name in names)] for number, value, params in ordered
            ],
        },
    }


def _thinned(ordered: Sequence[Any]) -> list[Any]:
    if len(ordered) <= MOST_TRIALS:
        return list(ordered)
    best, rest = ordered[: MOST_TRIALS // 2], ordered[MOST_TRIALS // 2 :]
    places = np.linspace(0, len(rest) - 1, MOST_TRIALS - len(best)).astype(np.intp)
    return [*best, *(rest[place] for place in places)]


def _lines(shown: Sequence[Any], space: Mapping[str, BaseDistribution], metric: str) -> list[dict[str, Any]]:
    """The worst first, so that the best lie above."""
    groups = [list(part) for part in np.array_split(np.arange(len(shown)), min(BINS, len(shown)))]
    traces = []
    for group in reversed(range(len(groups))):
        x: list[Any] = []
        y: list[Any] = []
        text: list[Any] = []
        for place in groups[group]:
            number, value, params = shown[place]
            for at, (name, distribution) in enumerate(space.items()):
                x.append(at)
                y.append(_place(distribution, params[name]) if name in params else None)
                text.append(
                    f"trial {number}: {plain(metric)} {value:.5g}<br>{plain(name)} = {plain(_cell(params.get(name)))}"
                )
            x.append(None)
            y.append(None)
            text.append("")
        first, last = shown[groups[group][0]][1], shown[groups[group][-1]][1]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if group == 0 and len(shown) <= FEW else "lines",
                "name": f"{first:.4g} … {last:.4g}" if len(groups[group]) > 1 else f"{first:.4g}",
                "x": x,
                "y": y,
                "text": text,
                "line": {"color": COLOURS[group], "width": 2.0 if group == 0 else 1.0},
                "marker": {"size": 4},
                "opacity": 0.95 if group == 0 else 0.45,
                "hovertemplate": "%{text}<extra></extra>",
                "legendrank": group,
            }
        )
    return traces


def _axes_trace(names: Sequence[str]) -> dict[str, Any]:
    x = [each for at in range(len(names)) for each in (at, at, None)]
    y = [each for _ in names for each in (0.0, 1.0, None)]
    line = {"color": "rgba(124, 133, 148, 0.55)", "width": 1}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip", "showlegend": False}


def _place(distribution: BaseDistribution, value: Any) -> float | None:
    """Between 0 and 1."""
    coordinate = encode_value(distribution, value)
    if not math.isfinite(coordinate):
        return None
    if isinstance(distribution, CategoricalDistribution):
        return coordinate / max(len(distribution.choices) - 1, 1)
    return float(np.clip(coordinate, 0.0, 1.0))


def _ticks(at: int, distribution: BaseDistribution) -> list[dict[str, Any]]:
    if isinstance(distribution, CategoricalDistribution):
        values = list(distribution.choices)
    else:
        low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
        values = [low, high]
    note = {"x": at, "showarrow": False, "xanchor": "left", "xshift": 6, "yshift": 8, "font": {"size": 10}}
    return [
        note | {"y": place, "text": plain(_cell(value))}
        for value in values
        if (place := _place(distribution, value)) is not None
    ]


def _cell(value: Any) -> Any:
    return (
        float(f"{value:.4g}")
        if isinstance(value, float)
        else value
        if value is None
        else str(value)
        if not isinstance(value, int)
        else value
    )
