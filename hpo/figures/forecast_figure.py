"""How will a study's best value move with its trials, and its hours? A figure of the forecast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpo.decisions.forecast import Estimate, Forecast
from hpo.figures.drawing import INK, plain, save

CURVE = "#0072b2"


def save_figure(forecast: Forecast, path: Path) -> None:
    """Draw the forecast into a file, whose ending gives the format. Raises SettingsError."""
    save(forecast_figure(forecast), path)


def forecast_figure(forecast: Forecast) -> Figure:
    """The value over the trials with its band, and below it the hours with theirs; what is not known is left out."""
    has_hours = any(stage.hours is not None for stage in forecast.stages)
    figure = Figure(figsize=(7.2, 5.6 if has_hours else 3.9), layout="constrained")
    if has_hours:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    else:
        upper, lower = figure.subplots(1, 1), None
    trials = np.array([stage.trials for stage in forecast.stages])
    is_metric = forecast.scale == "metric"
    _draw(upper, trials, [stage.value if is_metric else stage.way for stage in forecast.stages])
    what = f"{forecast.metric} ({forecast.direction})" if is_metric else "share of the way to the best known"
    upper.set_ylabel(plain(what))
    if upper.get_legend_handles_labels()[0]:
        corner = "upper right" if is_metric and forecast.direction == "minimize" else "lower right"
        upper.legend(frameon=False, fontsize=9, loc=corner)
    if lower is not None:
        hours = [stage.hours for stage in forecast.stages]
        is_short = max(each.expected for each in hours if each is not None) < 1.0
        _draw(lower, trials, hours, factor=60.0 if is_short else 1.0)
        lower.set_ylabel("minutes" if is_short else "hours")
        lower.set_ylim(bottom=0.0)
    (lower or upper).set_xlabel("trials")
    (lower or upper).xaxis.set_major_locator(MaxNLocator(integer=True))
    count = len(forecast.tasks)
    title = f"{forecast.study}: foretold from {count} past task{'' if count == 1 else 's'}"
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _draw(axis: Axes, trials: np.ndarray, estimates: list[Estimate | None], factor: float = 1.0) -> None:
    known = [Estimate(expected=np.nan) if each is None else each for each in estimates]
    expected = factor * np.array([each.expected for each in known])
    low = factor * np.array([np.nan if each.low is None else each.low for each in known])
    high = factor * np.array([np.nan if each.high is None else each.high for each in known])
    marker = "o" if len(trials) == 1 else None
    axis.plot(trials, expected, color=CURVE, lw=1.8, marker=marker, label="expected")
    if np.isfinite(low).any():
        axis.fill_between(trials, low, high, color=CURVE, alpha=0.16, lw=0, label="95% of new tasks")
    elif not np.isfinite(expected).any():
        axis.text(0.5, 0.5, "not enough to say", transform=axis.transAxes, ha="center", va="center", color=INK)
    axis.grid(visible=True, alpha=0.2)
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
