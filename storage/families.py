"""Which studies belong together: those that share a search space, the metric and the directions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from storage.database import Store, insert_if_absent, upsert
from storage.learned import forget_all
from storage.models import distributions, families, studies, study_changes, study_parameters, tasks
from storage.statements import Statement

METRIC_NAMES = "study:metric_names"  # the study system attribute in which Optuna keeps what each objective measures
METRIC_LENGTH = 24  # of it in a family's name: some metrics are called by whole sentences

Space = Mapping[str, Mapping[str, Any]]
"""Distributions by parameter name, in the words of a study file."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the studies of a family have in common."""

    family_id: int
    name: str
    metric: str | None
    directions: tuple[str, ...]
    space: Space
    revision: int  # grows with every change to its finished trials
    lost_at: int  # the revision at which some of them last went away


def family_of(space: Space, metric: str | None, directions: Iterable[str]) -> str:
    """The short, stable name of the family: the metric and a fingerprint of what is searched and to which end.

    space: by parameter name, `type`, `low`, `high`, `log`, `step`, `choices` and `when` as in a study file.
    """
    content = json.dumps([canonical(space), metric, list(directions)], sort_keys=True)
    return f"{(metric or 'value')[:METRIC_LENGTH].strip()}-{sha256(content.encode()).hexdigest()[:8]}"


def canonical(space: Space) -> dict[str, dict[str, Any]]:
    """The space without what its definitions would be anyway."""
    return {name: _canonical_fields(fields) for name, fields in space.items()}


def list_families(store: Store) -> list[Family]:
    """All families, oldest first."""
    with store.read() as connection:
        return [family_from(row) for row in connection.execute(select(families).order_by(families.c.id))]


def family_from(row: Any) -> Family:
    """A row of `families` as a family."""
    return Family(
        family_id=row.id,
        name=row.name,
        metric=row.metric,
        directions=tuple(json.loads(row.directions)),
        space=json.loads(row.space),
        revision=row.revision,
        lost_at=row.lost_at,
    )


# For those that change studies


def note_change(store: Store, connection: Connection, study_id: int) -> None:
    """Note that the finished trials of a study have changed; gives the study its family where that is not yet told."""
    changed = _ADVANCE.run(connection, study_id=study_id).first
    if changed is None:
        has_space = _LOCK_STUDY_WITH_SPACE_IF_FREE.run(connection, study_id=study_id).rows
        if not has_space or not settle_family(store, connection, study_id):
            return
        changed = _ADVANCE.run(connection, study_id=study_id).rows[0]
    _NOTE_CHANGE.run(connection, study_id=study_id, family_id=changed.id, revision=changed.revision)


def settle_family(store: Store, connection: Connection, study_id: int) -> bool:
    """Tell the family of a study from its space, declared or first used; whether it has any parameter."""
    study = connection.execute(_STUDY, {"study_id": study_id}).one()
    space = json.loads(study.space) if study.space else undeclared_spaces(connection, study_id).get(study_id)
    if not space:
        return False
    family_id = family_id_for(store, connection, space, study.metric, json.loads(study.directions))
    connection.execute(_JOIN, {"joined_id": study_id, "family": family_id})
    return True


def family_id_for(
    store: Store, connection: Connection, space: Space, metric: str | None, directions: Sequence[str]
) -> int:
    """The family of that space, metric and directions, which is founded where there is none."""
    name = family_of(space, metric, directions)
    found = json.dumps(list(directions))
    row = {"name": name, "metric": metric, "directions": found, "space": json.dumps(canonical(space))}
    while True:
        connection.execute(insert_if_absent(store.dialect, families), row)
        family_id = connection.execute(_FAMILY_NAMED, {"name": name}).scalar()
        if family_id is not None:  # else its last study has left it in this moment
            return int(family_id)


def note_changes(store: Store, connection: Connection, members: Mapping[int, Sequence[int]]) -> None:
    """As `note_change`, for many studies at once, given by family."""
    for family_id, study_ids in sorted(members.items()):
        grown = update(families).where(families.c.id == family_id).values(revision=families.c.revision + 1)
        revision = connection.execute(grown.returning(families.c.revision)).scalar_one()
        rows = [{"study_id": study_id, "family_id": family_id, "revision": revision} for study_id in study_ids]
        connection.execute(upsert(store.dialect, study_changes), rows)


