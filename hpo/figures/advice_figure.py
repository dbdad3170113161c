"""What did each task find good, and what is advised? A figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.decisions.range_advice import Advice, Region
from hpo.figures.drawing import INK, plain, save

GOOD, ADVISED = "#0b6e4f", "#e8c468"
COLUMNS = 4
FEW_DECADES = 1e2  # ranges below have ticks of their own
NAMED_TASKS = 16  # more cannot be read


def save_figure(advice: Advice, path: Path) -> None:
    """Draw the advice into a file, whose ending gives the format. Raises SettingsError."""
    save(advice_figure(advice), path)


def advice_figure(advice: Advice) -> Figure:
    """Per parameter the good sets of the tasks as bars, dark where sure, and the advised region behind them."""
    columns = min(COLUMNS, len(advice.regions))
    rows = -(-len(advice.regions) // columns)
    height = 1.1 + 0.16 * max(8, min(len(advice.tasks), 30))
    figure = Figure(figsize=(1.2 + 3.4 * columns, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, region in zip(axes.flat, advice.regions, strict=False):
        _draw(axis, region, is_named=axis in axes[:, 0])
    for axis in axes.flat[len(advice.regions) :]:
        axis.set_axis_off()
    plural = "s" if len(advice.tasks) != 1 else ""
    title = f"{advice.family}: good values of {len(advice.tasks)} task{plural} (green), advised for a new one (shaded)"
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _draw(axis: Axes, region: Region, *, is_named: bool) -> None:
    found = region.statistics
    edges = _edges(region)
    places = np.flatnonzero(found.inside)
    for place in places:
        axis.axvspan(edges[place], edges[place + 1], color=ADVISED, alpha=0.45, lw=0)
    order = np.argsort((found.good * np.arange(found.good.shape[1])).sum(1) / found.good.sum(1), kind="stable")
    colours = ListedColormap([to_rgba(GOOD, alpha) for alpha in np.linspace(0.0, 1.0, 65)])
    heights = np.sort(np.r_[np.arange(len(order)) - 0.4, np.arange(len(order)) + 0.4])
    bars = np.zeros((2 * len(order) - 1, found.good.shape[1]))  # every second row is the gap between two tasks
    bars[::2] = found.good[order]
    axis.pcolormesh(edges, heights, bars, cmap=colours, vmin=0.0, vmax=1.0, lw=0)
    axis.set_ylim(-0.7, len(order) - 0.3)
    axis.set_xlim(edges[0], edges[-1])
    if getattr(region.distribution, "log", False):
        axis.set_xscale("log")
        if edges[-1] < FEW_DECADES * edges[0]:
            ticks = np.geomspace(edges[0], edges[-1], 4)
            axis.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axis.minorticks_off()
    if isinstance(region.distribution, CategoricalDistribution):
        axis.set_xticks(range(len(region.axis)), [plain(str(choice))[:14] for choice in region.axis], rotation=30)
    axis.set_title(plain(region.name), loc="left", fontsize=10, color=INK)
    if is_named and len(order) <= NAMED_TASKS:
        axis.set_yticks(range(len(order)), [plain(found.tasks[t])[-24:] for t in order])
    else:
        axis.set_yticks([])
        if is_named:
            axis.set_ylabel(f"{len(order)} tasks", fontsize=8, color=INK)
    axis.tick_params(labelsize=7, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)


def _edges(region: Region) -> Any:
    """The borders between the values, in the units of the parameter: shape (v + 1,)."""
    distribution, count = region.distribution, len(region.axis)
    if isinstance(distribution, CategoricalDistribution):
        return np.arange(count + 1) - 0.5
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    values = np.array(region.axis, dtype=float)
    scaled = np.log(values) if distribution.log else values
    middles = (scaled[1:] + scaled[:-1]) / 2.0
    is_whole = isinstance(distribution, IntDistribution)
    first = scaled[0] - (middles[0] - scaled[0]) * (is_whole and not distribution.log)
    last = scaled[-1] + (scaled[-1] - middles[-1]) * (is_whole and not distribution.log)
    edges = np.concatenate([[first], middles, [last]])
    return np.exp(edges) if distribution.log else edges
