"""What is in the history under a name, of a source, a task, a family or a study?"""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import TrialState

from hpo.errors import NoHistoryError
from storage.database import Store
from storage.errors import did_you_mean
from storage.overview import FamilyOverview, NameKind, kinds_of, known_names, overview
from storage.queries import Totals, TrialRow, query_trials, totals
from storage.query_language import Comparison, Field
from storage.sources import KnownSource, list_sources


@dataclass(frozen=True, kw_only=True)
class NamedHistory:
    """All that has a name."""

    name: str
    kinds: tuple[NameKind, ...]  # what the name may mean, of which the first is told
    found: Totals
    best: TrialRow | None  # None too where it is about several tasks
    families: tuple[FamilyOverview, ...]
    source: KnownSource | None


def named_history(store: Store, name: str) -> NamedHistory:
    """What there is of that name. Raises NoHistoryError, which lists near names."""
    kinds = kinds_of(store, name)
    if not kinds:
        hint = did_you_mean(name, known_names(store))
        raise NoHistoryError(f"there is no source, task, family or study named {name!r}.{hint}")
    condition = Comparison(field=Field(room="column", name=kinds[0]), operator="=", value=name)
    found = totals(store, condition)
    is_one_task = len(found.tasks) == 1
    best = next(query_trials(store, condition, order_by="best", limit=1), None) if is_one_task else None
    families = {study.family for study in found.studies}
    sources = list_sources(store) if "source" in kinds else []
    return NamedHistory(
        name=name,
        kinds=kinds,
        found=found,
        best=best if best is not None and best.state == TrialState.COMPLETE else None,
        families=tuple(family for family in overview(store).families if family.family.name in families),
        source=next((source for source in sources if source.name == name), None),
    )
