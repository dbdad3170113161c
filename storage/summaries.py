"""What the tuner needs of a family's past, kept ready: its cost does not grow with the history.

A summary holds the latest studies of a family and of each the best trials and some others. It is kept in the database
and brought up to date by reading the studies that have changed since, and no other.
"""

import json
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from sqlalchemy import Connection, bindparam, select

from storage.arrays import FINISHED, TrialArrays, counted_values, read_arrays
from storage.database import Store, upsert
from storage.distributions import DOUBLE, ParameterSets, distribution_of
from storage.errors import StorageError
from storage.families import METRIC_NAMES, Family, family_from
from storage.locks import ForkSafeLock
from storage.models import families, family_summaries, studies, study_attributes, study_changes, trials

LATEST_STUDIES = 128
TRIALS_OF_A_STUDY = (96, 384)  # at least and at most, whatever the number of studies
TRIALS = 12288  # of all studies together, within those bounds
CHANGES_WORTH_KEEPING = 8  # fewer changed studies are quickly read again (heuristic)
QUANTILES = 128
HEADER = struct.Struct("<I")
VERSION = 2  # of how a summary is packed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class StudySample:
    """Finished trials of a past study, seen by one of its objectives: k of them, the best and some others by turns.

    d parameters of the family.
    """

    study_id: int
    name: str
    directions: tuple[str, ...]  # of all its objectives
    objective: int = 0  # the one it is seen by
    metric: str | None = None  # what is measured by it, where that has a name
    names: tuple[str, ...]  # d
    distributions: tuple[BaseDistribution, ...]  # d
    finished: int  # trials in all
    values: NDArray[np.float64]  # (k,) that they count with: see `storage.arrays.counted_values`
    internal: NDArray[np.float64]  # (k, d) NaN where inactive
    quantiles: NDArray[np.float64]  # (q,) of the values of all trials, ascending: on what scale they are

    @property
    def direction(self) -> str:
        """Of the objective: minimize or maximize."""
        return self.directions[self.objective]

    def params(self, row: int) -> dict[str, Any]:
        """The active parameters of a trial, as the training code got them."""
        return {
            name: distribution.to_external_repr(float(value))
            for name, distribution, value in zip(self.names, self.distributions, self.internal[row], strict=True)
            if not np.isnan(value)
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilySummary:
    """The latest studies of a family at one of its revisions."""

    family: Family
    studies: tuple[StudySample, ...]  # by id, each as often as it has objectives


class Summaries:
    """The summaries of a store's families, for one process."""

    def __init__(self, known_sets: ParameterSets) -> None:
        self._sets = known_sets
        self._families: dict[int, Family] = {}
        self._summaries: dict[int, FamilySummary] = {}
        self._lock = ForkSafeLock()

    def families(self, store: Store) -> list[Family]:
        """The families that have finished trials, as of now."""
        with store.read() as connection:
            rows = connection.execute(_REVISIONS).all()
            unknown = {row.id for row in rows} - self._families.keys()
            if unknown:
                found = connection.execute(select(families).where(families.c.id.in_(unknown)))
                self._families.update((row.id, family_from(row)) for row in found)
        return [_at(self._families[row.id], row) for row in rows if row.id in self._families]

    def of(self, store: Store, family: Family) -> FamilySummary:
        """The summary of a family as `families` gave it, or later."""
        known = self._summaries.get(family.family_id)
        if known is not None and known.family.revision >= family.revision:
            return known
        with store.read() as connection:
            row = connection.execute(select(families).where(families.c.id == family.family_id)).first()
            if row is None:
                return FamilySummary(family=family, studies=())
            family = family_from(row)
            before = _not_older_than_a_loss(known, family) or self._stored(connection, family)
            summary, changes = self._brought_up_to_date(connection, family, before)
        with self._lock:
            self._summaries[family.family_id] = summary
        if before is None or changes >= CHANGES_WORTH_KEEPING:
            _keep(store, summary)
        return summary

    def _stored(self, connection: Connection, family: Family) -> FamilySummary | None:
        row = connection.execute(_STORED, {"family_id": family.family_id}).first()
        if row is None or row.revision < family.lost_at:
            return None
        try:
            return _unpacked(family, row.revision, row.payload)
        except (struct.error, ValueError, TypeError, KeyError) as error:  # as where a disk has damaged it
            logger.warning("what was kept of family %s is damaged, and read anew: %s", family.name, error)
            return None

    def _brought_up_to_date(
        self, connection: Connection, family: Family, before: FamilySummary | None
    ) -> tuple[FamilySummary, int]:
        """The summary at the family's revision, and how many studies had to be read for it."""
        since = -1 if before is None else before.family.revision
        if since == family.revision and before is not None:
            return before, 0
        changed = connection.execute(_CHANGED, {"family_id": family.family_id, "since": since}).all()
        names = {row.id: row.name for row in changed}
        kept = () if before is None else [study for study in before.studies if study.study_id not in names]
        latest = sorted([*names, *(study.study_id for study in kept)])[-LATEST_STUDIES:]
        most = int(np.clip(TRIALS // max(len(latest), 1), *TRIALS_OF_A_STUDY))
        wanted = [study_id for study_id in latest if study_id in names]
        arrays = read_arrays(connection, family, self._sets, wanted)
        values = _values_by_objective(connection, family, arrays, wanted)
        metrics = _metrics(connection, family, wanted)
        looks = [
            sample_study(
                family,
                names[study_id],
                replace(arrays, values=values[:, objective]),
                rows,
                objective=objective,
                metric=metrics[study_id][objective],
            )
            for study_id, rows in arrays.by_study.items()
            for objective in range(len(family.directions))
        ]
        fresh = [look for look in looks if look is not None]
        everything = sorted([*fresh, *kept], key=lambda study: (study.study_id, study.objective))
        chosen = tuple(_first(study, most) for study in everything if study.study_id in set(latest))
        return FamilySummary(family=family, studies=chosen), len(wanted)


def _at(family: Family, row: Any) -> Family:
    if (family.revision, family.lost_at) == (row.revision, row.lost_at):
        return family
    return replace(family, revision=row.revision, lost_at=row.lost_at)


def _not_older_than_a_loss(known: FamilySummary | None, family: Family) -> FamilySummary | None:
    return known if known is not None and known.family.revision >= family.lost_at else None


def _values_by_objective(
    connection: Connection, family: Family, arrays: TrialArrays, study_ids: Sequence[int]
) -> NDArray[np.float64]:
    """The values of all objectives of the trials, (n, o); NaN where there is none."""
    values = np.full((len(arrays), len(family.directions)), np.nan)
    values[:, 0] = arrays.values
    if len(family.directions) > 1:
        found = connection.execute(_MORE_VALUES, {"study_ids": list(study_ids)})
        more = {(row.study_id, row.number): json.loads(row.more_values) for row in found}
        for row, key in enumerate(zip(arrays.study_ids.tolist(), arrays.numbers.tolist(), strict=True)):
            if len(more.get(key, ())) == len(family.directions) - 1:
                values[row, 1:] = more[key]
    return values


def _metrics(connection: Connection, family: Family, study_ids: Sequence[int]) -> dict[int, list[str | None]]:
    """What each study measures by each objective: as it says itself, or else its family."""
    said = {row.study_id: json.loads(row.value) for row in connection.execute(_METRIC_NAMES, {"study_ids": study_ids})}
    several = len(family.directions)
    unsaid: list[str | None] = [family.metric] if several == 1 else [None] * several
    return {
        study_id: names if isinstance(names := said.get(study_id), list) and len(names) == several else unsaid
        for study_id in study_ids
    }


def sample_study(
    family: Family,
    name: str,
    arrays: TrialArrays,
    rows: NDArray[np.intp],
    *,
    objective: int = 0,
    metric: str | None = None,
) -> StudySample | None:
    """The trials in an order of which every beginning is a fair sample: the best and a random other by turns.

    arrays: with the values of the objective.
    """
    maximize = family.directions[objective] == "maximize"
    values = counted_values(arrays.states[rows], arrays.values[rows], maximize=maximize)
    if np.isnan(values).all():
        return None
    ranked = np.argsort(-values if maximize else values, kind="stable")
    half = (min(len(rows), TRIALS_OF_A_STUDY[1]) + 1) // 2
    best, others = ranked[:half], np.random.default_rng(0).permutation(ranked[half:])[:half]
    turns = np.full(2 * half, -1)
    turns[0::2], turns[1 : 2 * len(others) : 2] = best, others
    order = turns[turns >= 0]
    return StudySample(
        study_id=int(arrays.study_ids[rows[0]]),
        name=name,
        directions=family.directions,
        objective=objective,
        metric=metric,
        names=arrays.names,
        distributions=arrays.distributions,
        finished=len(rows),
        values=values[order],
        internal=arrays.internal[rows[order]],
        quantiles=np.quantile(values, (np.arange(QUANTILES) + 0.5) / QUANTILES, method="inverted_cdf"),
    )


def _first(study: StudySample, most: int) -> StudySample:
    if len(study.values) <= most:
        return study
    return replace(study, values=study.values[:most], internal=study.internal[:most])


# As it is kept


def _keep(store: Store, summary: FamilySummary) -> None:
    """Store a summary for other processes; a store that cannot be written does without."""
    family = summary.family
    row = {"family_id": family.family_id, "revision": family.revision, "payload": _packed(summary)}
    try:
        with store.write(durable=False) as connection:
            now = connection.execute(_REVISIONS.where(families.c.id == family.family_id)).first()
            if now is not None and now.lost_at <= family.revision:
                connection.execute(upsert(store.dialect, family_summaries), row)
    except StorageError:
        return


def _packed(summary: FamilySummary) -> bytes:
    header = [
        [study.study_id, study.name, study.objective, study.metric, study.finished, len(study.values)]
        for study in summary.studies
    ]
    text = json.dumps({"version": VERSION, "studies": header}).encode()
    scales = [study.quantiles.astype(DOUBLE).tobytes() for study in summary.studies]
    trials = [np.column_stack([study.values, study.internal]).astype(DOUBLE).tobytes() for study in summary.studies]
    return b"".join([HEADER.pack(len(text)), text, *scales, *trials])


def _unpacked(family: Family, revision: int, payload: bytes) -> FamilySummary | None:
    """None where another version of this program has packed it."""
    names = tuple(family.space)
    distributions = tuple(distribution_of(name, fields) for name, fields in family.space.items())
    (length,) = HEADER.unpack_from(payload)
    content = json.loads(payload[HEADER.size : HEADER.size + length])
    if not isinstance(content, dict) or content["version"] != VERSION:
        return None
    header = content["studies"]
    doubles = np.frombuffer(payload, DOUBLE, offset=HEADER.size + length)
    scales = doubles[: len(header) * QUANTILES].reshape(-1, QUANTILES)
    block = doubles[len(header) * QUANTILES :].reshape(-1, 1 + len(names))
    ends = np.cumsum([size for *_, size in header], dtype=np.int64).tolist()
    if ends[-1:] not in ([], [len(block)]):
        raise ValueError(f"it holds {len(block)} trials, and {ends[-1]} were kept")
    samples = [
        StudySample(
            study_id=study_id,
            name=name,
            directions=family.directions,
            objective=objective,
            metric=metric,
            names=names,
            distributions=distributions,
            finished=finished,
            values=block[end - size : end, 0],
            internal=block[end - size : end, 1:],
            quantiles=scale,
        )
        for (study_id, name, objective, metric, finished, size), end, scale in zip(header, ends, scales, strict=True)
    ]
    return FamilySummary(family=replace(family, revision=revision), studies=tuple(samples))


_REVISIONS = (
    select(families.c.id, families.c.revision, families.c.lost_at)
    .where(families.c.revision > 0)
    .order_by(families.c.id)
)
_STORED = select(family_summaries.c.revision, family_summaries.c.payload).where(
    family_summaries.c.family_id == bindparam("family_id")
)
_MORE_VALUES = select(trials.c.study_id, trials.c.number, trials.c.more_values).where(
    trials.c.study_id.in_(bindparam("study_ids", expanding=True)),
    trials.c.state.in_(FINISHED),
    trials.c.more_values.is_not(None),
)
_METRIC_NAMES = select(study_attributes.c.study_id, study_attributes.c.value).where(
    study_attributes.c.study_id.in_(bindparam("study_ids", expanding=True)),
    study_attributes.c.kind == "system",
    study_attributes.c.key == METRIC_NAMES,
)
_CHANGED = (
    select(studies.c.id, studies.c.name)
    .join(study_changes)
    .where(
        study_changes.c.family_id == bindparam("family_id"),
        study_changes.c.revision > bindparam("since"),
        studies.c.quarantine.is_(None),
    )
    .order_by(study_changes.c.study_id.desc())
    .limit(LATEST_STUDIES)
)
