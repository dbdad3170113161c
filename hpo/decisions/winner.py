"""Which configuration of a study is best, how good is it really, and how sure is that? From the store to an answer.

What a trial came out at is not what its configuration is worth: of many noisy values the best is too good. `best` says
what is to be expected of another training run with another seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from hpo.arrays import Array, Mask, keys
from hpo.errors import SettingsError
from hpo.one_thread import one_thread
from hpo.settings import storage_url
from hpo.spaces.encoding import Encoding
from hpo.spaces.inferred_conditions import inferred_conditions
from hpo.spaces.space import SearchSpace, describe
from hpo.statistics.best import FEWEST_TRIALS, Judgement, around_the_best, judge
from hpo.studies.replicates import Replication, is_usable, replicates_of, replication, value_of
from hpo.tuning.evidence import CONSTRAINTS
from hpo.tuning.known_noise import known_noise, occasion_of
from hpo.tuning.receipts import ENQUEUED
from storage import history
from storage.database import Store
from storage.errors import TrialNotFoundError
from storage.history import StudySummary, TrialRecord
from storage.schema import open_store

if TYPE_CHECKING:
    import optuna

SHOWN = 0.01  # least probability of being the best of a contender that is listed
MOST_CONTENDERS = 10

Against: TypeAlias = int | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A configuration that may be the best."""

    number: int  # its trial; of several the first
    params: Mapping[str, Any]
    trials: int  # that tried it
    raw: float  # mean of their values
    value: float  # expected of another run
    interval95: tuple[float, float]
    probability_best: float


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What the winner is compared with."""

    number: int | None  # its trial; None: a configuration that was given
    what: str
    params: Mapping[str, Any]
    is_winner: bool  # the very configuration: nothing to be gained
    value: float
    interval95: tuple[float, float]
    probability_beaten: float  # that the winner is better
    gain: float  # of the winner, positive where it is better
    gain_interval95: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Best:
    """How sure it is which configuration of a study is best, and what it is worth."""

    study: str
    metric: str
    direction: str
    used: int  # complete trials that were judged
    pruned: int  # left out: what they would have come to was not seen
    failed: int  # left out
    raw_best: tuple[int, float] | None  # trial and value: too good
    winner: Contender | None
    contenders: tuple[Contender, ...]  # the likeliest first
    noise: float | None  # standard deviation between runs of one configuration
    noise_interval95: tuple[float, float] | None
    noise_known_from: str  # beside the study itself
    against: Rival | None
    replication: Replication | None
    not_enough: str | None  # why there is no winner
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def best(
    study: str | optuna.Study,
    storage: str | Store | None = None,
    *,
    against: Against | None = None,
    seed: int = 0,
) -> Best:
    """Judge the trials of a study.

    study: its name, or an Optuna study whose storage is the history. storage: the history, or its URL. against: a
    trial's number or a configuration; by default what was enqueued first. seed: of the draws from the posterior.
    Raises StudyNotFoundError, TrialNotFoundError, SettingsError.
    """
    name, store = _resolve(study, storage)
    summary = history.get_study(store, name)
    if len(summary.directions) != 1:
        raise SettingsError(
            f"study {name!r} has {len(summary.directions)} objectives, so that there is no one best: `hpo front` shows "
            "the trials that no other beats in everything"
        )
    trials = history.list_trials(store, summary.study_id)
    replicates = replicates_of(store, summary)
    return judged(store, summary, trials, replicates, against, np.random.default_rng(seed))


def _resolve(study: str | optuna.Study, storage: str | Store | None) -> tuple[str, Store]:
    if isinstance(study, str):
        return study, storage if isinstance(storage, Store) else open_store(storage_url(storage), upgrade=False)
    store = getattr(study._storage, "store", None)
    if not isinstance(store, Store):
        raise SettingsError("this Optuna study is not in a history: open it with hpo.HistoryStorage, or import it")
    return study.study_name, store


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A configuration to compare with."""

    number: int | None
    what: str
    params: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trials:
    """The complete trials of a study as arrays: n of them, u configurations, d parameters."""

    records: Sequence[TrialRecord]  # n
    encoding: Encoding
    points: Array  # (u, d)
    at: NDArray[np.intp]  # (n,) configuration of each
    losses: Array  # (n,)
    may_win: Mask  # (u,)

    def first(self, point: int) -> TrialRecord:
        """The first trial of a configuration."""
        return self.records[int(np.flatnonzero(self.at == point)[0])]


