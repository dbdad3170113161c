"""What is expected along one hyperparameter of a study, or over two? With intervals, and the trials beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from dashboards.charts.look import ACCENT, BAND, INK, SECOND, Chart, plain, short, whole_ticks
from hpo.decisions.study_surface import Plane, Slice

MOST_POINTS = 300  # trials of each kind that are drawn, the latest: a browser takes a millisecond for each
SCALE = [[0.0, "#0b6e4f"], [0.35, "#5fb492"], [0.7, "#c9d8b6"], [1.0, "#e8dcc0"]]  # from the best to the worst

Tried = tuple[int, str, float, Mapping[str, Any]]  # number, state, value, configuration


def slice_chart(found: Slice, tried: Sequence[Tried], distribution: BaseDistribution, *, metric: str) -> Chart:
    """One hyperparameter: the expectation with its 95% interval; behind it every trial, wherever its others were."""
    name = found.parameter
    is_choice = isinstance(distribution, CategoricalDistribution)
    x = [plain(value) for value in found.values] if is_choice else found.values
    return {
        "title": f"{metric} along {name}",
        "data": [*_tried(tried, name, is_choice=is_choice), *(_bars(x, found) if is_choice else _curve(x, found))],
        "layout": {
            "xaxis": {"title": {"text": short(name)}, "zeroline": False, **_axis(distribution)},
            "yaxis": {"title": {"text": short(metric)}, "zeroline": False, **_range(found, tried)},
            "hovermode": "closest",
        },
        "summary": f"What {metric} is expected to be along {name}, all others as at the best.",
        "table": {
            "columns": [name, f"expected {metric}", "95% low", "95% high"],
            "rows": [list(row) for row in zip(x, found.expected, found.low, found.high, strict=True)],
        },
    }


def plane_chart(
    found: Plane, tried: Sequence[Tried], distributions: Sequence[BaseDistribution], *, metric: str, maximize: bool
) -> Chart:
    """Two hyperparameters: the expectation as lines of equal height, half its 95% interval at the pointer."""
    across, up = (
        [_told(value, of) for value in values] for values, of in zip(found.values, distributions, strict=True)
    )
    half = [
        [(high - low) / 2 for low, high in zip(*row, strict=True)] for row in zip(found.low, found.high, strict=True)
    ]
    first, second = found.parameters
    points = [each for each in tried if first in each[3] and second in each[3]][-MOST_POINTS:]
    return {
        "title": f"{metric} over {first} and {second}",
        "data": [
            {
                "type": "contour" if not any(map(_is_choice, distributions)) else "heatmap",
                "x": across,
                "y": up,
                "z": found.expected,
                "customdata": half,
                "colorscale": SCALE,
                "reversescale": maximize,
                "opacity": 0.9,
                "colorbar": {"thickness": 10, "outlinewidth": 0, "title": {"text": short(metric), "side": "right"}},
                "hovertemplate": f"{plain(first)} %{{x}}<br>{plain(second)} %{{y}}<br>"
                f"{plain(metric)} %{{z:.5g}} ± %{{customdata:.3g}}<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "name": "trials",
                "x": [_told(each[3][first], distributions[0]) for each in points],
                "y": [_told(each[3][second], distributions[1]) for each in points],
                "text": [f"trial {number}: {value:.5g}" for number, _, value, _ in points],
                "marker": {"color": "#22252a", "size": 5, "opacity": 0.75, "line": {"color": "#ffffff", "width": 0.7}},
                "hovertemplate": "%{text}<extra></extra>",
                "showlegend": False,
            },
        ],
        "layout": {
            "xaxis": {"title": {"text": short(first)}, **_axis(distributions[0])},
            "yaxis": {"title": {"text": short(second)}, **_axis(distributions[1])},
            "hovermode": "closest",
        },
        "summary": f"What {metric} is expected to be over {first} and {second}, all others as at the best.",
        "table": {
            "columns": [first, second, f"expected {metric}", "95% low", "95% high"],
            "rows": [
                [across[i], up[j], found.expected[j][i], found.low[j][i], found.high[j][i]]
                for j in range(len(up))
                for i in range(len(across))
            ],
        },
    }


def _curve(x: list[Any], found: Slice) -> list[dict[str, Any]]:
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "x": x}
    return [
        {**edge, "y": found.low},
        {**edge, "y": found.high, "fill": "tonexty", "fillcolor": BAND, "showlegend": True, "name": "95%"},
        {
            "type": "scatter",
            "mode": "lines",
            "name": "expected",
            "x": x,
            "y": found.expected,
            "customdata": [list(ends) for ends in zip(found.low, found.high, strict=True)],
            "line": {"color": ACCENT, "width": 2.2},
            "hovertemplate": "%{x}: %{y:.5g}, 95% %{customdata[0]:.5g} … %{customdata[1]:.5g}<extra></extra>",
        },
    ]


def _bars(x: list[Any], found: Slice) -> list[dict[str, Any]]:
    above = [high - middle for high, middle in zip(found.high, found.expected, strict=True)]
    below = [middle - low for middle, low in zip(found.expected, found.low, strict=True)]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "expected, 95%",
            "x": x,
            "y": found.expected,
            "error_y": {"array": above, "arrayminus": below, "color": ACCENT, "thickness": 2},
            "marker": {"color": ACCENT, "size": 10},
            "hovertemplate": "%{x}: %{y:.5g}<extra></extra>",
        }
    ]


def _tried(tried: Sequence[Tried], name: str, *, is_choice: bool) -> list[dict[str, Any]]:
    traces = []
    for state, colour, symbol in (("complete", INK, "circle"), ("pruned", SECOND, "x-thin-open")):
        members = [each for each in tried if each[1] == state and name in each[3]][-MOST_POINTS:]
        if members:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": state,
                    "x": [plain(each[3][name]) if is_choice else each[3][name] for each in members],
                    "y": [each[2] for each in members],
                    "text": [f"trial {each[0]}" for each in members],
                    "marker": {"color": colour, "size": 6, "opacity": 0.5, "symbol": symbol, "line": {"width": 1.2}},
                    "hovertemplate": "%{text}: %{y:.5g} at %{x}<extra></extra>",
                }
            )
    return traces


def _range(found: Slice, tried: Sequence[Tried]) -> dict[str, Any]:
    """The expectation in sight, whatever a few trials came to."""
    values = sorted(each[2] for each in tried)
    if len(values) < 10:
        return {}
    low, high = values[len(values) // 20], values[-1 - len(values) // 20]
    bottom, top = min(low, values[0], *found.expected), max(high, *found.expected)
    if values[0] < low - 3 * (high - low):
        bottom = min(low, *found.expected)
    room = 0.06 * (top - bottom)
    return {"range": [bottom - room, top + room]} if top > bottom else {}


def _axis(distribution: BaseDistribution) -> dict[str, Any]:
    if _is_choice(distribution):
        return {"type": "category"}
    if getattr(distribution, "log", False):
        return {"type": "log", "dtick": 1, "exponentformat": "power"}
    return whole_ticks(distribution.high - distribution.low) if isinstance(distribution, IntDistribution) else {}


def _told(value: Any, distribution: BaseDistribution) -> Any:
    return plain(value) if _is_choice(distribution) else value


def _is_choice(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, CategoricalDistribution)
