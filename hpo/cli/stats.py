"""What `hpo stats` prints and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from hpo.cli.options import check_figure
from hpo.cli.show import number, open_console, print_json, simple_table
from hpo.cli.source import Source
from hpo.cli.text import escape
from hpo.statistics.calibration import ENOUGH_TASKS
from hpo.statistics.random_effects import FEWEST_TASKS

Fields: TypeAlias = Mapping[str, Any]  # as `hpo.answers.effects` says it

PAIRS_SHOWN = 10
STRONG_PAIRS = 3


def show_effects(
    source: Source,
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
    found = source.effects(
        target, where=where, parameters=parameters, pairs=pairs, importance=importance, raw_units=raw_units
    )
    if as_json:
        print_json(found)
    else:
        _print(found)
    if figure is not None:
        source.draw_effects(figure, target, where=where, parameters=parameters, raw_units=raw_units, overwrite=force)
        if not as_json:
            print(f"drawn: {figure}")


# What is printed ------------------------------------------------------------------------------------------------------


def _print(found: Fields) -> None:
    console = open_console()
    console.print(f"[bold]{escape(found['target'])}[/]  {_count(found['tasks'], 'task')}, {_trials(found)}")
    console.print(found["unit"])
    if "importance" in found:
        _print_importance(console, found["importance"])
    _print_ranges(console, found)
    if "pairs" in found:
        _print_pairs(console, found)
    for sentence in _sentences(found):
        console.print(escape(sentence), soft_wrap=True)


def _print_importance(console: Any, shares: Fields | None) -> None:
    from hpo.statistics.importance import FEWEST_RUNS

    if shares is None:
        console.print(
            f"importance: not enough to say; it takes {FEWEST_RUNS} trials with a value, and not all the same"
        )
        return
    table = simple_table("importance", "share", "95% interval", numbers=("share", "95% interval"))
    for each in shares["parameters"]:
        table.add_row(escape(each["parameter"]), f"{each['share']:.0%}", _percents(each["interval"]))
    for pair in shares["pairs"][:STRONG_PAIRS]:
        name = " with ".join(pair["parameters"])
        table.add_row(f"[dim]{escape(name)}[/]", f"{pair['share']:.0%}", _percents(pair["interval"]))
    console.print(table)


def _print_ranges(console: Any, found: Fields) -> None:
    table = simple_table(
        "parameter", "range", "trials", "tasks", "failed", "went along", "95% interval", "adjusted", "95% interval ",
        "next task", "tau", "held", "best",
        numbers=("trials", "tasks", "failed", "went along", "95% interval", "adjusted", "95% interval ", "next task",
                 "tau", "held", "best"),
    )  # fmt: skip
    for name, ranges in groupby(found["effects"], key=itemgetter("parameter")):
        cells = [each for each in ranges if each["trials"] + each["failed"] > 0]
        likeliest = max((each["best"] for each in cells if _is_number(each["best"])), default=None)
        for place, each in enumerate(cells):
            along = each["went_along"]
            table.add_row(
                escape(name) if place == 0 else "",
                escape(each["range"]),
                f"{each['trials']:,}",
                f"{each['tasks']:,}",
                f"{each['failed']:,}",
                _value(found, along["mean"]),
                _interval(found, along["interval"]),
                *_adjusted(found, each["adjusted"]),
                _best(each["best"], likeliest),
            )
    console.print(table)


def _adjusted(found: Fields, estimate: Fields | None) -> tuple[str, ...]:
    if estimate is None:
        return ("-",) * 5
    return (
        f"[bold]{_value(found, estimate['mean'])}[/]",
        _interval(found, estimate["interval"]),
        _interval(found, estimate["prediction"]),
        f"{estimate['tau']:.2f}" if _is_number(estimate["tau"]) else "-",
        _held(estimate),
    )


def _held(estimate: Fields) -> str:
    held = estimate["held"]
    return f"{held['tasks']} of {held['of']}" if held["of"] else "-"


def _best(share: float | None, likeliest: float | None) -> str:
    if share is None or not _is_number(share):
        return "-"
    return f"[bold]{share:.0%}[/]" if share == likeliest else f"{share:.0%}"


def _print_pairs(console: Any, found: Fields) -> None:
    if not found["pairs"]:
        console.print("pairs: it takes two parameters that are active together")
        return
    sign = 1.0 if found["higher_is_better"] else -1.0
    rows = []
    for names, ranges in groupby(found["pairs"], key=itemgetter("parameters")):
        cells = [each for each in ranges if each["trials"] > 0 and _is_number(_judged(each)["mean"])]
        if cells:
            best = max(cells, key=lambda each: sign * _judged(each)["mean"])
            worst = min(cells, key=lambda each: sign * _judged(each)["mean"])
            rows.append((abs(_judged(best)["mean"] - _judged(worst)["mean"]), names, best, worst))
    table = simple_table(
        "pair", "", "ranges", "trials", "went along", "adjusted", "95% interval", "next task", "held",
        numbers=("trials", "went along", "adjusted", "95% interval", "next task", "held"),
    )  # fmt: skip
    for _, names, *cells in sorted(rows, key=lambda row: -row[0])[:PAIRS_SHOWN]:
        for word, each in zip(("best", "worst"), cells, strict=True):
            adjusted = each["adjusted"]
            table.add_row(
                escape(", ".join(names)) if word == "best" else "",
                word,
                escape(", ".join(each["ranges"])),
                f"{each['trials']:,}",
                _value(found, each["went_along"]["mean"]),
                "-" if adjusted is None else f"[bold]{_value(found, adjusted['mean'])}[/]",
                _interval(found, _judged(each)["interval"]),
                _interval(found, _judged(each)["prediction"]),
                _held(_judged(each)),
            )
    console.print(table)
    if len(rows) > PAIRS_SHOWN:
        console.print(f"the {PAIRS_SHOWN} of {len(rows)} pairs that differ most; --json prints all cells of all")


def _judged(cell: Fields) -> Fields:
    """The estimate that counts: the adjusted one, where there is one."""
    estimate: Fields = cell["went_along"] if cell["adjusted"] is None else cell["adjusted"]
    return estimate


def _sentences(found: Fields) -> list[str]:
    tasks, effects = found["tasks"], found["effects"]
    said = [
        "went along: the mean of the trials there, which a tuner chose; adjusted: how far from the mean of the whole "
        "space, other parameters spread evenly, by a surface of curves and products fitted to each task"
    ]
    if all(each["adjusted"] is None for each in effects):
        said.append("adjusted: not enough to say; it takes a task with two different outcomes")
        return said
    if any(not _is_number(each["adjusted"]["mean"]) for each in effects if each["trials"] > 0):
        said.append("adjusted -: too few trials to tell what the parameter did from what the others did")
    if found["adjusted_tasks"] < tasks:
        said.append(
            f"adjusted: from the latest {found['adjusted_tasks']} of {tasks:,} tasks that have two different outcomes"
        )
    if tasks < FEWEST_TASKS:
        what = "this task" if tasks == 1 else "these two tasks"
        said.append(
            f"intervals are for {what} only; for a new task it takes {FEWEST_TASKS} tasks, and {ENOUGH_TASKS} to check"
        )
        return said
    said.append(
        "next task: 95% for the effect in a new one; tau: how much tasks differ; best: how probable it is that the "
        "range is best there"
    )
    checked = found["calibration"]["adjusted"]
    if checked is not None:
        text = (
            "held: for how many left-out tasks the others' interval was right; over all ranges "
            f"{checked['share_held']:.0%}"
        )
        if round(checked["factor"], 2) != 1.0:
            uncorrected = checked["share_held_uncorrected"]
            text += f", after it was made {checked['factor']:.2f} times as wide ({uncorrected:.0%} before)"
        said.append(text)
    return said


def _trials(found: Fields) -> str:
    return _count(found["trials"], "trial") + (f", {found['failed']:,} failed" if found["failed"] else "")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _value(found: Fields, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return number(value) if found["raw_units"] else f"{value:+.2f}"


def _interval(found: Fields, ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{_value(found, ends[0])} … {_value(found, ends[1])}"


def _percents(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.0%} … {ends[1]:.0%}"
