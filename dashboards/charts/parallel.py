"""Which configurations did well? Parallel coordinates: an axis for each hyperparameter, a line for each trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from dashboards.charts.look import Chart, plain, short
from hpo.spaces.encoding import encode_value

COLOURS = ("#0b8f63", "#4a9e50", "#7f9a38", "#ac9138", "#b98a66", "#8f939b")  # the best first
MOST_TRIALS = 600  # that are drawn: the best half and a sample of the others
FEW = 200  # trials, of which the best have dots too
ALL_NAMES, SHORTEST, LONGEST, VALUE = 110, 9, 20, 16  # letters: of all names, of each at least and at most, of a choice
FEW_TICKS = 4  # of the scale of colours, that have room on a phone


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
    groups = _groups([value for _, value, _ in shown])
    names = list(space)
    return {
        "title": f"Configurations by {metric}",
        "data": [
            *_lines(shown, groups, space, metric),
            _axes_trace(names),
            *_scale(shown, groups, metric, len(ordered)),
        ]
        if shown and names
        else [],
        "empty": "No trial has been completed yet.",
        "layout": {
            "xaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": [short(name, min(max(SHORTEST, ALL_NAMES // len(names)), LONGEST)) for name in names],
                "side": "top",
                "showgrid": True,
                "zeroline": False,
                "range": [-0.25, len(names) - 0.5],
            },
            "yaxis": {"visible": False, "range": [-0.06, 1.06]},
            "showlegend": False,
            "margin": {"l": 24, "r": 24, "t": 36, "b": 40},
            "annotations": [note for at, name in enumerate(names) for note in _ticks(at, space[name])],
            "hovermode": "closest",
        },
        "summary": f"{what_is_drawn(len(ordered))} Over {len(names)} hyperparameters.",
        "table": {
            "columns": ["trial", metric, *names],
            "rows": [[number, value, *(_cell(params.get(name)) for name in names)] for number, value, params in shown],
        },
    }


def what_is_drawn(complete: int) -> str:
    """Of so many complete trials, in words."""
    if complete <= MOST_TRIALS:
        return "A line for each complete trial."
    best = MOST_TRIALS // 2
    return f"Of {complete:,} complete trials the best {best}, and {MOST_TRIALS - best} others from best to worst."


def _thinned(ordered: Sequence[Any]) -> list[Any]:
    if len(ordered) <= MOST_TRIALS:
        return list(ordered)
    best, rest = ordered[: MOST_TRIALS // 2], ordered[MOST_TRIALS // 2 :]
    places = np.linspace(0, len(rest) - 1, MOST_TRIALS - len(best)).astype(np.intp)
    return [*best, *(rest[place] for place in places)]


def _groups(values: Sequence[float]) -> list[range]:
    """Places of about equally many trials that share a colour, the best first; equal values are not parted."""
    starts = [0, *(at for at in range(1, len(values)) if values[at] != values[at - 1]), len(values)]
    wanted = np.linspace(0, len(values), len(COLOURS) + 1)
    ends = {starts[place] for place in np.searchsorted(starts, wanted)}
    return [range(first, last) for first, last in pairwise(sorted(ends))]


def _colours(groups: Sequence[range]) -> list[str]:
    """As many colours as groups, from the best to the worst."""
    return [COLOURS[place] for place in np.linspace(0, len(COLOURS) - 1, len(groups)).round().astype(np.intp)]


def _lines(
    shown: Sequence[Any], groups: Sequence[range], space: Mapping[str, BaseDistribution], metric: str
) -> list[dict[str, Any]]:
    """A line with gaps for each group; the worst first, so that the best lie above."""
    traces = []
    for group, colour in reversed(list(enumerate(_colours(groups)))):
        x: list[Any] = []
        y: list[Any] = []
        text: list[Any] = []
        for place in groups[group]:
            number, value, params = shown[place]
            for at, (name, distribution) in enumerate(space.items()):
                x.append(at)
                y.append(_height(distribution, params[name]) if name in params else None)
                text.append(
                    f"trial {number}: {plain(metric)} {value:.5g}<br>{plain(name)} = {plain(_cell(params.get(name)))}"
                )
            x.append(None)
            y.append(None)
            text.append("")
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if group == 0 and len(shown) <= FEW else "lines",
                "x": x,
                "y": y,
                "text": text,
                "line": {"color": colour, "width": 2.0 if group == 0 else 1.0},
                "marker": {"size": 4},
                "opacity": 0.95 if group == 0 else 0.55,
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return traces


def _scale(shown: Sequence[Any], groups: Sequence[range], metric: str, complete: int) -> list[dict[str, Any]]:
    """Which values each colour has: a bar of the groups, the best at the left, with the values between them."""
    if len(groups) < 2:
        return []  # all came to the same
    count = len(groups)
    ends = [f"{shown[place][1]:.4g}" for place in (*(group[0] for group in groups), len(shown) - 1)]
    told = [at for at in range(0, count + 1, 2 if count > FEW_TICKS else 1) if at == 0 or ends[at] != ends[at - 1]]
    steps = [[place / count, colour] for at, colour in enumerate(_colours(groups)) for place in (at, at + 1)]
    sample = "" if len(shown) == complete else f"; {len(shown)} of {complete:,} trials"
    bar = {
        "orientation": "h",
        "thickness": 8,
        "len": 0.9,
        "y": -0.03,
        "yanchor": "top",
        "outlinewidth": 0,
        "ticks": "",
        "tickvals": told,
        "ticktext": [ends[at] for at in told],
        "tickangle": 0,
        "title": {"text": f"{short(metric)}, the best first{sample}", "side": "bottom", "font": {"size": 11}},
    }
    marker = {"colorscale": steps, "cmin": 0, "cmax": count, "color": [0], "showscale": True, "colorbar": bar}
    return [{"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip", "marker": marker}]


def _axes_trace(names: Sequence[str]) -> dict[str, Any]:
    x = [each for at in range(len(names)) for each in (at, at, None)]
    y = [each for _ in names for each in (0.0, 1.0, None)]
    line = {"color": "rgba(124, 133, 148, 0.55)", "width": 1}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip"}


def _height(distribution: BaseDistribution, value: Any) -> float | None:
    """Where a value lies on its axis, between 0 and 1, as exactly as can be seen; None where it has no place there."""
    place = _place(distribution, value)
    return None if place is None else round(place, 4)


def _place(distribution: BaseDistribution, value: Any) -> float | None:
    """As `_height`, exactly."""
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
        note | {"y": place, "text": short(_cell(value), VALUE)}
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
