"""What is each value of a hyperparameter worth, in the mean task and in a new one? Figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes as Panel
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.arrays import Array
from hpo.decisions.past_effects import PastEffects
from hpo.errors import SettingsError
from hpo.figures.drawing import INK, plain, save
from hpo.spaces.parameter_axes import Axis
from hpo.statistics.effects import Estimates
from hpo.statistics.random_effects import FEWEST_TASKS

ADJUSTED, ALONG, FAINT = "#0b6e4f", "#c98a1b", "#9aa0a6"
COLUMNS = 4
TASKS_DRAWN = 30  # in a forest plot: more cannot be read
NAME_LENGTH = 28
OUT_OF_SIGHT = 1.5  # times the heights of what is known
FEW_DECADES = 1e2  # ranges below have ticks of their own


def save_figure(found: PastEffects, shown: Sequence[int], path: Path, *, is_chosen: bool) -> None:
    """Draw parameters into a file, whose ending gives the format. Raises SettingsError."""
    save(effects_figure(found, shown, is_chosen=is_chosen), path)


def effects_figure(found: PastEffects, shown: Sequence[int], *, is_chosen: bool) -> Figure:
    """The curves of parameters; of a single chosen one also its tasks. Raises SettingsError."""
    if found.adjustment is None:
        raise SettingsError(f"nothing to draw: no task of {found.target!r} has two different outcomes")
    return parameter_figure(found, shown[0]) if is_chosen and len(shown) == 1 else curves_figure(found, shown)


def curves_figure(found: PastEffects, shown: Sequence[int]) -> Figure:
    """A panel for each parameter, all with the same scale of effects."""
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.0 + 3.3 * columns, 2.7 * rows + 1.1), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, j in zip(panels.flat, shown, strict=False):
        _draw_curve(panel, found, j)
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    panels[0, 0].set_ylim(_heights(found, shown))
    figure.supylabel(_unit(found), fontsize=9, color=INK)
    _head(figure, f"{found.target}: what each hyperparameter is worth, over {_tasks(found)}")
    return figure


def parameter_figure(found: PastEffects, j: int) -> Figure:
    """The curve of one parameter, and what each task says of its likeliest best range."""
    axis = found.axes.axes[j]
    start = sum(found.runs.sizes[:j])
    estimates = found.adjusted
    assert estimates is not None
    assert found.best is not None
    cells = np.arange(start, start + len(axis.labels))
    place = int(np.argmax(np.nan_to_num(found.best[cells], nan=-1.0)))
    lines = min(int(np.isfinite(estimates.of_tasks[:, start + place]).sum()), TASKS_DRAWN)
    figure = Figure(figsize=(11.0, max(4.2, 1.9 + 0.2 * lines)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
    _draw_curve(left, found, j)
    left.set_ylabel(_unit(found), fontsize=9, color=INK)
    _draw_forest(right, found, estimates, start + place)
    right.set_title(
        plain(f"{axis.name} {'=' if axis.choices else 'in'} {axis.labels[place]}, task by task"),
        loc="left",
        fontsize=10,
        color=INK,
    )
    _head(figure, f"{found.target}: what {axis.name} is worth, over {_tasks(found)}")
    return figure


# Curves


def _draw_curve(panel: Panel, found: PastEffects, j: int) -> None:
    axis = found.axes.axes[j]
    assert found.adjustment is not None
    if axis.choices:
        x = np.arange(len(axis.labels), dtype=float)
        _draw_choices(panel, found, j)
    else:
        values, coordinates = axis.curve()
        x = np.array(values, dtype=float)
        _draw_number(panel, x, found.adjustment.along(j, coordinates))
    _draw_along(panel, found, j)
    panel.axhline(0.0, color=FAINT, lw=0.8, zorder=0)
    panel.set_title(plain(axis.name), loc="left", fontsize=10, color=INK)
    _scale(panel, axis, x)
    _polish(panel)


def _draw_number(panel: Panel, x: Array, curve: Estimates) -> None:
    known = np.isfinite(curve.mean)
    predicted = known & np.isfinite(curve.prediction).all(axis=1)
    if predicted.any():
        low, high = curve.prediction[predicted].T
        panel.fill_between(
            x[predicted], low, high, color=ADJUSTED, alpha=0.12, lw=0, label="adjusted: 95% for a new task"
        )
    low, high = curve.interval[known].T
    panel.fill_between(x[known], low, high, color=ADJUSTED, alpha=0.35, lw=0, label="adjusted: 95% for the mean")
    panel.plot(x[known], curve.mean[known], color=ADJUSTED, lw=1.8, label="adjusted: mean")


def _draw_choices(panel: Panel, found: PastEffects, j: int) -> None:
    """Choices as bars: a choice comes with the parameters that depend on it, so nothing moves along a curve."""
    estimates = found.adjusted
    assert estimates is not None
    start = sum(found.runs.sizes[:j])
    x = np.arange(found.runs.sizes[j]) - 0.1
    cells = slice(start, start + len(x))
    bands = (
        (estimates.prediction[cells], 0.12, "adjusted: 95% for a new task"),
        (estimates.interval[cells], 0.35, "adjusted: 95% for the mean"),
    )
    for ends, alpha, label in bands:
        drawn = np.isfinite(ends).all(axis=1)
        if drawn.any():
            height, bottom = np.diff(ends[drawn])[:, 0], ends[drawn, 0]
            panel.bar(x[drawn], height, bottom=bottom, width=0.3, color=ADJUSTED, alpha=alpha, lw=0, label=label)
    mean = estimates.mean[cells]
    panel.hlines(mean, x - 0.15, x + 0.15, color=ADJUSTED, lw=1.8, label="adjusted: mean")
    panel.use_sticky_edges = False  # bars of that kind would have no margin below


def _draw_along(panel: Panel, found: PastEffects, j: int) -> None:
    """What went along with each range, at its middle."""
    axis = found.axes.axes[j]
    _, along = found.went_along
    start = sum(found.runs.sizes[:j])
    cells = slice(start, start + len(axis.labels))
    mean = along.mean[cells]
    if found.raw_units:
        mean = mean - np.nanmean(found.runs.outcomes)
    known = np.isfinite(mean)
    panel.plot(
        _middles(axis)[known], mean[known], "D", mfc="white", mec=ALONG, mew=1.3, ms=5,
        label="went along with the range", clip_on=False,
    )  # fmt: skip


def _middles(axis: Axis) -> Array:
    if axis.choices:
        return np.arange(len(axis.labels), dtype=np.float64) + 0.25
    low, high = np.array(axis.bounds, dtype=np.float64).T
    if getattr(axis.distribution, "log", False):
        return np.asarray(np.exp((np.log(low) + np.log(high)) / 2.0))
    return np.asarray((low + high) / 2.0)


def _scale(panel: Panel, axis: Axis, x: Array) -> None:
    distribution = axis.distribution
    if isinstance(distribution, CategoricalDistribution):
        names = [plain(label)[:14] for label in axis.labels]
        panel.set_xticks(range(len(names)), names, rotation=30 if len("".join(names)) > 24 else 0)
        panel.set_xlim(-0.6, len(names) - 0.4)
        return
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log:
        panel.set_xscale("log")
        if distribution.high < FEW_DECADES * distribution.low:
            ticks = np.geomspace(distribution.low, distribution.high, 4)
            panel.set_xticks(ticks, [f"{tick:.0f}" if tick >= 100 else f"{tick:.3g}" for tick in ticks])
        panel.minorticks_off()
    elif isinstance(distribution, IntDistribution):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if x[0] < x[-1]:
        panel.set_xlim(x[0], x[-1])


# What each task says


def _draw_forest(panel: Panel, found: PastEffects, estimates: Estimates, c: int) -> None:
    """Each task's estimate with its 95%, sorted, and below them the mean and a new task."""
    of_tasks, errors = estimates.of_tasks[:, c], estimates.errors[:, c]
    assert found.adjustment is not None
    known = np.flatnonzero(np.isfinite(of_tasks) & np.isfinite(errors))
    order = known[np.argsort(of_tasks[known], kind="stable")]
    drawn = (
        order[np.unique(np.linspace(0, len(order) - 1, min(len(order), TASKS_DRAWN)).astype(int))]
        if len(order)
        else order
    )
    names = [found.tasks[found.adjustment.looked_at[task]] for task in drawn]
    y = np.arange(len(drawn)) + 2.5
    half = 1.96 * errors[drawn]
    panel.hlines(y, of_tasks[drawn] - half, of_tasks[drawn] + half, color=FAINT, lw=1.2)
    weight = errors[drawn].min(initial=np.inf) / errors[drawn]
    panel.scatter(of_tasks[drawn], y, s=8 + 26 * weight, marker="s", color=INK, zorder=3)
    labels = [plain(name)[-NAME_LENGTH:] for name in names]
    rows = [("mean", estimates.interval[c], 1.0, 0.35)]
    if estimates.tasks[c] >= FEWEST_TASKS:
        rows.append(("a new task", estimates.prediction[c], 0.0, 0.12))
    for _, ends, at, alpha in rows:
        if np.isfinite(ends).all():
            panel.barh(at, ends[1] - ends[0], left=ends[0], height=0.7, color=ADJUSTED, alpha=alpha, lw=0)
            panel.plot([estimates.mean[c]] * 2, [at - 0.35, at + 0.35], color=ADJUSTED, lw=1.8)
    panel.set_yticks([at for _, _, at, _ in rows] + y.tolist(), [name for name, *_ in rows] + labels)
    panel.axvline(0.0, color=FAINT, lw=0.8, zorder=0)
    panel.axhline(1.75, color=FAINT, lw=0.5)
    _limit(panel, estimates, c, of_tasks[drawn], half)
    text = plain(_unit(found)) if len(drawn) == len(order) else f"{_unit(found)}; {len(drawn)} of {len(order)} tasks"
    panel.set_xlabel(text, fontsize=9, color=INK)
    _polish(panel)


