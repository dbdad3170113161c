"""What the commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from hpo.answers.plain import jsonable
from hpo.answers.studies import study_fields
from hpo.cli.chart import step_chart
from hpo.cli.text import escape
from hpo.studies.folds import fold_values

if TYPE_CHECKING:
    from hpo.tuning.stopping import Stopped
    from storage.history import StudySummary, TrialRecord
    from storage.schema import SchemaState

MAX_TRIALS_SHOWN = 30


def print_json(content: Any) -> None:
    """One JSON document on standard output; what JSON cannot say (NaN, infinity) is null."""
    json.dump(jsonable(content), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def open_console() -> Console:
    """Wide enough for a table when the output is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, emoji=False)


def simple_table(*columns: str, title: str | None = None, numbers: Sequence[str] = ()) -> Table:
    """A table without lines; columns of numbers stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column in numbers)
    return table


def number(value: float | None) -> str:
    """Four significant digits; `-` for nothing."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def amount(value: float | None) -> str:
    """As `number`, but large whole numbers, such as bytes, in full."""
    is_large = value is not None and 1e4 <= abs(value) < 1e15 and value == int(value)
    return f"{value:,.0f}" if is_large else number(value)


def params_text(params: Mapping[str, Any]) -> str:
    """A configuration on one line."""
    return ", ".join(f"{name}={number(value) if isinstance(value, float) else value}" for name, value in params.items())


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if seconds >= 3600 else f"{minutes} min {int(seconds % 60):02d} s"
    )


# One function per command --------------------------------------------------------------------------------------------


def written(path: Path, *, as_json: bool) -> None:
    """`hpo init`."""
    if as_json:
        print_json({"path": path})
    else:
        print(f"wrote {path}; edit it, then: hpo tune {path}")


