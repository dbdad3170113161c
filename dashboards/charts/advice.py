"""What did each task find good of a hyperparameter, and where is a good value advised for a new one? A chart."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from dashboards.charts.look import ACCENT, SECOND, Chart, number_axis, numbers, plain, row_height, short
from hpo.decisions.range_advice import Region

NAMED_TASKS = 40  # more cannot be read
MOST_TASKS = 120  # rows of the picture
CLEAR = "rgba(31, 157, 116, 0)"


def advice_chart(region: Region) -> Chart:
    """A row per task, dark where its values are surely good; the advised region is marked above and below them."""
    found = region.statistics
    order = np.argsort((found.good * np.arange(found.good.shape[1])).sum(1) / found.good.sum(1), kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_TASKS)).astype(int))]
    is_choice = isinstance(region.distribution, CategoricalDistribution)
    x = list(range(len(region.axis))) if is_choice else numbers(np.array(region.axis, dtype=np.float64))
    names = [plain(found.tasks[task]) for task in order]
    is_named = len(order) <= NAMED_TASKS
    return {
        "title": f"Good values of {region.name}",
        "table": {
            "columns": ["task", "share of the range that is good"],
            "rows": [[found.tasks[task], float(found.good[task].mean())] for task in order],
        },
        "data": [
            {
                "type": "heatmap",
                "x": x,
                "y": list(range(len(order))),
                "z": [numbers(row) for row in found.good[order]],
                "text": [[name] * len(x) for name in names],
                "zmin": 0,
                "zmax": 1,
                "ygap": 2,
                "colorscale": [[0, CLEAR], [1, ACCENT]],
                "showscale": False,
                "hovertemplate": "%{text}<br>%{x}: good with %{z:.0%}<extra></extra>",
            }
        ],
        "layout": {
            "height": row_height(len(order) if is_named else 16),
            "hovermode": "closest",
            "xaxis": _x_axis(region, x),
            "yaxis": {
                "tickmode": "array",
                "tickvals": list(range(len(order))) if is_named else [],
                "ticktext": [short(found.tasks[task]) for task in order] if is_named else [],
                "title": {"text": "" if is_named else f"{len(order)} tasks"},
                "automargin": True,
                "showgrid": False,
                "zeroline": False,
            },
            "shapes": _regions(region, x),
        },
    }


def _x_axis(region: Region, x: list[Any]) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": short(region.name)}, "zeroline": False}
    if isinstance(region.distribution, CategoricalDistribution):
        return axis | {"tickmode": "array", "tickvals": x, "ticktext": [short(choice) for choice in region.axis]}
    return axis | number_axis(region.distribution)


def _regions(region: Region, x: list[Any]) -> list[dict[str, Any]]:
    """The advised values, as frames around them; each run of neighbouring ones is one."""
    inside = np.flatnonzero(region.statistics.inside)
    if not len(inside):
        return []
    runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    is_choice = isinstance(region.distribution, CategoricalDistribution)
    ends = [(x[run[0]] - 0.5, x[run[-1]] + 0.5) if is_choice else (x[run[0]], x[run[-1]]) for run in runs]
    frame = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "above"}
    return [{**frame, "x0": low, "x1": high, "line": {"color": SECOND, "width": 2}} for low, high in ends]
