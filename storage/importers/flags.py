"""What is odd about an imported study: a metric on two scales, or one that seems to be meant the other way round.

A study whose runs cannot be compared with each other, or that contradicts its family, is put in quarantine: the tuner
learns nothing from it until somebody says that it is right (`hpo history trust STUDY`). A whole study on another scale
than its family's is only mentioned, for the tuner gives each task a scale of its own.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from scipy.stats import rankdata
from sqlalchemy import Connection, bindparam, select, update

from storage.arrays import TrialArrays, read_arrays
from storage.audit import Doer, note_within
from storage.database import Store
from storage.distributions import ParameterSets
from storage.errors import StudyNotFoundError
from storage.families import Family, family_from, family_of, note_loss
from storage.importers.report import Flag
from storage.models import families, studies
from storage.seals import seal_study

Array = NDArray[np.float64]

STUDIES_AT_A_TIME = 500  # whose trials are in memory
VOICES = 200  # studies that say what a family agrees on
TRIALS_OF_A_VOICE = 200

FEWEST_TRIALS = 20  # that a study is judged by
FEWEST_VOICES = 3
AGREEMENT = 0.3  # median rank correlation with the others, for a family to have an opinion (heuristic)
DISAGREEMENT = -0.3  # rank correlation at which a study contradicts it (heuristic)
MIRRORED = 0.8  # share of the others' agreement, turned round, at which nobody learns from a study (heuristic)
STANDARD_ERRORS = 4.0  # by which the disagreement must differ from none

FRACTIONS = ("acc", "auc", "f1", "precision", "recall", "err", "iou", "dice", "map", "score", "top1", "top5", "r2")
GAP = 2.0  # least ratio between the smallest percentage and the largest fraction
LEAST_SHARE = 0.02  # of the rarer scale
FEWEST_ON_A_SCALE = 2  # of a metric that is called like a fraction; more of any other, which may just vary
FEWEST_OF_OTHERS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyValues:
    """What is looked at of a study: n trials with a finite value, d parameters."""

    name: str
    distributions: Sequence[BaseDistribution]  # d
    internal: Array  # (n, d)
    values: Array  # (n,)


def find_flags(store: Store, names: Sequence[str]) -> list[Flag]:
    """Look at these studies beside their families, and put in quarantine what must not be learned from."""
    flags = look_at(store, names)
    _quarantine(store, [flag for flag in flags if flag.quarantined])
    return flags


def look_at(store: Store, names: Sequence[str]) -> list[Flag]:
    """What is odd about these studies beside their families. Changes nothing."""
    flags: list[Flag] = []
    with store.read() as connection:
        for family, touched in _by_family(connection, names):
            flags += _opposite(connection, family, touched)
            flags += _odd_ones(connection, family, touched)
    return flags


def scale_break(study: StudyValues, metric: str | None) -> str | None:
    """The evidence that some values are percentages and others fractions; None where they are not."""
    values = study.values
    fractions, percentages = values[(values > 0) & (values <= 1)], values[(values > 1) & (values <= 100)]
    is_fraction = any(word in (metric or "").lower() for word in FRACTIONS)
    rarer = min(len(fractions), len(percentages))
    fewest = FEWEST_ON_A_SCALE if is_fraction else FEWEST_OF_OTHERS
    if rarer < max(fewest, LEAST_SHARE * len(values)) or len(fractions) + len(percentages) < len(values):
        return None
    gap = percentages.min() / fractions.max()
    ratio = float(np.median(percentages) / np.median(fractions))
    if gap < (GAP if is_fraction else 10 * GAP) or not 10 <= ratio <= 1000:
        return None
    return (
        f"{len(fractions)} values lie in {fractions.min():g} … {fractions.max():g} and {len(percentages)} in "
        f"{percentages.min():g} … {percentages.max():g}: percentages among fractions?"
    )


def other_scale(study: StudyValues, medians: Array) -> str | None:
    """The evidence that a whole study is in percent, or in fractions, unlike its family; None where it is not."""
    if len(medians) < FEWEST_VOICES or not len(study.values):
        return None
    own, others = float(np.median(study.values)), float(np.median(medians))
    if own <= 0 or others <= 0 or not 0.3 <= abs(math.log10(own / others)) / 2 <= 1.3:
        return None
    in_fractions, alone = (others <= 1, own <= 1)
    all_alike = np.mean((medians <= 1) == in_fractions) >= 0.9
    if in_fractions == alone or not all_alike or max(own, others) > 100 or max(own, others) <= 2:
        return None
    return f"its median is {own:g}, that of the family's {len(medians)} other studies {others:g}: percent or fraction?"


class Consensus:
    """What the studies of a family agree on: how the value depends on the parameters, in ranks.

    A ridge regression of each trial's rank within its study on the ranks of its parameters and their squares.
    """

    def __init__(self, voices: Sequence[StudyValues]) -> None:
        self._features = [_features(voice) for voice in voices]
        self._ranks = [_ranks(voice.values) for voice in voices]
        self._names = [voice.name for voice in voices]
        width = self._features[0].shape[1] if voices else 0
        self._gram = np.zeros((width, width))
        self._moment = np.zeros(width)
        for features, ranks in zip(self._features, self._ranks, strict=True):
            self._gram += features.T @ features / len(features)
            self._moment += features.T @ ranks / len(features)
        own = [self._agreement(index) for index in range(len(voices))]
        self.typical = float(np.median(own)) if own else 0.0

    def correlation(self, study: StudyValues) -> float:
        """The rank correlation of a study's values with what the others expect."""
        if study.name in self._names:
            return self._agreement(self._names.index(study.name))
        return _correlation(_features(study) @ self._weights(self._gram, self._moment), _ranks(study.values))

    def contradiction(self, study: StudyValues) -> tuple[str, bool] | None:
        """The evidence that a study's values are meant the other way round, and whether it is strong; None without.

        It is strong where the study contradicts the others about as much as they agree: a mirror image.
        """
        others = len(self._names) - (study.name in self._names)
        if others < FEWEST_VOICES or len(study.values) < FEWEST_TRIALS or self.typical < AGREEMENT:
            return None
        found = self.correlation(study)
        if found > DISAGREEMENT or found > -STANDARD_ERRORS / math.sqrt(len(study.values)):
            return None
        evidence = (
            f"the rank correlation of its {len(study.values)} values with what {others} other studies of the family "
            f"lead to expect is {found:.2f}, theirs is {self.typical:.2f} in the median: is the direction reversed?"
        )
        return evidence, found <= -MIRRORED * self.typical

    def _agreement(self, index: int) -> float:
        """The correlation of a voice with the others: it itself is taken out."""
        features, ranks = self._features[index], self._ranks[index]
        gram = self._gram - features.T @ features / len(features)
        moment = self._moment - features.T @ ranks / len(features)
        return _correlation(features @ self._weights(gram, moment), ranks)

    def _weights(self, gram: Array, moment: Array) -> Array:
        ridge = 1e-3 * max(len(self._names), 1) * np.eye(len(gram))
        weights: Array = np.asarray(np.linalg.solve(gram + ridge, moment), dtype=np.float64)
        return weights


