"""Figures as pure functions: arrays in, a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

COLD, HISTORY, INK = "#8a8f98", "#0b6e4f", "#22252a"


@dataclass(frozen=True, kw_only=True)
class RacePanel:
    """One task, tuned without and with history, once per seed."""

    title: str
    cold: NDArray[np.float64]  # (seeds, trials) loss of the incumbent after each trial; NaN before the first success
    history: NDArray[np.float64]  # (seeds, trials)


def race_figure(panels: Sequence[RacePanel], *, loss_name: str) -> Figure:
    """The incumbent's loss over trials, cold against history: the median over seeds, the band from best to worst."""
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_race(axis, panel)
    axes[0].set_ylabel(f"best {loss_name} so far", color=INK)
    axes[-1].legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def _draw_race(axis: Axes, panel: RacePanel) -> None:
    trials = np.arange(1, panel.cold.shape[1] + 1)
    for curves, colour, label in ((panel.cold, COLD, "cold"), (panel.history, HISTORY, "with history")):
        axis.fill_between(trials, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, lw=0, step="post")
        axis.step(trials, np.median(curves, axis=0), where="post", color=colour, lw=2, label=label)
    axis.axhline(float(np.median(panel.cold[:, -1])), color=INK, lw=0.8, ls=":", label="what cold reaches")
    axis.set_title(panel.title, loc="left", fontsize=11, color=INK)
    axis.set_xlabel("trials", color=INK)
    axis.set_xlim(1, trials[-1])
    axis.set_yscale("log")
    for tickers in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        tickers(StrMethodFormatter("{x:.2g}"))
    axis.tick_params(which="both", labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