def _limit(panel: Panel, estimates: Estimates, c: int, values: Array, half: Array) -> None:
    """What is far out is cut off: one task that says next to nothing must not flatten all others."""
    usual = np.minimum(half, 2.0 * np.median(half)) if len(half) else half
    ends = np.concatenate([estimates.interval[c], estimates.prediction[c], values - usual, values + usual, [0.0]])
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.05 * max(high - low, 1e-9)
    panel.set_xlim(low - room, high + room)


# How it looks


def _heights(found: PastEffects, shown: Sequence[int]) -> tuple[float, float]:
    """How high and low panels go: what is known is in sight, and vague predictions are cut off."""
    estimates = found.adjusted
    assert estimates is not None
    starts = np.cumsum([0, *found.runs.sizes])
    cells = np.concatenate([np.arange(starts[j], starts[j + 1]) for j in shown])
    known = np.concatenate([estimates.interval[cells].ravel(), [0.0]])
    if not found.raw_units:
        known = np.concatenate([known, found.went_along[1].mean[cells]])
    low, high = np.nanmin(known), np.nanmax(known)
    reach = max(high - low, 1e-9) * OUT_OF_SIGHT
    predicted = np.clip(estimates.prediction[cells], low - reach, high + reach)
    low, high = np.nanmin([low, *predicted.ravel()]), np.nanmax([high, *predicted.ravel()])
    room = 0.2 * max(high - low, 1e-9)
    return float(low - room), float(high + room)


def _head(figure: Figure, title: str) -> None:
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, color=INK)
    found = [panel.get_legend_handles_labels() for panel in figure.axes]
    handles = {label: handle for pair in found for handle, label in zip(*pair, strict=True)}
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower left",
            ncols=4,
            fontsize=8,
            frameon=False,
            labelcolor=INK,
        )


def _polish(panel: Panel) -> None:
    panel.tick_params(labelsize=8, colors=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)


def _unit(found: PastEffects) -> str:
    if found.raw_units:
        return f"units of the task, {'higher' if found.higher_is_better else 'lower'} is better"
    return "standard deviations, higher is better"


def _tasks(found: PastEffects) -> str:
    count = len(found.tasks)
    return f"{count:,} task{'' if count == 1 else 's'}, {len(found.runs.outcomes):,} trials"
