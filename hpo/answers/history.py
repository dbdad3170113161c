"""What is in the history? The answers of `hpo history` as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.answers.named_history import NamedHistory
    from hpo.spaces.related_families import Relation
    from storage.integrity import Finding
    from storage.overview import FamilyOverview, Overview
    from storage.queries import Totals
    from storage.sources import Forgotten, KnownSource


def overview_fields(known: Sequence[KnownSource], found: Overview) -> dict[str, Any]:
    """`hpo history list`."""
    return {
        "sources": [vars(source) for source in known],
        "families": [family_fields(family) for family in found.families],
        "without_family": found.without_family,
        "quarantine": found.quarantine,
    }


def about_fields(named: NamedHistory) -> dict[str, Any]:
    """`hpo history show`."""
    return {
        "name": named.name,
        "kind": named.kinds[0],
        "kinds": named.kinds,
        "source": None if named.source is None else vars(named.source),
        **totals_fields(named.found),
        "best": None if named.best is None else vars(named.best),
        "families": [family_fields(family) for family in named.families],
    }


def relations_fields(families: Sequence[FamilyOverview], relations: Sequence[Relation]) -> dict[str, Any]:
    """`hpo history spaces`."""
    return {
        "families": [family_fields(family) for family in families],
        "relations": [
            {
                "past": relation.past,
                "present": relation.present,
                "similarity": relation.mapping.similarity,
                "changes": [vars(change) for change in relation.mapping.changes],
            }
            for relation in relations
        ],
    }


def forgotten_fields(name: str, gone: Forgotten, *, dry_run: bool) -> dict[str, Any]:
    """`hpo history forget`."""
    return {"source": name, "studies": gone.studies, "trials": gone.trials, "dry_run": dry_run}


def verified_fields(findings: Sequence[Finding], quarantine: Mapping[str, str]) -> dict[str, Any]:
    """`hpo history verify`."""
    return {"findings": [vars(finding) for finding in findings], "quarantine": quarantine}


def trusted_fields(study: str, reason: str | None) -> dict[str, Any]:
    """`hpo history trust`. reason: why it was in quarantine; None: it was not."""
    return {"study": study, "was_in_quarantine": reason is not None, "reason": reason}


def quarantined_fields(study: str, reason: str, before: str | None) -> dict[str, Any]:
    """`hpo history quarantine`. before: the reasons that there were already."""
    return {"study": study, "reason": reason, "before": before}


def totals_fields(found: Totals) -> dict[str, Any]:
    """`hpo history query --totals`."""
    return {
        "trials": found.trials,
        "counts": {state.name.lower(): count for state, count in found.counts.items()},
        "cost_seconds": found.cost_seconds,
        "cost_known": found.cost_known,
        "tasks": [vars(task) for task in found.tasks],
        "studies": [vars(study) for study in found.studies],
    }


def family_fields(found: FamilyOverview) -> dict[str, Any]:
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