def leave_family(connection: Connection, study_id: int) -> None:
    """Take a study out of its family, as before its space or it itself changes; a family without studies goes."""
    _LOCK_STUDY_IF_FREE.run(connection, study_id=study_id)
    family_id = connection.execute(_FAMILY_OF, {"study_id": study_id}).scalar()
    if family_id is None:
        return
    connection.execute(_LOCK_FAMILY, {"family_id": family_id})  # whoever is joining it has joined after this
    connection.execute(_JOIN, {"joined_id": study_id, "family": None})
    note_loss(connection, family_id)
    connection.execute(delete(study_changes).where(study_changes.c.study_id == study_id))
    if connection.execute(select(studies.c.id).where(studies.c.family_id == family_id).limit(1)).first() is None:
        connection.execute(delete(families).where(families.c.id == family_id))


def note_loss(connection: Connection, family_id: int) -> None:
    """Note that trials of a family went away: nobody must go on with what he remembers of it."""
    grown = families.c.revision + 1
    connection.execute(update(families).where(families.c.id == family_id).values(revision=grown, lost_at=grown))
    forget_all(connection)


def undeclared_spaces(connection: Connection, study_id: int | None = None) -> dict[int, dict[str, dict[str, Any]]]:
    """Per study, of one or of all: the first distribution of each parameter, in the words of a study file."""
    query = select(study_parameters.c.study_id, study_parameters.c.name, distributions.c.definition).join(distributions)
    if study_id is not None:
        query = query.where(study_parameters.c.study_id == study_id)
    spaces: dict[int, dict[str, dict[str, Any]]] = {}
    for owner, name, definition in connection.execute(query):
        stored = json.loads(definition)
        kind = stored["name"].removesuffix("Distribution").lower()
        spaces.setdefault(owner, {})[name] = {"type": kind, **stored["attributes"]}
    return spaces


_ADVANCE = Statement(
    update(families)
    .where(families.c.id == select(studies.c.family_id).where(studies.c.id == bindparam("study_id")).scalar_subquery())
    .values(revision=families.c.revision + 1)
    .returning(families.c.id, families.c.revision)
)
_NOTE_CHANGE = Statement(lambda dialect: upsert(dialect, study_changes))
_study_if_free = (  # who comes with a trial locked must not wait for it: see `storage.studies`
    select(studies.c.id).where(studies.c.id == bindparam("study_id")).with_for_update(key_share=True, nowait=True)
)
_LOCK_STUDY_IF_FREE = Statement(_study_if_free)
_LOCK_STUDY_WITH_SPACE_IF_FREE = Statement(
    _study_if_free.where(
        or_(
            studies.c.space.is_not(None),
            select(study_parameters.c.name).where(study_parameters.c.study_id == studies.c.id).exists(),
        )
    )
)
_JOIN = update(studies).where(studies.c.id == bindparam("joined_id")).values(family_id=bindparam("family"))
_STUDY = (
    select(studies.c.space, studies.c.directions, tasks.c.metric)
    .join_from(studies, tasks, isouter=True)
    .where(studies.c.id == bindparam("study_id"))
    .with_for_update(of=studies, key_share=True)  # its space does not grow before we commit
)
_FAMILY_OF = select(studies.c.family_id).where(studies.c.id == bindparam("study_id"))
_FAMILY_NAMED = select(families.c.id).where(families.c.name == bindparam("name"))
_FAMILY_NAMED = _FAMILY_NAMED.with_for_update(read=True, key_share=True)  # it does not go before we commit
_LOCK_FAMILY = select(families.c.id).where(families.c.id == bindparam("family_id")).with_for_update()
_MEANINGFUL = ("type", "low", "high", "log", "step", "choices", "when")


def _canonical_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: fields.get(name) for name in _MEANINGFUL}
    kept = {name: value for name, value in given.items() if value is not None and value is not False}
    for bound in ("low", "high", "step"):
        if bound in kept:
            kept[bound] = float(kept[bound])
    if kept.get("type") == "int" and kept.get("step") == 1:
        del kept["step"]
    return kept
