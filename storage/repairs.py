"""What is odd about the studies of a family, how could each be mended, and mending it.

A scale break is mended by multiplying what is in percent (or in fractions) so that it is like the rest; a reversed
direction by mirroring the values. Nothing is mended by itself: a person looks at the evidence first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select, update

from storage.audit import Doer, note_within
from storage.database import Store
from storage.errors import FamilyNotFoundError, StorageError, StudyNotFoundError
from storage.families import note_change, note_loss
from storage.importers.flags import look_at
from storage.importers.report import Flag
from storage.models import (
    UNFINISHED,
    families,
    intermediate_values,
    studies,
    study_attributes,
    study_changes,
    trials,
)
from storage.seals import seal_study, seal_trials
from storage.trial_rows import set_attribute

REPAIRS = "hindsight:repairs"  # the study attribute that says what was mended
SCALE = "scale break"  # the kind of a flag
TOPS = (1.0, 100.0)  # of a fraction, of a percentage

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What would be done to the values of trials: each becomes `offset + factor * value`."""

    kind: Literal["scale", "mirror"]
    factor: float
    offset: float
    above: float | None  # only values above it; None: all
    trials: int  # how many would change
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Oddity:
    """Something about a study that a person should look at."""

    study: str
    study_id: int
    kind: str  # scale break, reversed direction, or quarantine
    evidence: str
    quarantine: str | None  # why nobody learns from the study; None: everybody may
    remedy: Remedy | None  # None: there is none but a look


def oddities(store: Store, family: str) -> list[Oddity]:
    """The studies of a family that are odd, or in quarantine. Changes nothing. Raises FamilyNotFoundError."""
    with store.read() as connection:
        row = connection.execute(select(families.c.id).where(families.c.name == family)).first()
        if row is None:
            raise FamilyNotFoundError.named(family, connection.execute(select(families.c.name)).scalars())
        members = connection.execute(
            select(studies.c.id, studies.c.name, studies.c.quarantine)
            .where(studies.c.family_id == row.id)
            .order_by(studies.c.id)
        ).all()
    flags = look_at(store, [member.name for member in members])
    known = {member.name: member for member in members}
    found = [
        Oddity(
            study=flag.study,
            study_id=known[flag.study].id,
            kind=flag.kind,
            evidence=flag.evidence,
            quarantine=known[flag.study].quarantine,
            remedy=_remedy(store, known[flag.study].id, flag),
        )
        for flag in flags
        if flag.study in known
    ]
    flagged = {each.study for each in found}
    found += [
        Oddity(
            study=member.name,
            study_id=member.id,
            kind="quarantine",
            evidence=member.quarantine,
            quarantine=member.quarantine,
            remedy=None,
        )
        for member in members
        if member.quarantine is not None and member.name not in flagged
    ]
    return sorted(found, key=lambda each: each.study_id)


def repair(store: Store, study: str, *, kind: str, who: str, doer: Doer | None = None) -> Remedy:
    """Mend what is odd of that kind about a study, and learn from it again; returns what was done.

    Raises StudyNotFoundError, StorageError where there is nothing to mend, while trials run, or where the study has
    changed since it was looked at.
    """
    with store.read() as connection:
        row = connection.execute(
            select(studies.c.id, families.c.name.label("family"), study_changes.c.revision)
            .select_from(studies.outerjoin(families).outerjoin(study_changes, study_changes.c.study_id == studies.c.id))
            .where(studies.c.name == study)
        ).first()
        if row is None:
            raise StudyNotFoundError.named(study, connection.execute(select(studies.c.name)).scalars())
    found = [each for each in (oddities(store, row.family) if row.family else []) if each.study == study]
    remedies = [each.remedy for each in found if each.kind == kind and each.remedy is not None]
    if not remedies:
        there = ", ".join(f"{each.kind}: {each.evidence}" for each in found) or "nothing is odd about it"
        raise StorageError(f"There is no {kind} to mend in study {study!r}; {there}.")
    _mend(store, row.id, remedies[0], kind=kind, who=who, revision=row.revision, doer=doer)
    return remedies[0]


def _remedy(store: Store, study_id: int, flag: Flag) -> Remedy | None:
    with store.read() as connection:
        values = np.array(
            connection.execute(
                select(trials.c.value).where(trials.c.study_id == study_id, trials.c.value.is_not(None))
            ).scalars().all(),
            dtype=np.float64,
        )  # fmt: skip
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    if flag.kind == SCALE:
        return _scaled(values, is_mixed=flag.quarantined)
    return _mirrored(values) if flag.is_mirrored else None


