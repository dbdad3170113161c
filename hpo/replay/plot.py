"""How did regret fall? A picture: a line for each method, with a band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpo.replay.report import label
from hpo.replay.runs import Run
from hpo.replay.scores import KINDS, bootstrap_means, curves, methods_of

LEAST_SHOWN = 1e-3  # regret, where the axis ends at the latest
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#8c6d31")  # Okabe and Ito
TITLES = {"minmax": "min-max regret", "median": "median regret"}


def plot_curves(runs: Sequence[Run], path: Path, *, title: str) -> None:
    """Write the picture as PNG: means over tasks and 95% of a bootstrap over tasks, one panel for each regret."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for panel, kind in zip(panels, KINDS, strict=True):
        lowest = 1.0
        for number, method in enumerate(methods_of(runs)):
            tasks = curves([run for run in runs if run.method == method], kind)
            mean, trials = tasks.mean(axis=0), np.arange(1, tasks.shape[1] + 1)
            lowest = min(lowest, float(mean.min()))
            colour = COLOURS[number % len(COLOURS)]
            style = ("-", "--", ":")[number // len(COLOURS) % 3]
            panel.plot(trials, np.maximum(mean, LEAST_SHOWN / 10), style, color=colour, label=label(method), lw=1.8)
            if len(tasks) > 1:
                low, high = np.quantile(bootstrap_means(tasks), (0.025, 0.975), axis=0)
                panel.fill_between(trials, np.maximum(low, LEAST_SHOWN / 10), high, color=colour, alpha=0.13, lw=0)
        panel.set_yscale("log")
        panel.set_ylim(max(LEAST_SHOWN, lowest * 0.6), 1.05)
        panel.set_xlim(1, max(2, *(run.budget for run in runs)))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("trials")
        panel.set_title(TITLES[kind], fontsize=11)
        panel.grid(visible=True, which="both", alpha=0.2)
    panels[0].set_ylabel("mean over tasks")
    panels[1].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