def recipes(known: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """`hpo recipes`. known: as `hpo.answers.recipes` says them."""
    if as_json:
        print_json(known)
        return
    table = simple_table("recipe", "what it trains", "tasks")
    for recipe in known:
        name = escape(recipe["name"])
        table.add_row(name, escape(recipe["summary"]), ", ".join(f"{name}/{each}" for each in recipe["variants"]))
    open_console().print(table)


def studies(summaries: Sequence[StudySummary], *, as_json: bool) -> None:
    """`hpo studies`."""
    if as_json:
        print_json([study_fields(summary) for summary in summaries])
        return
    table = simple_table(
        "study", "task", "family", "metric", "trials", "best", "last trial", numbers=("trials", "best")
    )
    for summary in summaries:
        table.add_row(
            escape(summary.name),
            escape(summary.task or "-"),
            escape(summary.family),
            escape(_metric(summary)),
            _counts(summary),
            number(summary.best) if len(summary.directions) == 1 else "front",
            summary.finished_at.astimezone().strftime("%Y-%m-%d %H:%M") if summary.finished_at else "-",
        )
    open_console().print(table)


def _metric(summary: StudySummary) -> str:
    named = zip(summary.objectives, summary.directions, strict=True)
    return ", ".join(f"{objective} ({direction})" for objective, direction in named)


def _counts(summary: StudySummary) -> str:
    rest = [
        f"{count} {state.name.lower()}"
        for state, count in summary.counts.items()
        if count and state != TrialState.COMPLETE
    ]
    return f"{summary.trials} ({', '.join(rest)})" if rest else str(summary.trials)


def study(
    summary: StudySummary, trials: Sequence[TrialRecord], *, stopped: Stopped | None = None, as_json: bool
) -> None:
    """`hpo show`."""
    from hpo.answers.front import front_fields
    from hpo.cli.front import print_front
    from hpo.studies.front import front_of

    several = len(summary.directions) > 1
    if as_json:
        best = best_trial(summary, trials)
        print_json(
            study_fields(summary)
            | {
                "best": None if best is None else _trial_fields(best) | {"folds": fold_values(summary, best)},
                "front": front_fields(front_of(summary, trials))["front"] if several else None,
                "incumbent": _incumbents(trials, summary.directions),
                "stopped": None if stopped is None else vars_of(stopped),
                "all_trials": [_trial_fields(trial) for trial in trials],
            }
        )
        return
    console = open_console()
    console.print(f"[bold]{escape(summary.name)}[/]  {escape(_metric(summary))}, trials: {_counts(summary)}")
    if summary.task:
        console.print(f"task {escape(summary.task or '-')}, family {escape(summary.family)}")
    if several and any(trial.state == TrialState.COMPLETE for trial in trials):
        print_front(console, front_of(summary, trials))
    else:
        _print_best(console, summary, trials)
    if stopped is not None:
        later = "; it went on later" if stopped.went_on(summary.counts) else ""
        console.print(escape(stopped.reason + later), soft_wrap=True)
    incumbents = [value for value in _incumbents(trials, summary.directions) if value is not None]
    if len(incumbents) > 1:
        console.print(f"\nincumbent {escape(summary.metric or 'value')} after each finished trial")
        console.print(step_chart(incumbents), markup=False)
    console.print(_trial_table(summary, trials[-MAX_TRIALS_SHOWN:]))
    if len(trials) > MAX_TRIALS_SHOWN:
        console.print(f"the last {MAX_TRIALS_SHOWN} of {len(trials)} trials; --json prints all")


def best_trial(summary: StudySummary, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the study's best value; None where there are several objectives."""
    if len(summary.directions) > 1:
        return None
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return (
        next((trial for trial in complete if trial.value == summary.best), None) if summary.best is not None else None
    )


def _print_best(console: Console, summary: StudySummary, trials: Sequence[TrialRecord]) -> None:
    best = best_trial(summary, trials)
    if best is None:
        console.print("no finished trial yet" if not trials else "no trial has succeeded yet")
        return
    console.print(f"best: trial {best.number}, {escape(summary.metric or 'value')} = [bold]{number(best.value)}[/]")
    console.print(f"  {escape(params_text(best.params))}")
    if folds := fold_values(summary, best):
        console.print(f"  in its {len(folds)} folds: {', '.join(map(number, folds))}")
    if best.checkpoint:
        console.print(f"  checkpoint {escape(best.checkpoint)}", soft_wrap=True)


def _trial_table(summary: StudySummary, trials: Sequence[TrialRecord]) -> Table:
    values = [escape(name) for name in summary.objectives] if len(summary.objectives) > 1 else ["value"]
    table = simple_table(
        "trial", "state", *values, "epochs", "time", "parameters", numbers=("trial", *values, "epochs", "time")
    )
    for trial in trials:
        note = f"  [red]{escape(trial.error.splitlines()[0])}[/]" if trial.error else ""
        note += "".join(f"\n[dim]{escape(text)}[/]" for text in trial.system_attrs.get("hindsight:notes", []))
        retries = f" (attempt {trial.attempt})" if trial.attempt > 1 else ""
        table.add_row(
            str(trial.number),
            trial.state.name.lower() + retries,
            *(map(amount, trial.values) if trial.values else ["-"] * len(values)),
            "-" if trial.epochs is None else str(trial.epochs),
            duration(trial.cost_seconds),
            escape(params_text(trial.params)) + note,
        )
    return table


def _trial_fields(trial: TrialRecord) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "values": trial.values,
        "params": trial.params,
        "attempt": trial.attempt,
        "epochs": trial.epochs,
        "cost_seconds": trial.cost_seconds,
        "seed": trial.seed,
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "checkpoint": trial.checkpoint,
        "error": trial.error,
        "notes": trial.system_attrs.get("hindsight:notes", []),
        "intermediate_values": trial.intermediate_values,
        "receipt": trial.system_attrs.get("hindsight:receipt"),
    }


def _incumbents(trials: Sequence[TrialRecord], directions: Sequence[str]) -> list[float | None]:
    """The best value after each finished trial, in the order of numbers; None before the first success."""
    if len(directions) != 1:
        return []
    better = max if directions[0] == "maximize" else min
    incumbents: list[float | None] = []
    best: float | None = None
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value):
            best = trial.value if best is None else better(best, trial.value)
        if trial.state.is_finished():
            incumbents.append(best)
    return incumbents


def vars_of(record: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    import dataclasses

    return dataclasses.asdict(record)


def synced(sent: int, waiting: int, *, as_json: bool) -> None:
    """`hpo sync`."""
    if as_json:
        print_json({"sent": sent, "waiting": waiting})
    elif waiting:
        print(f"{sent} messages sent to MLflow; {waiting} still wait: MLflow does not take them")
    else:
        print(f"{sent} messages sent to MLflow; nothing waits")


def sync_is_busy(waiting: int, *, as_json: bool) -> None:
    """`hpo sync` while a study sends by itself."""
    if as_json:
        print_json({"sent": 0, "waiting": waiting, "busy": True})
    else:
        print(f"a running study is sending already; {waiting} messages wait")


def schema_state(state: SchemaState, *, as_json: bool) -> None:
    """`hpo db upgrade` and `hpo db check`."""
    if as_json:
        print_json({"current": state.current, "head": state.head, "is_current": state.is_current})
    elif state.is_current:
        print(f"the store's schema is {state.current}, as it should be")
