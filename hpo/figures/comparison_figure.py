"""How do the pairs of a comparison differ? A figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpo.decisions.comparisons import Comparisons, Row
from hpo.figures.drawing import INK, plain, save

PAIRS, INTERVAL = "#56b4e9", "#0b6e4f"
ABOVE, SCATTER = 0.24, 0.08  # of the pairs, from the middle of their row


def save_figure(comparisons: Comparisons, path: Path) -> None:
    """Draw the comparisons into a file, whose ending gives the format. Raises SettingsError."""
    save(comparison_figure(comparisons), path)


def comparison_figure(comparisons: Comparisons) -> Figure:
    """A panel for each unit; a row for each comparison: the pairs as dots, the estimate with its 95% interval."""
    units = list(dict.fromkeys(row.unit for row in comparisons.rows))
    groups = [[row for row in comparisons.rows if row.unit == unit] for unit in units]
    heights = [0.9 + 0.55 * len(group) for group in groups]
    figure = Figure(figsize=(8.5, 0.6 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, unit, group in zip(panels, units, groups, strict=True):
        _draw(panel, group, unit)
    title = f"{comparisons.sides[0]} against {', '.join(comparisons.sides[1:])}, {comparisons.metric}"
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _draw(axis: Axes, rows: list[Row], unit: str) -> None:
    axis.axvline(0.0, color=INK, lw=0.8, ls=":")
    for place, row in enumerate(reversed(rows)):
        gains = np.array([pair.gain for pair in row.pairs])
        offsets = ABOVE + SCATTER * np.sin(2.4 * np.arange(len(gains)))  # apart, and the same in every drawing
        axis.plot(gains, place + offsets, "o", color=PAIRS, ms=4.5, alpha=0.75, mec="none", zorder=2)
        if row.gain is not None:
            axis.plot([row.gain], [place], "D", color=INTERVAL, ms=6, zorder=4)
        if row.gain_interval95 is not None:
            axis.plot(row.gain_interval95, [place, place], "-", color=INTERVAL, lw=2.4, zorder=3)
    axis.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
    axis.set_ylim(-0.4, len(rows) - 0.4)
    axis.set_xlabel(plain(f"gain of {rows[0].first} ({unit}); right of 0 it is better"), fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)


def _label(row: Row) -> str:
    unit = f"n = {row.n}" if row.is_paired else f"n = {row.n}, unpaired"
    return plain(f"{row.other}\n{row.at} ({unit})")