def judged(  # noqa: PLR0917
    store: Store,
    study: StudySummary,
    trials: Sequence[TrialRecord],
    replicates: Sequence[TrialRecord],
    against: Against | None,
    rng: np.random.Generator,
) -> Best:
    """The judgement of some trials of a study. replicates: of its trials, from wherever. Raises as `best`."""
    sign = -1.0 if study.directions[0] == "maximize" else 1.0
    complete = [trial for trial in trials if is_usable(trial)]
    known = _arrays(study, trials, complete, sign)
    rival = _rival(study, trials, known, against)
    prior, source = known_noise(store, study, known.losses, replicates) if len(known.losses) else (None, "")
    with one_thread():
        judgement = judge(
            known.points if rival is None else np.vstack([known.points, known.encoding.encode([rival.params])]),
            known.at,
            known.losses,
            known.may_win if rival is None else np.append(known.may_win, False),
            known.encoding.categorical,
            rng,
            noise=prior,
        )
    raw = min(complete, key=lambda trial: sign * value_of(trial), default=None)
    return Best(
        study=study.name,
        metric=study.metric or "value",
        direction=study.directions[0],
        used=len(known.records),
        pruned=study.counts[TrialState.PRUNED],
        failed=study.counts[TrialState.FAIL],
        raw_best=None if raw is None else (raw.number, value_of(raw)),
        winner=None if judgement is None else _contender(known, judgement, judgement.winner, sign),
        contenders=() if judgement is None else tuple(_contenders(known, judgement, sign)),
        noise=None if judgement is None else judgement.noise,
        noise_interval95=None if judgement is None else judgement.noise_interval,
        noise_known_from=source,
        against=None if judgement is None or rival is None else _against(judgement, known, rival, sign),
        replication=replication(study, replicates, rng),
        not_enough=_not_enough(known) if judgement is None else None,
        notes=tuple(_notes(complete, known, judgement)),
    )


def encoding_of(study: StudySummary, trials: Sequence[TrialRecord]) -> Encoding:
    """How configurations of a study become points: by its declared space, else by what its trials asked for."""
    if study.space is not None:
        return Encoding(space=SearchSpace.from_json(study.space))
    distributions: dict[str, BaseDistribution] = {}
    for trial in trials:
        distributions = {**trial.distributions, **distributions}
    conditions = inferred_conditions([trial.params for trial in trials if is_usable(trial)], distributions)
    space = SearchSpace(distributions=distributions, conditions=conditions)
    return Encoding(space=SearchSpace.from_json(space.to_json()))  # parents before children


def _arrays(
    study: StudySummary, trials: Sequence[TrialRecord], complete: Sequence[TrialRecord], sign: float
) -> _Trials:
    """The trials to be judged, what was trained twice on one seed counted once."""
    encoding = encoding_of(study, trials)
    complete = [trial for trial in complete if trial.params]
    X = encoding.encode([trial.params for trial in complete])
    losses = np.array([sign * value_of(trial) for trial in complete])
    kept = around_the_best(X, losses, encoding.categorical) if complete else np.empty(0, dtype=np.intp)
    groups: dict[tuple[bytes, object], list[int]] = {}
    for row, key in zip(kept, keys(X[kept]), strict=True):
        groups.setdefault((key, occasion_of(complete[row])), []).append(int(row))
    rows = list(groups.values())
    places = {key: place for place, key in enumerate(dict.fromkeys(key for key, _ in groups))}
    at = np.array([places[key] for key, _ in groups], dtype=np.intp)
    firsts = [rows[int(np.flatnonzero(at == place)[0])][0] for place in range(len(places))]
    return _Trials(
        records=[complete[group[0]] for group in rows],
        encoding=encoding,
        points=X[firsts],
        at=at,
        losses=np.array([losses[group].mean() for group in rows]),
        may_win=_feasible([complete[row] for row in firsts]),
    )


def _feasible(trials: Sequence[TrialRecord]) -> Mask:
    """Which keep their constraints, as far as noted; all where none does."""
    noted = [trial.system_attrs.get(CONSTRAINTS) or () for trial in trials]
    feasible = np.array([all(value <= 0.0 for value in values) for values in noted], dtype=bool)
    return feasible if feasible.any() else np.ones(len(trials), dtype=bool)


# What is told ---------------------------------------------------------------------------------------------------------


def _contenders(known: _Trials, judgement: Judgement, sign: float) -> list[Contender]:
    """The winner and whoever else may be the best, the likeliest first."""
    order = np.argsort(-judgement.probabilities[: len(known.points)], kind="stable")
    listed = [int(point) for point in order if judgement.probabilities[point] >= SHOWN][:MOST_CONTENDERS]
    if judgement.winner not in listed:
        listed = [*listed[: MOST_CONTENDERS - 1], judgement.winner]
    return [_contender(known, judgement, point, sign) for point in listed]


