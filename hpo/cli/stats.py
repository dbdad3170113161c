"""What `hpo stats` prints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.answers.effects import chosen_places, effects_fields, unit_of
from hpo.cli.options import check_figure
from hpo.cli.show import number, open_console, print_json, simple_table
from hpo.cli.text import escape
from hpo.statistics.calibration import ENOUGH_TASKS
from hpo.statistics.random_effects import FEWEST_TASKS

if TYPE_CHECKING:
    from hpo.past_effects import PastEffects
    from storage.database import Store

PAIRS_SHOWN = 10
STRONG_PAIRS = 3


def show_effects(
    store: Store,
    target: str,
    *,
    where: str,
    parameters: Sequence[str],
    pairs: bool,
    importance: bool,
    raw_units: bool,
    figure: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """`hpo stats`."""
    check_figure(figure, force=force)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from hpo.past_effects import past_effects

    with threadpool_limits(limits=1, user_api="blas"):
        found = past_effects(store, target, where=where, raw_units=raw_units)
        shown = chosen_places(found, parameters)
        if as_json:
            print_json(effects_fields(found, shown, pairs=pairs, importance=importance))
        else:
            _print(found, shown, pairs=pairs, importance=importance)
        if figure is not None:
            from hpo.effects_figure import save_figure

            save_figure(found, shown, figure, is_chosen=bool(parameters))
            if not as_json:
                print(f"drawn: {figure}")


# For people


def _print(found: PastEffects, shown: Sequence[int], *, pairs: bool, importance: bool) -> None:
    console = open_console()
    console.print(f"[bold]{escape(found.target)}[/]  {_count(len(found.tasks), 'task')}, {_trials(found)}")
    console.print(unit_of(found))
    if importance:
        _print_importance(console, found)
    _print_ranges(console, found, shown)
    if pairs:
        _print_pairs(console, found, shown)
    for sentence in _sentences(found):
        console.print(escape(sentence), soft_wrap=True)


def _print_importance(console: Any, found: PastEffects) -> None:
    from hpo.statistics.importance import FEWEST_RUNS

    shares = found.importance
    if shares is None:
        console.print(
            f"importance: not enough to say; it takes {FEWEST_RUNS} trials with a value, and not all the same"
        )
        return
    table = simple_table("importance", "share", "95% interval", numbers=("share", "95% interval"))
    for j in np.argsort(-shares.shares, kind="stable").tolist():
        table.add_row(escape(found.axes.axes[j].name), f"{shares.shares[j]:.0%}", _percents(shares.intervals[j]))
    for place, (i, j) in enumerate(shares.pairs[:STRONG_PAIRS]):
        name = f"{found.axes.axes[i].name} with {found.axes.axes[j].name}"
        table.add_row(
            f"[dim]{escape(name)}[/]", f"{shares.pair_shares[place]:.0%}", _percents(shares.pair_intervals[place])
        )
    console.print(table)


def _print_ranges(console: Any, found: PastEffects, shown: Sequence[int]) -> None:
    counts, along = found.went_along
    table = simple_table(
        "parameter", "range", "trials", "tasks", "failed", "went along", "95% interval", "adjusted", "95% interval ",
        "next task", "tau", "held", "best",
        numbers=("trials", "tasks", "failed", "went along", "95% interval", "adjusted", "95% interval ", "next task",
                 "tau", "held", "best"),
    )  # fmt: skip
    for j in shown:
        axis, start = found.axes.axes[j], sum(found.runs.sizes[:j])
        cells = [c for c in range(start, start + len(axis.labels)) if counts.runs[c] + counts.failed[c] > 0]
        best = np.full(len(counts.runs), np.nan) if found.best is None else found.best
        likeliest = max(cells, key=lambda c: np.nan_to_num(best[c], nan=-1.0), default=None)
        for place, c in enumerate(cells):
            table.add_row(
                escape(axis.name) if place == 0 else "",
                escape(axis.labels[c - start]),
                f"{int(counts.runs[c]):,}",
                f"{int(counts.tasks[c]):,}",
                f"{int(counts.failed[c]):,}",
                _value(found, along.mean[c]),
                _interval(found, along.interval[c]),
                *(_adjusted(found, c) if found.adjusted is not None else ("-",) * 5),
                _best(best[c], is_likeliest=c == likeliest),
            )
    console.print(table)


def _adjusted(found: PastEffects, c: int) -> tuple[str, ...]:
    estimates = found.adjusted
    assert estimates is not None
    held = estimates.calibration
    return (
        f"[bold]{_value(found, estimates.mean[c])}[/]",
        _interval(found, estimates.interval[c]),
        _interval(found, estimates.prediction[c]),
        "-" if np.isnan(estimates.tau[c]) else f"{estimates.tau[c]:.2f}",
        f"{held.held[c]} of {held.of[c]}" if held.of[c] else "-",
    )


def _best(share: float, *, is_likeliest: bool) -> str:
    if np.isnan(share):
        return "-"
    return f"[bold]{share:.0%}[/]" if is_likeliest else f"{share:.0%}"


def _print_pairs(console: Any, found: PastEffects, shown: Sequence[int]) -> None:
    pairs = [pair for pair in found.pairs if set(pair) & set(shown)]
    if not pairs:
        console.print("pairs: it takes two parameters that are active together")
        return
    counts, along, adjusted = found.pair_effects(pairs)
    judged = along if adjusted is None else adjusted
    rows = []
    start = 0
    for i, j in pairs:
        size = found.runs.sizes[i] * found.runs.sizes[j]
        cells = [c for c in range(start, start + size) if counts.runs[c] > 0 and not np.isnan(judged.mean[c])]
        if cells:
            sign = 1.0 if found.higher_is_better else -1.0
            best = max(cells, key=lambda c: sign * judged.mean[c])
            worst = min(cells, key=lambda c: sign * judged.mean[c])
            rows.append((abs(judged.mean[best] - judged.mean[worst]), i, j, start, best, worst))
        start += size
    table = simple_table(
        "pair", "", "ranges", "trials", "went along", "adjusted", "95% interval", "next task", "held",
        numbers=("trials", "went along", "adjusted", "95% interval", "next task", "held"),
    )  # fmt: skip
    for _, i, j, first, *cells in sorted(rows, key=lambda row: -row[0])[:PAIRS_SHOWN]:
        for word, c in zip(("best", "worst"), cells, strict=True):
            a, b = divmod(c - first, found.runs.sizes[j])
            held = judged.calibration
            table.add_row(
                escape(f"{found.axes.axes[i].name}, {found.axes.axes[j].name}") if word == "best" else "",
                word,
                escape(f"{found.axes.axes[i].labels[a]}, {found.axes.axes[j].labels[b]}"),
                f"{int(counts.runs[c]):,}",
                _value(found, along.mean[c]),
                "-" if adjusted is None else f"[bold]{_value(found, adjusted.mean[c])}[/]",
                _interval(found, judged.interval[c]),
                _interval(found, judged.prediction[c]),
                f"{held.held[c]} of {held.of[c]}" if held.of[c] else "-",
            )
    console.print(table)
    if len(rows) > PAIRS_SHOWN:
        console.print(f"the {PAIRS_SHOWN} of {len(rows)} pairs that differ most; --json prints all cells of all")


def _sentences(found: PastEffects) -> list[str]:
    tasks = len(found.tasks)
    said = [
        "went along: the mean of the trials there, which a tuner chose; adjusted: how far from the mean of the whole "
        "space, other parameters spread evenly, by a surface of curves and products fitted to each task"
    ]
    if found.adjusted is None:
        said.append("adjusted: not enough to say; it takes a task with two different outcomes")
        return said
    counts, _ = found.went_along
    if (np.isnan(found.adjusted.mean) & (counts.runs > 0)).any():
        said.append("adjusted -: too few trials to tell what the parameter did from what the others did")
    looked_at = 0 if found.adjustment is None else len(found.adjustment.looked_at)
    if looked_at < tasks:
        said.append(f"adjusted: from the latest {looked_at} of {tasks:,} tasks that have two different outcomes")
    if tasks < FEWEST_TASKS:
        what = "this task" if tasks == 1 else "these two tasks"
        said.append(
            f"intervals are for {what} only; for a new task it takes {FEWEST_TASKS} tasks, and {ENOUGH_TASKS} to check"
        )
        return said
    calibration = found.adjusted.calibration
    said.append(
        "next task: 95% for the effect in a new one; tau: how much tasks differ; best: how probable it is that the "
        "range is best there"
    )
    if calibration.of.sum():
        text = (
            f"held: for how many left-out tasks the others' interval was right; over all ranges {calibration.share:.0%}"
        )
        if round(calibration.factor, 2) != 1.0:
            text += f", after it was made {calibration.factor:.2f} times as wide ({calibration.uncorrected:.0%} before)"
        said.append(text)
    return said


def _trials(found: PastEffects) -> str:
    failed = int(np.isnan(found.runs.outcomes).sum())
    return _count(len(found.runs.outcomes), "trial") + (f", {failed:,} failed" if failed else "")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _value(found: PastEffects, value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return number(float(value)) if found.raw_units else f"{value:+.2f}"


def _interval(found: PastEffects, ends: Any) -> str:
    if not np.isfinite(ends).all():
        return "-"
    return f"{_value(found, ends[0])} … {_value(found, ends[1])}"


def _percents(ends: Any) -> str:
    return f"{ends[0]:.0%} … {ends[1]:.0%}" if np.isfinite(ends).all() else "-"
