"""What does one objective cost in terms of the others? A figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpo.figures.drawing import INK, plain, save
from hpo.studies.front import Front, Objective, Point

ON_FRONT, BEATEN = "#0b6e4f", "#b9bec6"
DECADE = 10.0  # of a positive objective that spans more, the logarithm is drawn
MOST_LABELS = 12  # numbers of trials in a panel


def save_figure(front: Front, path: Path) -> None:
    """Draw a front into a file, whose ending gives the format. Raises SettingsError."""
    save(front_figure(front), path)


def front_figure(front: Front) -> Figure:
    """A panel for each further objective, against the first: trials on the front in colour, the beaten ones grey."""
    others = range(1, len(front.objectives))
    figure = Figure(figsize=(1.2 + 4.6 * len(others), 4.6), layout="constrained")
    panels = figure.subplots(1, len(others), squeeze=False)[0]
    for panel, other in zip(panels, others, strict=True):
        _draw(panel, front, other)
    count = len(front.points) + len(front.beaten)
    title = f"{front.study}: {len(front.points)} of {count} trials are beaten by no other"
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _draw(axis: Axes, front: Front, other: int) -> None:
    axis.plot(*_places(front.beaten, other), "o", color=BEATEN, ms=4.5, mec="none", zorder=2)
    x, y = _places(front.points, other)
    if len(front.objectives) == 2:
        _draw_steps(axis, front, x, y)
    axis.plot(x, y, "o", color=ON_FRONT, ms=6.5, mec="white", mew=0.7, zorder=4)
    for place in _labelled(len(front.points)):
        point = front.points[place]
        axis.annotate(
            str(point.number),
            (point.values[other], point.values[0]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    everything = [*front.points, *front.beaten]
    _scale(axis.set_xscale, [point.values[other] for point in everything])
    _scale(axis.set_yscale, [point.values[0] for point in everything])
    axis.set_xlabel(_label(front.objectives[other]), fontsize=9, color=INK)
    axis.set_ylabel(_label(front.objectives[0]), fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)


def _places(points: Sequence[Point], other: int) -> tuple[list[float], list[float]]:
    return [point.values[other] for point in points], [point.values[0] for point in points]


def _draw_steps(axis: Axes, front: Front, x: Sequence[float], y: Sequence[float]) -> None:
    """The edge of what is reached: from a point, one objective gets worse before the other gets better."""
    order = np.argsort(x)
    where: Literal["post", "pre"] = "post" if front.objectives[1].direction == "minimize" else "pre"
    axis.step(np.asarray(x)[order], np.asarray(y)[order], where=where, color=ON_FRONT, lw=1.2, alpha=0.7, zorder=3)


def _labelled(count: int) -> list[int]:
    """Places of the points that are labelled, evenly, the ends among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, MOST_LABELS))})


def _scale(set_scale: object, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > DECADE * min(values):
        set_scale("log")  # type: ignore[operator]


def _label(objective: Objective) -> str:
    better = "smaller is better" if objective.direction == "minimize" else "larger is better"
    return plain(f"{objective.metric} ({better})")
