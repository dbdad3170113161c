"""What `hpo history` prints: tables for people, JSON for scripts."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.answers.history import (
    about_fields,
    forgotten_fields,
    overview_fields,
    quarantined_fields,
    relations_fields,
    totals_fields,
    trusted_fields,
    verified_fields,
)
from hpo.answers.plain import jsonable
from hpo.cli.show import duration, number, open_console, params_text, print_json, simple_table
from hpo.cli.text import escape, visible
from hpo.spaces.space import describe
from storage.distributions import distribution_of

if TYPE_CHECKING:
    from hpo.answers.named_history import NamedHistory
    from hpo.answers.trial_table import Column, Parameters
    from hpo.spaces.related_families import Relation
    from storage.families import Space
    from storage.history import TrialRecord
    from storage.importers.report import ImportReport
    from storage.integrity import Finding
    from storage.overview import FamilyOverview, Overview
    from storage.queries import StudyTotals, TaskTotals, Totals, TrialRow
    from storage.sources import Forgotten, KnownSource

MAX_FAMILIES_SHOWN = 30
MAX_TASKS_SHOWN = 30
MAX_RELATIONS_SHOWN = 20
MAX_PARAMETERS_SHOWN = 16  # of a space
LONGEST_LINE = 120  # of a distribution
HEADINGS = {"number": "trial", "cost_seconds": "time"}
PARAMETER_WIDTH = 9  # characters, of a number
ROOM_FOR_PARAMETERS = 54  # characters for their columns; more are one column
MAX_TASKS_OF_A_REPORT = 12
MAX_ROWS_OF_A_REPORT = 20
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 16

# hpo history list ----------------------------------------------------------------------------------------------------


def sources(known: Sequence[KnownSource], found: Overview, *, as_json: bool) -> None:
    """`hpo history list`."""
    if as_json:
        print_json(overview_fields(known, found))
        return
    console = open_console()
    if not known:
        console.print("nothing is in this history yet; `hpo history import --help` says how past runs come in")
        return
    table = simple_table(
        "source", "kind", "location", "studies", "trials", "last import", numbers=("studies", "trials")
    )
    for source in known:
        table.add_row(
            escape(source.name),
            escape(source.kind if source.last_import else "ran here"),
            escape(source.location or "-"),
            f"{source.studies:,}",
            f"{source.trials:,}",
            _time(source.last_import),
        )
    console.print(table)
    _print_families(found.families)
    if found.without_family:
        console.print(f"{_counted(found.without_family, 'study')} without a finished trial belong to no family yet")
    _print_quarantine(found.quarantine)


def _print_families(families: Sequence[FamilyOverview]) -> None:
    console = open_console()
    table = simple_table(
        "family", "metric", "parameters", "tasks", "studies", "trials", "",
        numbers=("parameters", "tasks", "studies", "trials"),
    )  # fmt: skip
    shown = sorted(families, key=lambda each: -each.trials)[:MAX_FAMILIES_SHOWN]
    for each in shown:
        table.add_row(
            escape(each.family.name),
            escape(_metric(each.family.metric, each.family.directions)),
            f"{len(each.family.space):,}",
            f"{each.tasks:,}",
            f"{each.studies:,}",
            f"{each.trials:,}",
            f"[yellow]{each.quarantined:,} in quarantine[/]" if each.quarantined else "",
        )
    if shown:
        console.print(table)
    if len(families) > len(shown):
        console.print(f"the largest {len(shown)} of {len(families):,} families; --json prints all")


def _print_quarantine(quarantine: Mapping[str, str]) -> None:
    if not quarantine:
        return
    console = open_console()
    console.print(f"[yellow]in quarantine, nobody learns from {_them(len(quarantine), 'study')}:[/]")
    for name, reason in islice(quarantine.items(), MAX_TASKS_SHOWN):
        console.print(f"  {escape(name)}: {escape(reason)}", soft_wrap=True)
    if len(quarantine) > MAX_TASKS_SHOWN:
        console.print(f"  and {len(quarantine) - MAX_TASKS_SHOWN:,} more; --json prints all")
    first = next(iter(quarantine))
    console.print(f"if it is right after all: hpo history trust {escape(shlex.quote(visible(first)))}", soft_wrap=True)


# hpo history show ----------------------------------------------------------------------------------------------------


def about(named: NamedHistory, *, as_json: bool) -> None:
    """`hpo history show NAME`."""
    if as_json:
        print_json(about_fields(named))
        return
    name, kinds, found, best = named.name, named.kinds, named.found, named.best
    source, families = named.source, named.families
    console = open_console()
    console.print(f"{kinds[0]} [bold]{escape(name)}[/]")
    if source is not None and source.location is not None:
        console.print(
            f"{escape(source.kind)} at {escape(source.location)}, last imported {_time(source.last_import)}",
            soft_wrap=True,
        )
    _print_sums(found)
    if best is not None and best.value is not None:
        console.print(
            f"best: trial {best.number} of {escape(best.study)}, {escape(best.metric or 'value')} = "
            f"[bold]{number(best.value)}[/]\n  {escape(params_text(best.params))}",
            soft_wrap=True,
        )
    if kinds[0] in ("source", "family"):
        _print_tasks(found.tasks)
    if kinds[0] == "study" or len(found.studies) > len(found.tasks):
        _print_studies(found.studies)
    for family in families[:MAX_FAMILIES_SHOWN]:
        _print_space(family)
    _print_quarantine({study.study: study.quarantine for study in found.studies if study.quarantine})
    for other in kinds[1:]:
        console.print(f"there is also a {other} of that name: hpo history query \"{other} = '…'\" --totals")


def _print_space(family: FamilyOverview) -> None:
    console = open_console()
    console.print(f"\nspace of family {escape(family.family.name)}:")
    for line in _space_lines(family.family.space):
        console.print(f"  {escape(line)}")


def _print_sums(found: Totals) -> None:
    console = open_console()
    states = ", ".join(f"{count:,} {state.name.lower()}" for state, count in found.counts.items() if count)
    tasks = len({task.task for task in found.tasks if task.task is not None})
    of = f" of {_counted(tasks, 'task')}" if tasks else ""
    console.print(
        f"{_counted(found.trials, 'trial')} in {_counted(len(found.studies), 'study')}{of}: {states or 'none'}"
    )
    if found.cost_known:
        known = "" if found.cost_known == found.trials else f" (known for {found.cost_known:,})"
        console.print(f"cost: {duration(found.cost_seconds)}{known}")


def _print_tasks(tasks: Sequence[TaskTotals]) -> None:
    console = open_console()
    metrics = {_metric(task.metric, (task.direction,)) for task in tasks}
    table = simple_table(
        "task", *_unless_one(metrics, "metric"), "studies", "trials", "complete", "best", "in trial", "cost",
        numbers=("studies", "trials", "complete", "best", "cost"),
    )  # fmt: skip
    for task in tasks[:MAX_TASKS_SHOWN]:
        name = task.task or task.best_study or "-"
        of = "" if task.best_study == name else f" of {escape(task.best_study or '-')}"
        table.add_row(
            escape(name),
            *_unless_one(metrics, escape(_metric(task.metric, (task.direction,)))),
            f"{task.studies:,}",
            f"{task.trials:,}",
            f"{task.complete:,}",
            number(task.best),
            "-" if task.best_study is None else f"{task.best_number}{of}",
            duration(task.cost_seconds) if task.cost_seconds else "-",
        )
    if len(metrics) == 1:
        console.print(f"metric: {escape(next(iter(metrics)))}")
    if tasks:
        console.print(table)
    if len(tasks) > MAX_TASKS_SHOWN:
        console.print(f"the first {MAX_TASKS_SHOWN} of {len(tasks):,} tasks; --json prints all")


def _unless_one(different: Collection[str], cell: str) -> list[str]:
    """The cell of a column that is left out where it would say the same in every row."""
    return [] if len(different) == 1 else [cell]


def _print_studies(studies: Sequence[StudyTotals]) -> None:
    console = open_console()
    table = simple_table(
        "study", "source", "trials", "complete", "best", "last trial", "", numbers=("trials", "complete", "best")
    )
    for study in studies[:MAX_TASKS_SHOWN]:
        table.add_row(
            escape(study.study),
            escape(study.source),
            f"{study.trials:,}",
            f"{study.complete:,}",
            number(study.best),
            _time(study.finished_at),
            "[yellow]in quarantine[/]" if study.quarantine else "",
        )
    console.print(table)
    if len(studies) > MAX_TASKS_SHOWN:
        console.print(f"the first {MAX_TASKS_SHOWN} of {len(studies):,} studies; --json prints all")


# hpo history query ---------------------------------------------------------------------------------------------------


def rows(found: Iterable[TrialRow], columns: Sequence[Column], *, limit: int) -> int:
    """The first rows as a table with these columns; returns how many there are."""
    return _print_rows(list(islice(found, limit)), columns)


def rows_for_a_person(found: Iterable[TrialRow], parameters: Parameters, *, curves: bool, limit: int) -> int:
    """The first rows as a table with what fits into a terminal; returns how many there are."""
    shown = list(islice(found, limit))
    return _print_rows(shown, _columns_for_a_person(shown, parameters, curves=curves))


def _print_rows(shown: Sequence[TrialRow], columns: Sequence[Column]) -> int:
    if not shown:
        print("no trial meets the condition")
        return 0
    numeric = [escape(column.name) for column in columns if column.kind in ("integer", "number")]
    table = simple_table(*(escape(column.name) for column in columns), numbers=numeric)
    for row in shown:
        table.add_row(*(escape(_cell(column.of(row), column)) for column in columns))
    open_console().print(table)
    return len(shown)


def more_rows(shown: int, total: int) -> None:
    """That there are more."""
    print(f"the first {shown} of {total:,} trials; --top K shows more, --format csv or --out FILE gives all")


def _columns_for_a_person(shown: Sequence[TrialRow], parameters: Parameters, *, curves: bool) -> list[Column]:
    """Few parameters have a column each, many are one; what says nothing is left out."""
    from hpo.answers.trial_table import Column, columns_of

    is_named_twice = all(row.study == row.task for row in shown)
    fields = columns_of({}, ["task", *([] if is_named_twice else ["study"]), "number", "state", "value", "cost"])
    columns = [replace(column, name=HEADINGS.get(column.name, column.name)) for column in fields]
    params = [
        replace(column, name=column.name.removeprefix("params.")) for column in columns_of(parameters, ["params"])
    ]
    if sum(max(len(column.name), PARAMETER_WIDTH) for column in params) > ROOM_FOR_PARAMETERS:
        params = [Column(name="parameters", kind="text", of=lambda row: params_text(row.params))]
    columns += params + (columns_of({}, ["curve"]) if curves else [])
    return [column for column in columns if any(column.of(row) is not None for row in shown)]


def count(found: int, *, as_json: bool) -> None:
    """`hpo history query --count`."""
    if as_json:
        print_json({"count": found})
    else:
        print(found)


def totals(found: Totals, *, as_json: bool) -> None:
    """`hpo history query --totals`."""
    if as_json:
        print_json(totals_fields(found))
        return
    _print_sums(found)
    _print_tasks(found.tasks)


def _cell(value: Any, column: Column) -> str:
    if value is None:
        return "-"
    if column.name in ("cost_seconds", "time"):
        return duration(value)
    if column.name == "curve" and isinstance(value, Mapping):
        return sparkline(list(value.values()))
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return params_text(jsonable(value))
    return str(value)


def sparkline(values: Sequence[float]) -> str:
    """A curve in a few characters, from its first to its last value; NaN is a blank."""
    if len(values) > SPARK_WIDTH:
        values = [values[index * (len(values) - 1) // (SPARK_WIDTH - 1)] for index in range(SPARK_WIDTH)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0) / 2, max(finite, default=0.0) / 2  # halved: their difference is finite
    span = (high - low) or math.inf
    return "".join(
        SPARKS[round((value / 2 - low) / span * (len(SPARKS) - 1))] if math.isfinite(value) else " " for value in values
    )


# hpo history spaces --------------------------------------------------------------------------------------------------


def spaces(families: Sequence[FamilyOverview], relations: Sequence[Relation], *, as_json: bool) -> None:
    """`hpo history spaces`."""
    if as_json:
        print_json(relations_fields(families, relations))
        return
    console = open_console()
    if not families:
        console.print("no family yet: no trial of any study has finished")
        return
    for family in sorted(families, key=lambda each: -each.trials)[:MAX_FAMILIES_SHOWN]:
        sizes = f"{_counted(family.tasks, 'task')}, {_counted(family.trials, 'trial')}"
        metric = escape(_metric(family.family.metric, family.family.directions))
        console.print(f"[bold]{escape(family.family.name)}[/]  {metric}, {sizes}")
        for line in _space_lines(family.family.space):
            console.print(f"  {escape(line)}")
    if len(families) > MAX_FAMILIES_SHOWN:
        console.print(f"the largest {MAX_FAMILIES_SHOWN} of {len(families):,} families; --json prints all")
    for relation in relations[:MAX_RELATIONS_SHOWN]:
        _print_relation(relation)
    if len(relations) > MAX_RELATIONS_SHOWN:
        console.print(f"the nearest {MAX_RELATIONS_SHOWN} of {len(relations):,} pairs; --json prints all")
    if len(families) > 1 and not relations:
        console.print("no two of these families resemble each other")


def _print_relation(relation: Relation) -> None:
    console = open_console()
    console.print(
        f"\n[bold]{escape(relation.past)}[/] in the words of [bold]{escape(relation.present)}[/]: "
        f"{relation.mapping.similarity:.0%} alike"
    )
    same = [change for change in relation.mapping.changes if change.kind == "same"]
    table = simple_table("change", "parameter", "")
    for change in relation.mapping.changes:
        if change.kind != "same":
            parameter = change.present or change.past or ""
            table.add_row(change.kind, escape(parameter), escape(change.sentence.removeprefix(f"{parameter}: ")))
    if table.row_count:
        console.print(table)
    if same:
        names = ", ".join(str(change.present) for change in same[:MAX_PARAMETERS_SHOWN])
        rest = len(same) - MAX_PARAMETERS_SHOWN
        console.print(f"  as before: {escape(names)}{f' and {rest:,} more' if rest > 0 else ''}", soft_wrap=True)


# hpo history import --------------------------------------------------------------------------------------------------


def imported(report: ImportReport, *, as_json: bool) -> None:
    """What became of an import."""
    if as_json:
        print_json(report.to_json())
        return
    console = open_console()
    verb = "would be taken" if report.dry_run else "taken"
    console.print(
        f"[bold]{report.taken:,}[/] {_plural(report.taken, 'run')} {verb} from {escape(report.source.name)}"
        f"{_and(report.number_skipped, 'skipped')}{_and(report.number_rejected, 'rejected')}"
        f"{' (a dry run: nothing was written)' if report.dry_run else ''}"
    )
    _print_report_tasks(report)
    for title, reasons in (("skipped", report.skipped), ("rejected", report.rejected)):
        _print_reasons(title, reasons, report)
    if report.notes:
        console.print("guessed:")
        for note in report.notes:
            console.print(f"  {escape(note)}", soft_wrap=True)
    for flag in report.flags:
        consequence = "; nobody learns from it until you say `hpo history trust`" if flag.quarantined else ""
        text = f"{flag.kind} in {flag.study}: {flag.evidence}{consequence}"
        console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    if report.taken and not report.dry_run:
        console.print(f"more: hpo history show {escape(shlex.quote(visible(report.source.name)))}", soft_wrap=True)


def _print_report_tasks(report: ImportReport) -> None:
    console = open_console()
    tasks = list(report.tasks.values())
    metrics = {_metric(task.metric, (task.direction,)) for task in tasks}
    spaces = {_names_text(task.space) for task in tasks}
    table = simple_table(
        "task", *_unless_one(metrics, "metric"), "taken", "skipped", "rejected", *_unless_one(spaces, "parameters"),
        numbers=("taken", "skipped", "rejected"),
    )  # fmt: skip
    for task in tasks[:MAX_TASKS_OF_A_REPORT]:
        table.add_row(
            escape(task.task),
            *_unless_one(metrics, escape(_metric(task.metric, (task.direction,)))),
            f"{task.taken:,}",
            f"{task.skipped:,}",
            f"{task.rejected:,}",
            *_unless_one(spaces, escape(_names_text(task.space))),
        )
    for title, different in (("metric", metrics), ("parameters", spaces)):
        if len(different) == 1:
            console.print(f"{title}: {escape(next(iter(different)))}", soft_wrap=True)
    if tasks:
        console.print(table)
    if len(tasks) > MAX_TASKS_OF_A_REPORT:
        console.print(f"the first {MAX_TASKS_OF_A_REPORT} of {len(tasks):,} tasks; --json prints all")


def _names_text(space: Space) -> str:
    names = list(space)
    rest = len(names) - MAX_PARAMETERS_SHOWN
    return ", ".join(names[:MAX_PARAMETERS_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _print_reasons(title: str, reasons: Counter[str], report: ImportReport) -> None:
    console = open_console()
    for reason, times in reasons.most_common():
        console.print(f"{title}: {times:,} {escape(reason)}", soft_wrap=True)
    if title == "rejected":
        rejected = [row for row in report.rows if row.verdict == "rejected"]
        for row in rejected[:MAX_ROWS_OF_A_REPORT]:
            console.print(f"  {escape(row.row)}: {escape(row.reason)}", soft_wrap=True)
        if report.number_rejected > MAX_ROWS_OF_A_REPORT:
            console.print(f"  the first {MAX_ROWS_OF_A_REPORT} of {report.number_rejected:,}; --report FILE has all")


# The others ----------------------------------------------------------------------------------------------------------


def forgotten(name: str, gone: Forgotten, *, dry_run: bool, as_json: bool) -> None:
    """`hpo history forget`."""
    if as_json:
        print_json(forgotten_fields(name, gone, dry_run=dry_run))
        return
    verb = "would go" if dry_run else "gone"
    print(f"{verb}: {sizes(gone)} of {visible(name)}, and what was learned from them")


def sizes(gone: Forgotten) -> str:
    """How much that is, in words."""
    return f"{_counted(gone.studies, 'study')} with {_counted(gone.trials, 'trial')}"


def exported(paths: Sequence[Any], notes: Sequence[str], *, as_json: bool) -> None:
    """`hpo history export`."""
    if as_json:
        print_json({"files": paths, "notes": notes})
        return
    for note in notes:
        print(visible(note))
    for path in paths:
        print(f"wrote {visible(str(path))}")


def verified(findings: Sequence[Finding], quarantine: Mapping[str, str], *, as_json: bool) -> None:
    """`hpo history verify`."""
    if as_json:
        print_json(verified_fields(findings, quarantine))
        return
    for finding in findings:
        print(visible(f"{finding.check}: {finding.subject}: {finding.detail}"))
    _print_quarantine(quarantine)
    if not findings and not quarantine:
        print("nothing wrong")


def trusted(study: str, reason: str | None, *, as_json: bool) -> None:
    """`hpo history trust`."""
    if as_json:
        print_json(trusted_fields(study, reason))
    elif reason is None:
        print(f"{visible(study)} is not in quarantine")
    else:
        print(f"{visible(study)} is trusted again; it was in quarantine for: {visible(reason)}")


def accepted(study: str, trial: int, counts: TrialRecord, *, as_json: bool) -> None:
    """`hpo history accept-late`. counts: the trial by which the value does."""
    from storage.late_results import teller_of

    state, teller = counts.state.name.lower(), teller_of(counts.number, counts.system_attrs)
    if as_json:
        print_json({
            "study": study, "trial": trial, "counts_as": counts.number, "state": state, "value": counts.value,
            "teller": teller, "checkpoint": counts.checkpoint,
        })  # fmt: skip
        return
    value = "" if counts.value is None else f", {number(counts.value)}"
    by = "" if teller is None else f", told by {visible(teller)}"
    told = f"{visible(study)}: the late value of trial {trial}{value} ({state}){by}, counts"
    told += "" if counts.number == trial else f" as trial {counts.number}; trial {trial} stays failed"
    has_model = counts.checkpoint is not None and Path(counts.checkpoint).is_absolute()  # else it is with the worker
    print(told + ("" if has_model else "; no model came with it"))


def quarantined(study: str, reason: str, before: str | None, *, as_json: bool) -> None:
    """`hpo history quarantine`."""
    if as_json:
        print_json(quarantined_fields(study, reason, before))
        return
    and_before = "" if before is None else f", besides: {visible(before)}"
    print(f"nobody learns from {visible(study)} until `hpo history trust`: {visible(reason)}{and_before}")


# Parts ---------------------------------------------------------------------------------------------------------------


def _space_lines(space: Space) -> list[str]:
    names = list(space)
    width = min(24, max((len(visible(name)) for name in names[:MAX_PARAMETERS_SHOWN]), default=0))
    lines = []
    for name in names[:MAX_PARAMETERS_SHOWN]:
        fields = space[name]
        text = describe(distribution_of(name, fields))
        for parent, values in (fields.get("when") or {}).items():
            text += f", when {parent} is {' or '.join(map(str, values if isinstance(values, list) else [values]))}"
        lines.append(
            f"{visible(name):<{width}}  {text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + '…'}"
        )
    if len(names) > MAX_PARAMETERS_SHOWN:
        lines.append(f"and {len(names) - MAX_PARAMETERS_SHOWN:,} more")
    return lines


def _metric(metric: str | None, directions: Sequence[str]) -> str:
    return f"{metric or 'value'} ({', '.join(directions)})"


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _and(count: int, what: str) -> str:
    return f", {count:,} {what}" if count else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {_plural(count, what)}"


def _plural(count: int, what: str) -> str:
    if count == 1:
        return what
    return "studies" if what == "study" else f"{what}s"


def _them(count: int, what: str) -> str:
    return f"this {what}" if count == 1 else f"these {count:,} {_plural(count, what)}"
