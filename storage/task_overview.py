"""Which tasks are there, in which families, and how much is known of each?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from storage.database import Store
from storage.models import families, studies, tasks, trials
from storage.retries import retried


@dataclass(frozen=True, kw_only=True)
class TaskOverview:
    """How much there is of a task: what is tuned, with its metric."""

    task_id: int
    name: str
    metric: str
    direction: str
    families: tuple[str, ...]  # of its studies, oldest first
    studies: int
    trials: int
    quarantined: int  # studies that nobody learns from
    latest: datetime  # when its last study was made


@retried
def list_tasks(store: Store, *, family: str | None = None, name: str | None = None) -> list[TaskOverview]:
    """The tasks by name: all, those with a study in a family, or those of one name: one for each of its metrics."""
    query = _TASKS if family is None else _TASKS.where(families.c.name == family)
    query = query if name is None else query.where(tasks.c.name == name)
    found: dict[int, TaskOverview] = {}
    with store.read() as connection:
        for row in connection.execute(query):
            before = found.get(row.id)
            latest = datetime.fromtimestamp(row.latest, UTC)
            found[row.id] = TaskOverview(
                task_id=row.id,
                name=row.name,
                metric=row.metric,
                direction=row.direction,
                families=(*(before.families if before else ()), *([row.family] if row.family else [])),
                studies=row.studies + (before.studies if before else 0),
                trials=int(row.trials) + (before.trials if before else 0),
                quarantined=row.quarantined + (before.quarantined if before else 0),
                latest=max(latest, before.latest) if before else latest,
            )
    return sorted(found.values(), key=lambda task: (task.name, task.metric))


_COUNT = select(func.count()).where(trials.c.study_id == studies.c.id).correlate(studies).scalar_subquery()
_TASKS = (
    select(
        tasks.c.id,
        tasks.c.name,
        tasks.c.metric,
        tasks.c.direction,
        families.c.name.label("family"),
        func.count().label("studies"),
        func.sum(_COUNT).label("trials"),
        func.count(studies.c.quarantine).label("quarantined"),
        func.max(studies.c.created_at).label("latest"),
    )
    .join_from(studies, tasks, studies.c.task_id == tasks.c.id)
    .join(families, families.c.id == studies.c.family_id, isouter=True)
    .group_by(tasks.c.id, tasks.c.name, tasks.c.metric, tasks.c.direction, families.c.id, families.c.name)
    .order_by(families.c.id)
)
