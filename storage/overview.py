"""What there is in the history, at a glance: how much of each family, what is in quarantine, and what a name means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, func, select

from storage.database import Store
from storage.families import Family, family_from
from storage.models import families, sources, studies, tasks, trials

NameKind = Literal["family", "source", "task", "study"]


@dataclass(frozen=True, kw_only=True)
class FamilyOverview:
    """How much there is of a family."""

    family: Family
    tasks: int
    studies: int
    trials: int
    quarantined: int  # studies that nobody learns from


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What there is besides the sources."""

    families: tuple[FamilyOverview, ...]  # oldest first
    without_family: int  # studies of which no trial has finished yet
    quarantine: Mapping[str, str]  # why nobody learns from a study, by its name


def overview(store: Store) -> Overview:
    """The families with their sizes, and the studies in quarantine."""
    with store.read() as connection:
        sizes = {row.family_id: row for row in connection.execute(_SIZES)}
        found = [family_from(row) for row in connection.execute(select(families).order_by(families.c.id))]
        quarantine = {row.name: row.quarantine for row in connection.execute(_QUARANTINE)}
    return Overview(
        families=tuple(_with_size(family, sizes.get(family.family_id)) for family in found),
        without_family=sizes[None].studies if None in sizes else 0,
        quarantine=quarantine,
    )


@dataclass(frozen=True, kw_only=True)
class QuarantinedStudy:
    """A study that nobody learns from."""

    study_id: int
    name: str
    family: str | None
    reason: str


def quarantined(store: Store, *, most: int) -> list[QuarantinedStudy]:
    """The studies in quarantine, the newest first."""
    query = (
        select(studies.c.id, studies.c.name, studies.c.quarantine, families.c.name.label("family"))
        .join_from(studies, families, studies.c.family_id == families.c.id, isouter=True)
        .where(studies.c.quarantine.is_not(None))
        .order_by(studies.c.id.desc())
        .limit(most)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [QuarantinedStudy(study_id=row.id, name=row.name, family=row.family, reason=row.quarantine) for row in rows]


def kinds_of(store: Store, name: str) -> tuple[NameKind, ...]:
    """What in the history has that name, what is largest first."""
    with store.read() as connection:
        return tuple(
            kind
            for kind, queries in _NAMES.items()
            if any(connection.execute(query.where(query.selected_columns[0] == name)).first() for query in queries)
        )


def known_names(store: Store) -> set[str]:
    """All names of families, sources, tasks and studies."""
    queries = [query for queries in _NAMES.values() for query in queries]
    with store.read() as connection:
        return {name for query in queries for name in connection.execute(query).scalars()}


_PER_STUDY = (
    select(trials.c.study_id, func.count().label("trials")).group_by(trials.c.study_id).subquery("trials_per_study")
)
_SIZES = (
    select(
        studies.c.family_id,
        func.count(func.distinct(studies.c.task_id)).label("tasks"),
        func.count().label("studies"),
        func.coalesce(func.sum(_PER_STUDY.c.trials), 0).label("trials"),
        func.count(studies.c.quarantine).label("quarantined"),
    )
    .join_from(studies, _PER_STUDY, _PER_STUDY.c.study_id == studies.c.id, isouter=True)
    .group_by(studies.c.family_id)
)
_QUARANTINE = (
    select(studies.c.name, studies.c.quarantine).where(studies.c.quarantine.is_not(None)).order_by(studies.c.name)
)
_NAMES: dict[NameKind, tuple[Select[Any], ...]] = {
    "family": (select(families.c.name),),
    "source": (select(sources.c.name), select(studies.c.source).distinct()),
    "task": (select(tasks.c.name),),
    "study": (select(studies.c.name),),
}


def _with_size(family: Family, size: Any) -> FamilyOverview:
    return FamilyOverview(
        family=family,
        tasks=size.tasks if size else 0,
        studies=size.studies if size else 0,
        trials=int(size.trials) if size else 0,
        quarantined=size.quarantined if size else 0,
    )