def _features(study: StudyValues) -> Array:
    """Each parameter as a rank within the study and its square; a choice, and being inactive, as an indicator."""
    columns: list[Array] = []
    for distribution, column in zip(study.distributions, study.internal.T, strict=True):
        inactive = np.isnan(column)
        if isinstance(distribution, CategoricalDistribution):
            columns += [(column == choice).astype(float) - 0.5 for choice in range(len(distribution.choices))]
        else:
            place = _ranks(column)
            columns += [place, np.where(inactive, 0.0, place**2 - 1.0)]
        columns.append(inactive.astype(float))
    return np.array(columns).T.reshape(len(study.values), -1)


def _ranks(values: Array) -> Array:
    """Ranks with mean 0 and variance about 1; NaN has none."""
    ranks = rankdata(values, nan_policy="omit")
    present = int(np.sum(~np.isnan(values)))
    centred: Array = np.nan_to_num((ranks - (present + 1) / 2) * math.sqrt(12.0) / max(present, 1))
    return centred


def _correlation(expected: Array, ranks: Array) -> float:
    order = _ranks(expected)
    scale = float(np.linalg.norm(order) * np.linalg.norm(ranks))
    return float(order @ ranks / scale) if scale > 0 else 0.0


# What is looked at


def _by_family(connection: Connection, names: Sequence[str]) -> Iterator[tuple[Family, dict[int, str]]]:
    """Families with the ids and names of the studies in question."""
    touched: dict[int, dict[int, str]] = {}
    for start in range(0, len(names), STUDIES_AT_A_TIME):
        some = {"names": names[start : start + STUDIES_AT_A_TIME]}
        for study in connection.execute(_NAMED, some):
            touched.setdefault(study.family_id, {})[study.id] = study.name
    for family_id, members in touched.items():
        row = connection.execute(select(families).where(families.c.id == family_id)).one()
        yield family_from(row), members


def _opposite(connection: Connection, family: Family, touched: Mapping[int, str]) -> list[Flag]:
    """Studies of a family that has a twin with the opposite direction."""
    turned = ["maximize" if direction == "minimize" else "minimize" for direction in family.directions]
    twin = family_of(family.space, family.metric, turned)
    row = connection.execute(select(families.c.id).where(families.c.name == twin)).first()
    if row is None:
        return []
    number = len(connection.execute(_MEMBERS, {"family_id": row.id}).all())
    others = len(connection.execute(_MEMBERS, {"family_id": family.family_id}).all())
    evidence = (
        f"{family.metric} is {family.directions[0]}d here and {turned[0]}d in {number} "
        f"{'study' if number == 1 else 'studies'} with the same space (family {twin})"
    )
    return [
        Flag(study=name, kind="reversed direction", evidence=evidence, quarantined=number > others)
        for name in touched.values()
    ]


