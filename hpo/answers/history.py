"""What is in the history? The answers of `hpo history` as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from hpo.answers.trial_table import HistoryTrial, row_fields
from hpo.spaces.space_mapping import Change
from storage.integrity import Finding
from storage.overview import NameKind
from storage.queries import StudyTotals, TaskTotals
from storage.repairs import Oddity, Remedy
from storage.sources import KnownSource
from storage.task_overview import TaskOverview

if TYPE_CHECKING:
    from hpo.answers.named_history import NamedHistory
    from hpo.spaces.related_families import Relation
    from storage.overview import FamilyOverview, Overview
    from storage.queries import Totals
    from storage.sources import Forgotten


class FamilySummary(TypedDict):
    """Tasks that share a space, the metric and the directions, and how much there is of them."""

    name: str
    metric: str | None
    directions: Sequence[str]
    tasks: int
    studies: int
    trials: int
    quarantined: int  # studies that nobody learns from
    space: Mapping[str, Any]


class FamilyInFull(FamilySummary):
    """The same, with the tasks."""

    members: list[TaskOverview]


class HistoryOverview(TypedDict):
    """What there is."""

    sources: list[KnownSource]
    families: list[FamilySummary]
    without_family: int  # studies of which no trial has finished yet
    quarantine: Mapping[str, str]  # why nobody learns from a study, by its name


class HistoryTotals(TypedDict):
    """How many trials meet a condition, and at what cost."""

    trials: int
    counts: dict[str, int]  # by state
    cost_seconds: float
    cost_known: int  # of how many trials
    tasks: list[TaskTotals]
    studies: list[StudyTotals]


class AboutName(HistoryTotals):
    """What there is of a name."""

    name: str
    kind: NameKind
    kinds: Sequence[NameKind]  # what the name may mean, of which the first is told
    source: KnownSource | None
    best: HistoryTrial | None  # null too where it is about several tasks
    families: list[FamilySummary]


class SpacesRelated(TypedDict):
    """Two families whose spaces nearly match."""

    past: str  # the older one
    present: str
    similarity: float  # in [0, 1]
    changes: list[Change]


class SpacesFound(TypedDict):
    """The space of each family, and how the spaces of near families relate."""

    families: list[FamilySummary]
    relations: list[SpacesRelated]


class SourceForgotten(TypedDict):
    """What went, or would go, with a source."""

    source: str
    studies: int
    trials: int
    dry_run: bool


class HistoryVerified(TypedDict):
    """What is not whole, does not fit together, or was tampered with."""

    findings: list[Finding]
    quarantine: Mapping[str, str]


class StudyTrusted(TypedDict):
    """A study that the tuner learns from again."""

    study: str
    was_in_quarantine: bool
    reason: str | None


class StudyQuarantined(TypedDict):
    """A study that nobody learns from."""

    study: str
    reason: str
    before: str | None  # the reasons that there were already


class FamilyQuality(TypedDict):
    """What is odd about the studies of a family."""

    family: str
    oddities: list[Oddity]


class StudyRepaired(TypedDict):
    """What was mended about a study."""

    study: str
    done: Remedy


def overview_fields(known: Sequence[KnownSource], found: Overview) -> HistoryOverview:
    """`hpo history list`."""
    return {
        "sources": list(known),
        "families": [family_fields(family) for family in found.families],
        "without_family": found.without_family,
        "quarantine": found.quarantine,
    }


def about_fields(named: NamedHistory) -> AboutName:
    """`hpo history show`."""
    return {
        "name": named.name,
        "kind": named.kinds[0],
        "kinds": named.kinds,
        "source": named.source,
        **totals_fields(named.found),
        "best": None if named.best is None else row_fields(named.best),
        "families": [family_fields(family) for family in named.families],
    }


def relations_fields(families: Sequence[FamilyOverview], relations: Sequence[Relation]) -> SpacesFound:
    """`hpo history spaces`."""
    return {
        "families": [family_fields(family) for family in families],
        "relations": [
            {
                "past": relation.past,
                "present": relation.present,
                "similarity": relation.mapping.similarity,
                "changes": list(relation.mapping.changes),
            }
            for relation in relations
        ],
    }


def forgotten_fields(name: str, gone: Forgotten, *, dry_run: bool) -> SourceForgotten:
    """`hpo history forget`."""
    return {"source": name, "studies": gone.studies, "trials": gone.trials, "dry_run": dry_run}


def verified_fields(findings: Sequence[Finding], quarantine: Mapping[str, str]) -> HistoryVerified:
    """`hpo history verify`."""
    return {"findings": list(findings), "quarantine": quarantine}


def trusted_fields(study: str, reason: str | None) -> StudyTrusted:
    """`hpo history trust`. reason: why it was in quarantine; None: it was not."""
    return {"study": study, "was_in_quarantine": reason is not None, "reason": reason}


def quarantined_fields(study: str, reason: str, before: str | None) -> StudyQuarantined:
    """`hpo history quarantine`. before: the reasons that there were already."""
    return {"study": study, "reason": reason, "before": before}


def totals_fields(found: Totals) -> HistoryTotals:
    """`hpo history query --totals`."""
    return {
        "trials": found.trials,
        "counts": {state.name.lower(): count for state, count in found.counts.items()},
        "cost_seconds": found.cost_seconds,
        "cost_known": found.cost_known,
        "tasks": list(found.tasks),
        "studies": list(found.studies),
    }


def family_fields(found: FamilyOverview) -> FamilySummary:
    """A family with its size."""
    return {
        "name": found.family.name,
        "metric": found.family.metric,
        "directions": found.family.directions,
        "tasks": found.tasks,
        "studies": found.studies,
        "trials": found.trials,
        "quarantined": found.quarantined,
        "space": found.family.space,
    }