def _contender(known: _Trials, judgement: Judgement, point: int, sign: float) -> Contender:
    first = known.first(point)
    return Contender(
        number=first.number,
        params=first.params,
        trials=int(np.sum(known.at == point)),
        raw=sign * float(known.losses[known.at == point].mean()),
        value=sign * float(judgement.losses[point]),
        interval95=_signed(judgement.intervals[point], sign),
        probability_best=float(judgement.probabilities[point]),
    )


def _rival(
    study: StudySummary, trials: Sequence[TrialRecord], known: _Trials, against: Against | None
) -> _Named | None:
    """What the winner is compared with; None where nothing was given and nothing enqueued."""
    if isinstance(against, Mapping):
        return _Named(number=None, what="the given configuration", params=_checked(against, known.encoding))
    if against is None:
        first = next((trial for trial in trials if trial.system_attrs.get(ENQUEUED) and trial.params), None)
        if first is None:
            return None
        return _Named(number=first.number, what=f"trial {first.number}, which was enqueued", params=first.params)
    found = next((trial for trial in trials if trial.number == against), None)
    if found is None or not found.params:
        there = f"it has 0 … {trials[-1].number}" if trials else "it has none yet"
        raise TrialNotFoundError(f"There is no trial {against} with parameters in study {study.name!r}; {there}.")
    return _Named(number=found.number, what=f"trial {found.number}", params=found.params)


def _checked(params: Mapping[str, Any], encoding: Encoding) -> Mapping[str, Any]:
    """The configuration, if the space has all of it and it leaves nothing out. Raises SettingsError."""
    space = encoding.space
    unknown = [name for name in params if name not in space.distributions]
    if unknown:
        raise SettingsError(f"against: there is no parameter {unknown[0]!r}; there are {', '.join(encoding.names)}")
    missing = [name for name in encoding.names if name not in params and space.is_active(name, params)]
    if missing:
        raise SettingsError(f"against: {', '.join(missing)} is missing; give every parameter that matters")
    for name, value in params.items():
        distribution = space.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            is_possible = value in distribution.choices
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
            is_possible = is_number and (value > 0 or not getattr(distribution, "log", False))
        if not is_possible:
            raise SettingsError(f"against: {name} = {value!r} cannot be; it is {describe(distribution)}")
    return params


def _against(judgement: Judgement, known: _Trials, rival: _Named, sign: float) -> Rival:
    point, winner = len(known.points), judgement.winner
    same = keys(known.points[winner][None, :]) == keys(known.encoding.encode([rival.params]))
    gain, low, high = (0.0, 0.0, 0.0) if same else judgement.difference(winner, point)
    return Rival(
        number=rival.number,
        what=rival.what,
        params=rival.params,
        is_winner=same,
        value=sign * float(judgement.losses[point]),
        interval95=_signed(judgement.intervals[point], sign),
        probability_beaten=0.0 if same else judgement.better(winner, point),
        gain=gain,
        gain_interval95=(low, high),
    )


def _signed(interval: Sequence[float] | Array, sign: float) -> tuple[float, float]:
    low, high = sorted((sign * float(interval[0]), sign * float(interval[1])))
    return low, high


def _not_enough(known: _Trials) -> str:
    n = len(known.losses)
    if n < FEWEST_TRIALS:
        return (
            f"{n} complete trial{'s' if n != 1 else ''} cannot tell noise from differences; "
            f"{FEWEST_TRIALS} could, or --replicates"
        )
    return "all complete trials came out the same, so that nothing tells them apart"


def _notes(complete: Sequence[TrialRecord], known: _Trials, judgement: Judgement | None) -> list[str]:
    notes = []
    seeds = {trial.seed for trial in complete}
    if len(complete) > 1 and len(seeds) == 1 and None not in seeds:
        notes.append(
            f"every trial trained with seed {seeds.pop()}: what that seed did to all alike cannot be seen here; "
            "--replicates can tell"
        )
    if judgement is not None and judgement.heavy_tails > 0.9:
        notes.append("the noise has heavier tails than a normal's: now and then a run comes out far off")
    if not known.may_win.all():
        notes.append(f"{int((~known.may_win).sum())} configurations break a constraint and are no contenders")
    if len(complete) > len(known.losses):
        notes.append(
            f"{len(known.losses)} of {len(complete)} complete trials were judged: those around the best, and what was "
            "trained twice on one seed once"
        )
    return notes