def _odd_ones(connection: Connection, family: Family, touched: Mapping[int, str]) -> Iterator[Flag]:
    known = ParameterSets()
    members = {row.id: row.name for row in connection.execute(_MEMBERS, {"family_id": family.family_id})}
    voices = list(_values(connection, family, known, _spread(members)))
    consensus = Consensus([_thinned(voice) for voice in voices if len(voice.values) >= FEWEST_TRIALS])
    medians = {voice.name: float(np.median(voice.values)) for voice in voices if len(voice.values)}
    for study in _values(connection, family, known, touched):
        broken = scale_break(study, family.metric)
        contradiction = consensus.contradiction(study)
        others = np.array([median for name, median in medians.items() if name != study.name])
        if broken is not None:
            yield Flag(study=study.name, kind="scale break", evidence=broken, quarantined=True)
        elif (elsewhere := other_scale(study, others)) is not None:
            yield Flag(study=study.name, kind="scale break", evidence=elsewhere, quarantined=False)
        if contradiction is not None:
            evidence, is_strong = contradiction
            yield Flag(
                study=study.name,
                kind="reversed direction",
                evidence=evidence,
                quarantined=is_strong,
                is_mirrored=True,
            )


def _values(
    connection: Connection, family: Family, known: ParameterSets, wanted: Mapping[int, str]
) -> Iterator[StudyValues]:
    ids = sorted(wanted)
    for start in range(0, len(ids), STUDIES_AT_A_TIME):
        arrays = read_arrays(connection, family, known, ids[start : start + STUDIES_AT_A_TIME])
        for study_id, rows in arrays.by_study.items():
            yield _of_one(wanted[study_id], arrays, rows)


def _of_one(name: str, arrays: TrialArrays, rows: NDArray[np.intp]) -> StudyValues:
    rows = rows[np.isfinite(arrays.values[rows])]
    return StudyValues(
        name=name, distributions=arrays.distributions, internal=arrays.internal[rows], values=arrays.values[rows]
    )


def _thinned(voice: StudyValues) -> StudyValues:
    step = max(1, len(voice.values) // TRIALS_OF_A_VOICE)
    return StudyValues(
        name=voice.name,
        distributions=voice.distributions,
        internal=voice.internal[::step],
        values=voice.values[::step],
    )


def _spread(members: Mapping[int, str]) -> dict[int, str]:
    """At most so many members, evenly taken from first to last."""
    ids = sorted(members)
    step = max(1, math.ceil(len(ids) / VOICES))
    return {study_id: members[study_id] for study_id in ids[::step]}


def _quarantine(store: Store, flags: Iterable[Flag]) -> None:
    reasons: dict[str, list[str]] = {}
    for flag in flags:
        reasons.setdefault(flag.study, []).append(f"{flag.kind}: {flag.evidence}")
    if not reasons:
        return
    with store.write() as connection:
        for name, found in reasons.items():
            row = connection.execute(_ISOLATE, {"isolated": name, "reason": "; ".join(found)}).first()
            if row is not None and row.family_id is not None:
                note_loss(connection, row.family_id)
            if row is not None:
                seal_study(connection, row.id)


def quarantine(store: Store, study: str, reason: str, *, doer: Doer | None = None) -> str | None:
    """Let nobody learn from a study, for a reason in addition to those that there are; returns those.

    doer: who does it, for the log. Raises StudyNotFoundError.
    """
    with store.write() as connection:
        query = select(studies.c.id, studies.c.quarantine, studies.c.family_id).where(studies.c.name == study)
        row = connection.execute(query.with_for_update()).first()
        if row is None:
            raise StudyNotFoundError.named(study, connection.execute(select(studies.c.name)).scalars())
        told = reason if row.quarantine is None else f"{row.quarantine}; {reason}"
        connection.execute(update(studies).where(studies.c.id == row.id).values(quarantine=told))
        if row.family_id is not None:
            note_loss(connection, row.family_id)
        seal_study(connection, row.id)
        note_within(connection, doer, study, details={"reason": reason})
        return None if row.quarantine is None else str(row.quarantine)


def trust(store: Store, study: str, *, doer: Doer | None = None) -> str | None:
    """Let the tuner learn from a study again; returns why it did not. doer: who does it, for the log."""
    with store.write() as connection:
        before = connection.execute(
            select(studies.c.id, studies.c.quarantine, studies.c.family_id).where(studies.c.name == study)
        )
        row = before.first()
        if row is None or row.quarantine is None:
            return None
        connection.execute(update(studies).where(studies.c.name == study).values(quarantine=None))
        if row.family_id is not None:
            note_loss(connection, row.family_id)
        seal_study(connection, row.id)
        note_within(connection, doer, study, details={"was": row.quarantine})
        return str(row.quarantine)


_NAMED = select(studies.c.id, studies.c.name, studies.c.family_id).where(
    studies.c.name.in_(bindparam("names", expanding=True)), studies.c.family_id.is_not(None)
)
_MEMBERS = select(studies.c.id, studies.c.name).where(
    studies.c.family_id == bindparam("family_id"), studies.c.quarantine.is_(None)
)
_ISOLATE = (
    update(studies)
    .where(studies.c.name == bindparam("isolated"))
    .values(quarantine=bindparam("reason"))
    .returning(studies.c.id, studies.c.family_id)
)
