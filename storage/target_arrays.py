"""Which finished trials, as arrays, belong to a family or a task, and to which task does each belong?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, select

from storage.arrays import FINISHED, TrialArrays, read_arrays
from storage.database import Store
from storage.distributions import ParameterSets
from storage.families import Family, family_from
from storage.models import families, studies, tasks, trials
from storage.queries import ROWS_AT_A_TIME
from storage.query_language import ALWAYS, Condition
from storage.query_plan import plan
from storage.retries import retried

NUMBERS = 1 << 32  # a study has fewer trials


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyTrials:
    """Finished trials of one family, studies in quarantine left out."""

    family: Family
    arrays: TrialArrays
    task_of: Mapping[int, str]  # by study id: its task, or its own name

    @cached_property
    def tasks(self) -> tuple[list[str], NDArray[np.intp]]:
        """The names of the tasks, oldest study first, and the task of each trial (n,) as a place in them."""
        of_study = {study_id: self.task_of.get(study_id, str(study_id)) for study_id in self.arrays.by_study}
        names = list(dict.fromkeys(of_study.values()))
        place = {name: index for index, name in enumerate(names)}
        found = np.empty(len(self.arrays), dtype=np.intp)
        for study_id, rows in self.arrays.by_study.items():
            found[rows] = place[of_study[study_id]]
        return names, found


@retried
def target_revisions(store: Store, target: str) -> tuple[tuple[int, int], ...]:
    """The families that are the target, or have trials of it, with their revisions: the same until something changes.

    Empty where no finished trial belongs to such a family or task.
    """
    with store.read() as connection:
        return tuple((family.family_id, family.revision) for family in _families(connection, target))


@retried
def target_trials(store: Store, target: str, where: Condition = ALWAYS) -> list[FamilyTrials]:
    """The finished trials of a family or a task that meet a condition, by family; families without any are left out.

    Raises QueryError.
    """
    with store.read() as connection:
        known = ParameterSets()
        found = [_trials_of(connection, family, target, known) for family in _families(connection, target)]
        if where != ALWAYS and found:
            wanted = _wanted(store, connection, where)
            found = [_of(each, np.isin(_keys(each.arrays.study_ids, each.arrays.numbers), wanted)) for each in found]
    return [each for each in found if len(each.arrays)]


def _families(connection: Connection, target: str) -> list[Family]:
    return [family_from(row) for row in connection.execute(_FAMILIES, {"target": target})]


def _trials_of(connection: Connection, family: Family, target: str, known: ParameterSets) -> FamilyTrials:
    rows = connection.execute(_STUDIES, {"family_id": family.family_id}).all()
    only = None if family.name == target else [row.id for row in rows if row.task == target]
    return FamilyTrials(
        family=family,
        arrays=read_arrays(connection, family, known, only),
        task_of={row.id: row.task or row.name for row in rows},
    )


def _wanted(store: Store, connection: Connection, where: Condition) -> NDArray[np.int64]:
    """The keys of all finished trials that meet the condition."""
    decided = plan(where, connection, ParameterSets(), store.dialect)
    query: Select[Any] = select(trials.c.study_id, trials.c.number, *decided.columns)
    query = query.where(trials.c.state.in_(FINISHED), decided.where)
    keys = [np.empty(0, dtype=np.int64)]
    with connection.execute(query, execution_options={"yield_per": ROWS_AT_A_TIME}) as result:
        for rows in result.partitions():
            kept = decided.keep(rows)
            if kept:
                owners, numbers, *_ = zip(*kept, strict=True)
                keys.append(_keys(np.array(owners, dtype=np.int64), np.array(numbers, dtype=np.int64)))
    return np.concatenate(keys)


def _keys(study_ids: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = study_ids * NUMBERS + numbers
    return keys


def _of(found: FamilyTrials, rows: NDArray[np.bool_]) -> FamilyTrials:
    return FamilyTrials(family=found.family, arrays=found.arrays.of(rows), task_of=found.task_of)


_OF_TASK = (
    select(studies.c.id)
    .join(tasks, studies.c.task_id == tasks.c.id)
    .where(studies.c.family_id == families.c.id, studies.c.quarantine.is_(None), tasks.c.name == bindparam("target"))
)
_FAMILIES = (
    select(families)
    .where(families.c.revision > 0, (families.c.name == bindparam("target")) | _OF_TASK.exists())
    .order_by(families.c.id)
)
_STUDIES = (
    select(studies.c.id, studies.c.name, tasks.c.name.label("task"))
    .join_from(studies, tasks, studies.c.task_id == tasks.c.id, isouter=True)
    .where(studies.c.family_id == bindparam("family_id"), studies.c.quarantine.is_(None))
    .order_by(studies.c.id)
)