def _scaled(values: Values, *, is_mixed: bool) -> Remedy:
    """Percentages become fractions where both are mixed; else a whole study is put on the other scale."""
    if is_mixed:
        large = int((values > 1.0).sum())
        words = f"the {large:,} values above 1 are divided by 100"
        return Remedy(kind="scale", factor=0.01, offset=0.0, above=1.0, trials=large, sentence=words)
    factor, done = (0.01, "divided") if np.median(values) > 1.0 else (100.0, "multiplied")
    words = f"all {len(values):,} values are {done} by 100"
    return Remedy(kind="scale", factor=factor, offset=0.0, above=None, trials=len(values), sentence=words)


def _mirrored(values: Values) -> Remedy:
    """The same values counted from the other end of their scale: 1 - value for fractions.

    The metric keeps its name: it is the family's, which the values contradicted, and with them mended it is true.
    """
    top = next((top for top in TOPS if values.min() >= 0.0 and values.max() <= top), 0.0)
    words = f"all {len(values):,} values become {f'{top:g} - value' if top else '-value'}"
    return Remedy(kind="mirror", factor=-1.0, offset=top, above=None, trials=len(values), sentence=words)


def _mend(
    store: Store, study_id: int, remedy: Remedy, *, kind: str, who: str, revision: int | None, doer: Doer | None
) -> None:
    """revision: of the study, when it was looked at."""
    with store.write() as connection:
        study = connection.execute(select(studies).where(studies.c.id == study_id).with_for_update()).first()
        if study is None:
            raise StudyNotFoundError(f"There is no study with id {study_id}.")
        _check_finished(connection, study)
        _check_unchanged(connection, study, revision)
        chosen = [trials.c.study_id == study_id, trials.c.value.is_not(None)]
        chosen += [] if remedy.above is None else [trials.c.value > remedy.above]
        of_trials = intermediate_values.c.trial_id.in_(select(trials.c.id).where(*chosen))
        mended: Mapping[str, Any] = {"value": remedy.offset + remedy.factor * intermediate_values.c.value}
        connection.execute(update(intermediate_values).where(of_trials).values(mended))
        connection.execute(update(trials).where(*chosen).values(value=remedy.offset + remedy.factor * trials.c.value))
        left = _left_of(study.quarantine, kind)
        connection.execute(update(studies).where(studies.c.id == study_id).values(quarantine=left))
        noted = connection.execute(
            select(study_attributes.c.value).where(
                study_attributes.c.study_id == study_id,
                study_attributes.c.kind == "system",
                study_attributes.c.key == REPAIRS,
            )
        ).scalar()
        entry = {"at": time.time(), "who": who, "what": kind, **asdict(remedy)}
        value = [*(json.loads(noted) if noted else []), entry]
        set_attribute(store, connection, study_attributes, study_id, kind="system", key=REPAIRS, value=value)
        note_change(store, connection, study_id)
        if study.family_id is not None:
            note_loss(connection, study.family_id)
        seal_trials(connection, study_id, 0)
        seal_study(connection, study_id)
        note_within(connection, doer, study.name, details={"done": remedy.sentence})


def _check_finished(connection: Connection, study: Any) -> None:
    running = connection.execute(
        select(func.count()).select_from(trials).where(trials.c.study_id == study.id, trials.c.state.in_(UNFINISHED))
    ).scalar_one()
    if running:
        raise StorageError(f"Study {study.name!r} has {running} trials that have not finished: end it first.")


def _check_unchanged(connection: Connection, study: Any, revision: int | None) -> None:
    """Nobody has mended it meanwhile: done twice, a remedy is none."""
    now = connection.execute(select(study_changes.c.revision).where(study_changes.c.study_id == study.id)).scalar()
    if now != revision:
        raise StorageError(f"Study {study.name!r} was changed or mended meanwhile; look at what is odd about it again.")


def _left_of(quarantine: str | None, kind: str) -> str | None:
    """The reasons of a quarantine without those of that kind."""
    reasons: Sequence[str] = [] if quarantine is None else quarantine.split("; ")
    left = [reason for reason in reasons if not reason.startswith(f"{kind}:")]
    return "; ".join(left) or None
