"""How long have the trials of studies trained, all together?"""

from collections.abc import Collection

from sqlalchemy import func, select

from storage.database import Store
from storage.models import trials
from storage.retries import retried


@retried
def training_seconds(store: Store, study_ids: Collection[int]) -> dict[int, float]:
    """By study, the sum over its trials of which it is known; studies where it is of none are left out."""
    query = (
        select(trials.c.study_id, func.sum(trials.c.cost_seconds))
        .where(trials.c.study_id.in_(list(study_ids)), trials.c.cost_seconds.is_not(None))
        .group_by(trials.c.study_id)
    )
    with store.read() as connection:
        return {study_id: float(seconds) for study_id, seconds in connection.execute(query)}
