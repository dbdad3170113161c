"""As of when is an answer about the past? The same mark as long as nothing that is finished has changed."""

from typing import TypeAlias

from sqlalchemy import bindparam, func, select

from storage.database import Store
from storage.models import UNFINISHED, families, studies, study_changes, trials
from storage.retries import retried
from storage.statements import Statement

Mark: TypeAlias = tuple[int, ...]


@retried
def history_mark(store: Store) -> Mark:
    """Of all studies, families and finished trials.

    Ids are never used twice and revisions only grow, so their greatest, their number and their sum are enough. Studies
    without a family, for want of a parameter, have no revision: their finished trials are counted.
    """
    return tuple(int(each or 0) for each in store.fetch(_HISTORY)[0])


@retried
def study_mark(store: Store, study_id: int) -> Mark:
    """Of one study: its finished trials, how many trials there are, and whether anybody has claimed one since."""
    return tuple(int(each or 0) for each in store.fetch(_STUDY, study_id=study_id)[0])


_of_none = studies.c.family_id.is_(None)
_finished_of_none = (
    select(func.count()).select_from(studies.join(trials)).where(_of_none, trials.c.state.not_in(UNFINISHED))
)
_HISTORY = Statement(
    select(
        select(func.max(studies.c.id)).scalar_subquery(),
        select(func.count(studies.c.id)).scalar_subquery(),
        select(func.max(families.c.id)).scalar_subquery(),
        select(func.count(families.c.id)).scalar_subquery(),
        select(func.sum(families.c.revision)).scalar_subquery(),
        select(func.count(studies.c.quarantine)).where(_of_none).scalar_subquery(),
        _finished_of_none.scalar_subquery(),
    )
)
_of_study = trials.c.study_id == bindparam("study_id")
_STUDY = Statement(
    select(
        select(study_changes.c.revision).where(study_changes.c.study_id == bindparam("study_id")).scalar_subquery(),
        select(func.max(trials.c.number)).where(_of_study).scalar_subquery(),
        _finished_of_none.where(_of_study).scalar_subquery(),
    )
)
