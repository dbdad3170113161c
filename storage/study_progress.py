"""How far is each study? Its trials by state, their extreme values, when the last one ended.

What is said of finished trials is remembered in a process until one more has finished: a study of a hundred thousand
trials is not counted again for each who asks.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from optuna.trial import TrialState
from sqlalchemy import Connection, case, func, select

from storage.database import Store
from storage.locks import ForkSafeLock
from storage.models import UNFINISHED, study_changes, trials
from storage.statements import Statement, is_listed

MOST_LISTED = 200  # studies that are looked for one by one; more are found by looking at all
LARGEST = 1.7976931348623157e308

Part: TypeAlias = Any
"""Of one study and state: `trials`, the `lowest` and the `highest` finite value of complete ones, `last` end."""
_Mark: TypeAlias = tuple[float, int, int]  # its creation; the family and its revision when trials last finished

_remembered: WeakKeyDictionary[Store, dict[int, tuple[_Mark, list[Part]]]] = WeakKeyDictionary()
_lock = ForkSafeLock()


def progress_of(store: Store, connection: Connection, created: Mapping[int, float]) -> Mapping[int, list[Part]]:
    """The parts of each study that has trials. created: when each of the studies was, by its id."""
    study_ids = list(created)
    listed = str(list(study_ids)) if len(study_ids) <= MOST_LISTED else None
    changes = _run(connection, _MARKS, _ALL_MARKS, listed)
    marks = {row.study_id: (created.get(row.study_id, 0.0), row.family_id, row.revision) for row in changes}
    with _lock:
        known = dict(_remembered.setdefault(store, {}))
    stale = [each for each in study_ids if each not in marks or known.get(each, (None,))[0] != marks[each]]
    counted = _counted(connection, stale)
    fresh = {each: (marks[each], counted.get(each, [])) for each in stale if each in marks}
    with _lock:
        _remembered[store].update(fresh)
    found: dict[int, list[Part]] = defaultdict(list)
    for part in _run(connection, _UNFINISHED, _ALL_UNFINISHED, listed):
        found[part.study_id].append(part)
    for study_id in study_ids:
        if study_id in fresh or study_id in marks:
            found[study_id] += (fresh.get(study_id) or known[study_id])[1]
        else:
            found[study_id] += counted.get(study_id, [])
    return found


def _counted(connection: Connection, study_ids: Iterable[int]) -> dict[int, list[Part]]:
    wanted = list(study_ids)
    if not wanted:
        return {}
    found: dict[int, list[Part]] = defaultdict(list)
    listed = str(wanted) if len(wanted) <= MOST_LISTED else None
    for part in _run(connection, _FINISHED, _ALL_FINISHED, listed):
        found[part.study_id].append(part)
    return found


def _run(connection: Connection, some: Statement, every: Statement, listed: str | None) -> list[Any]:
    return (every.run(connection) if listed is None else some.run(connection, ids=listed)).rows


_result = case(
    (
        (trials.c.state == TrialState.COMPLETE.value) & trials.c.value.between(-LARGEST, LARGEST),
        trials.c.value,
    )
)
_parts = select(
    trials.c.study_id,
    trials.c.state,
    func.count().label("trials"),
    func.min(_result).label("lowest"),
    func.max(_result).label("highest"),
    func.max(trials.c.finished_at).label("last"),
).group_by(trials.c.study_id, trials.c.state)
_finished = _parts.where(trials.c.state.not_in(UNFINISHED))
_unfinished = _parts.where(trials.c.state.in_(UNFINISHED))
_ALL_FINISHED = Statement(_finished)
_FINISHED = Statement(lambda dialect: _finished.where(is_listed(dialect, trials.c.study_id, "ids")))
_ALL_UNFINISHED = Statement(_unfinished)
_UNFINISHED = Statement(lambda dialect: _unfinished.where(is_listed(dialect, trials.c.study_id, "ids")))
_marks = select(study_changes.c.study_id, study_changes.c.family_id, study_changes.c.revision)
_ALL_MARKS = Statement(_marks)
_MARKS = Statement(lambda dialect: _marks.where(is_listed(dialect, study_changes.c.study_id, "ids")))
