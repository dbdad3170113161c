"""What does a service's JSON say of the history? The same types that the functions here return.

What it does not tell, such as the number of a family in the database, is left at nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from hpo.answers.named_history import NamedHistory
from hpo.client.records import result_of
from storage.families import Family
from storage.importers.report import Flag, ImportReport, RowReport, TaskReport
from storage.integrity import Finding
from storage.overview import FamilyOverview, Overview
from storage.queries import StudyTotals, TaskTotals, Totals, TrialRow
from storage.sources import Forgotten, KnownSource, Source


def sources_of(told: Mapping[str, Any]) -> list[KnownSource]:
    """The sources in what `/history` tells."""
    return result_of(list[KnownSource], told["sources"])


def overview_of(told: Mapping[str, Any]) -> Overview:
    """All else in it."""
    return Overview(
        families=tuple(_family(each, place) for place, each in enumerate(told["families"])),
        without_family=told.get("without_family", 0),
        quarantine=told["quarantine"],
    )


def named_of(told: Mapping[str, Any]) -> NamedHistory:
    """All that has a name."""
    source, best = told["source"], told["best"]
    return NamedHistory(
        name=told["name"],
        kinds=tuple(told.get("kinds") or [told["kind"]]),
        found=totals_of(told),
        best=None if best is None else row_of(best),
        families=tuple(_family(each, place) for place, each in enumerate(told["families"])),
        source=None if source is None else result_of(KnownSource, source),
    )


def totals_of(told: Mapping[str, Any]) -> Totals:
    """Sums of trials."""
    return Totals(
        trials=told["trials"],
        counts={TrialState[state.upper()]: count for state, count in told["counts"].items()},
        cost_seconds=told["cost_seconds"],
        cost_known=told["cost_known"],
        studies=tuple(result_of(list[StudyTotals], told["studies"])),
        tasks=tuple(result_of(list[TaskTotals], told["tasks"])),
    )


def row_of(told: Mapping[str, Any]) -> TrialRow:
    """A trial of the history."""
    curve = told.get("curve")
    numbers = None if curve is None else {int(step): _number(value) for step, value in curve.items()}
    more = {"state": TrialState[told["state"].upper()].value, "attrs": told["attrs"] or {}, "curve": numbers}
    return result_of(TrialRow, {**told, **more})


def report_of(told: Mapping[str, Any]) -> ImportReport:
    """What became of an import."""
    tasks = result_of(list[TaskReport], told["tasks"])
    return ImportReport(
        source=result_of(Source, told["source"]),
        dry_run=told["dry_run"],
        taken=told["taken"],
        skipped=Counter(told["skipped"]),
        rejected=Counter(told["rejected"]),
        rows=result_of(list[RowReport], told["rows"]),
        tasks={task.study: task for task in tasks},
        notes=list(told["notes"]),
        flags=result_of(list[Flag], told["flags"]),
    )


def findings_of(told: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with a history."""
    return result_of(list[Finding], told["findings"])


def forgotten_of(told: Mapping[str, Any]) -> Forgotten:
    """What goes, or went, with a source."""
    return Forgotten(studies=told["studies"], trials=told["trials"])


def _family(told: Mapping[str, Any], place: int) -> FamilyOverview:
    """place: among the families, the oldest of which comes first."""
    return FamilyOverview(
        family=Family(
            family_id=place,
            name=told["name"],
            metric=told["metric"],
            directions=tuple(told["directions"]),
            space=told["space"],
            revision=0,
            lost_at=0,
        ),
        tasks=told["tasks"],
        studies=told["studies"],
        trials=told["trials"],
        quarantined=told["quarantined"],
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
