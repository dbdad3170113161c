"""What to try next: an Optuna sampler that starts from history and goes on with a Gaussian process.

    study = optuna.create_study(storage=storage, sampler=HistorySampler(storage))

`proposals` decides; here it is told of the study and its past, and its answer becomes parameters and a receipt.

The sampler keeps no state between calls: every proposal is a function of the trials in the storage, the seed and the
number of the trial. So any process may ask, and a crash loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo import tracing
from hpo.arrays import Array, Mask
from hpo.one_thread import one_thread
from hpo.priors.costs import COSTS_OF_A_TASK, TASKS, TaskCosts, before_the_first
from hpo.priors.portfolio import Pick
from hpo.spaces.encoding import Encoding, decode_value, union
from hpo.spaces.inferred_conditions import inferred_conditions
from hpo.spaces.space import Condition, SearchSpace, declared_space
from hpo.spaces.space_mapping import SpaceMapping, relate
from hpo.tuning.candidates import Candidates, Configuration, agreeing, plain_value
from hpo.tuning.evidence import CONSTRAINTS, Evidence, PastStudy, gather, look_back, past_costs
from hpo.tuning.learning import learned_past
from hpo.tuning.past import LANDMARKS, PAST_STUDIES, Past, share_of_trials
from hpo.tuning.proposals import Ground, Learned, Proposal, count, learn, propose
from hpo.tuning.receipts import ENQUEUED, RECEIPT, Source, receipt
from storage.families import METRIC_NAMES, Family
from storage.summaries import StudySample
from storage.trial_costs import SECONDS

if TYPE_CHECKING:
    from storage.optuna_storage import HistoryStorage

LEADING_SOURCES = 8  # past studies that a receipt names at most
PASTS_KEPT = 8  # as many as a study has objectives, mostly
NAMED = 3  # studies in a sentence
MAPPINGS_KEPT = 4096
GUIDES_KEPT = 256  # trials begun side by side, at most
LEARNED_KEPT = 2  # studies that are asked by turns
LEARNING = crc32(b"learning")  # the randomness of what is learned from the finished trials

Constraints: TypeAlias = Callable[[FrozenTrial], Sequence[float]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Related:
    """A past study that knows some of the parameters."""

    study: StudySample
    family: Family
    mapping: SpaceMapping  # from its space to the present one
    known: int  # how many of the parameters that are asked for


@dataclass(frozen=True, kw_only=True, eq=False)
class Guide:
    """The entry of a portfolio that a trial follows, which is asked for parameter by parameter."""

    point: Array  # (d,)
    names: Mapping[str, int]  # the column of each parameter
    distributions: Mapping[str, BaseDistribution]
    common: frozenset[str]  # the parameters that all past studies of the same kind have
    given: frozenset[str]  # those that the trial has, all of them agreeing with the point as far as they can

    def leads_on(self, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> bool:
        """Whether to look for an entry again would find this one: nothing else is known of the trial by now."""
        return name in self.common and self.distributions[name] == distribution and self.given == set(trial.params)


class HistorySampler(BaseSampler):
    """Proposes configurations from the history in `storage`; the same seed and the same data give the same proposals.

    candidates: configurations; nothing else is proposed, and `optimize` ends when all have been tried.
    cost: what a trial costs: `"seconds"`, or a user attribute with a number; the gain per cost is what counts then.
    Past studies tell from the first trial on which configurations are dear.
    constraints_func: numbers of a finished trial that must be at most 0, as for Optuna's other samplers.

    Hopes of a declared space (`likely`) count as a prior that fades with the trials. With several objectives it is the
    expected gain of hypervolume that counts; the past of each is that of its metric, in studies of one objective or of
    several: name them with `Study.set_metric_names` as past tasks and imported runs have them. Where no study names
    them, those with the same directions are the same.
    """

    def __init__(
        self,
        storage: HistoryStorage,
        *,
        seed: int | None = None,
        candidates: Sequence[Configuration] | None = None,
        cost: str | None = None,
        constraints_func: Constraints | None = None,
    ) -> None:
        if candidates is not None and not len(candidates):
            raise ValueError("candidates is empty: list the configurations that may be tried, or leave it out")
        self._history = storage
        self._seed = None if seed is None else seed % 2**63  # a negative seed is one of its own
        self._candidates = None if candidates is None else [_plain(each) for each in candidates]
        self._cost = cost
        self._constraints_func = constraints_func
        self._pasts: dict[str, Past] = {}  # a pure cache of the latest ones
        self._mappings: dict[tuple[int, str], SpaceMapping] = {}  # the same, by family and space
        self._learned: dict[bytes, tuple[Past | None, Learned]] = {}  # the same, by the finished trials
        self._guides: dict[tuple[str, int], Guide] = {}  # the same, by study and number of the trial
        self._said: set[str] = set()  # what of the past was ignored, once in the log

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, or every parameter that this study has asked for so far."""
        return _space_of(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The active parameters of the next configuration."""
        if not search_space:
            return {}
        with tracing.suggestion(study.study_name, trial.number):
            return self._proposed(study, trial, search_space)

    def _proposed(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        encoding = Encoding(space=_with_conditions(study, search_space))
        candidates = None
        if self._candidates is not None:
            candidates = Candidates.of(self._candidates, encoding, complete=declared_space(study) is not None)
        ground = Ground(encoding=encoding, candidates=None if candidates is None else candidates.points)
        trials, cost = _trials(study), _cost_of(self._cost)
        evidences = [
            gather(trials, direction, encoding, trial.number, objective=objective, cost=cost)
            for objective, direction in enumerate(study.directions)
        ]
        design = np.random.default_rng(crc32(study.study_name.encode()) if self._seed is None else self._seed)
        rng = self._rng(trial.number)
        with one_thread():
            pasts = [
                self._past(study, encoding, encoding.names, candidates, objective=objective)
                for objective in range(len(evidences))
            ]
            proposal = propose(
                ground,
                evidences,
                pasts,
                design=design,
                rng=rng,
                learned=lambda: self._learned_of(encoding, evidences[0], pasts[0]),
            )

        def configuration(point: Array) -> dict[str, Any]:
            return encoding.decode(point) if candidates is None else candidates.at(point, encoding.names)

        params = configuration(proposal.point)
        fixed = trial.system_attrs.get(ENQUEUED, {})
        if all(params.get(name) == value for name, value in fixed.items()):  # else it is another point that is tried
            without = None if proposal.without_history is None else configuration(proposal.without_history)
            self._keep_receipt(study, trial, proposal, pasts, without)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter of a space that is not known yet: from history where possible, else at random."""
        if self._candidates is not None:
            return self._listed(trial, param_name)
        with one_thread():
            value = self._remember(study, trial, param_name, param_distribution)
        if value is not None:
            return value
        encoding = Encoding(space=SearchSpace(distributions={param_name: param_distribution}, conditions={}))
        rng = self._rng(trial.number, crc32(param_name.encode()))
        return encoding.decode(encoding.uniform(rng.random((1, 1)))[0])[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Note whether the constraints hold; end `optimize` when every candidate has been tried."""
        if self._constraints_func is not None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            constraints = tuple(float(value) for value in self._constraints_func(trial))
            if np.isnan(constraints).any():
                raise ValueError(f"constraints_func gave {constraints} for trial {trial.number}; NaN says nothing")
            study._storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, constraints)
        if self._candidates is not None:
            self._end_where_all_are_tried(study, trial, state)

    def _end_where_all_are_tried(self, study: Study, trial: FrozenTrial, state: TrialState) -> None:
        """In the trial's own after_trial its state is not yet in the storage."""
        assert self._candidates is not None
        ended = [other for other in _trials(study) if other.state.is_finished() and other.number != trial.number]
        tried = [other.params for other in ended if other.params] + ([trial.params] if state.is_finished() else [])
        space = _with_conditions(study, {**_space_of(study, trial), **trial.distributions})
        if not space.distributions:
            return
        encoding = Encoding(space=space)
        candidates = Candidates.of(self._candidates, encoding, complete=declared_space(study) is not None)
        if candidates.are_all_among(encoding.encode(tried)):
            with suppress(RuntimeError):  # nobody is optimising: the trials are asked for one by one
                study.stop()

    # Where the space is not known yet

    def _listed(self, trial: FrozenTrial, name: str) -> Any:
        """One parameter of a candidate that agrees with those already given in this trial."""
        assert self._candidates is not None
        agree = agreeing(self._candidates, trial.params, name)
        if not agree:
            raise ValueError(f"no candidate has {name}; add it to them, or do not ask for it")
        return agree[trial.number % len(agree)][name]

    def _remember(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """One parameter of the portfolio entry closest to those already given in this trial; None without history."""
        key = (study.study_name, trial.number)
        guide = self._guides.get(key)
        if guide is None or not guide.leads_on(trial, name, distribution):
            guide = self._guide(study, trial, name, distribution)
            if guide is None:
                return None
        _keep(self._guides, key, replace(guide, given=guide.given | {name}), GUIDES_KEPT)
        return decode_value(distribution, float(guide.point[guide.names[name]]))

    def _guide(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Guide | None:
        given = {**trial.distributions, name: distribution}
        asked = SearchSpace(distributions=given, conditions={})
        known = [
            dict(zip(each.study.names, each.study.distributions, strict=True))
            for each in self._related(study, asked, [name])
        ]
        alike = [past for past in known if set(given) <= set(past)]
        if not alike:
            return None
        encoding = Encoding(space=SearchSpace(distributions={**union(alike).distributions, **given}, conditions={}))
        past = self._past(study, encoding, list(given))
        if past is None:
            return None
        picks = past.picks
        turn = sum(1 for other in _trials(study) if other.number < trial.number)
        pick = _closest([*picks[turn:], *picks[:turn]], encoding.raw([trial.params])[0], encoding.categorical)
        why = f"Parameter by parameter from {count(len(past.studies), 'past study')} with the same parameters."
        if RECEIPT not in trial.system_attrs:  # of the other parameters
            cost = None if past.costs is None else before_the_first(past.costs).predict(pick.point)
            proposal = Proposal(point=pick.point, role="guess", credit=pick.credit, cost=cost, why=why)
            self._keep_receipt(study, trial, proposal, [past], None)
        return Guide(
            point=pick.point,
            names={each: column for column, each in enumerate(encoding.names)},
            distributions=encoding.space.distributions,
            common=frozenset.intersection(*map(frozenset, alike)),
            given=frozenset(trial.params),
        )

    # What the finished trials say

    def _learned_of(self, encoding: Encoding, evidence: Evidence, past: Past | None) -> Learned:
        """The same for every trial that is proposed before another ends: its randomness is that of their number."""
        key = evidence.fingerprint(repr(encoding.space))
        known_past, known = self._learned.get(key, (None, None))
        if known is None or known_past is not past:
            known = learn(encoding, evidence, past, self._rng(len(evidence.losses), LEARNING))
            _keep(self._learned, key, (past, known), LEARNED_KEPT)
        return known

    # What history says

    def _past(
        self,
        study: Study,
        encoding: Encoding,
        names: Sequence[str],
        candidates: Candidates | None = None,
        *,
        objective: int = 0,
    ) -> Past | None:
        """The past of the parameters `names` for one objective, the same for everyone who asks; None without one."""
        since = self._history.losses()
        directions, metric = [direction.name.lower() for direction in study.directions], _metric(study, objective)
        related = [
            each
            for each in self._related(study, encoding.space, names)
            if _speaks_of(each.study, metric, objective, directions)
        ]
        usable, ignored = _usable(related, directions[objective], metric)
        listed = None if candidates is None else candidates.points
        known = [(each.study.study_id, each.study.objective, each.study.finished) for each in usable]
        key = repr((encoding.space, known, ignored, None if listed is None else listed.tobytes()))
        if key in self._pasts:
            return self._pasts[key]
        for sentence in ignored:
            if sentence not in self._said:
                self._said.add(sentence)
                logger.warning("study %s: %s", study.study_name, sentence)
        studies = _past_studies(usable, encoding)
        if not studies:
            return None
        aim: tuple[object, ...] = (metric, objective)
        if self._cost is not None:
            costs = self._past_costs(usable, encoding, self._cost)
            studies = [replace(each, costs=costs.get(each.study_id)) for each in studies]
            aim += (self._cost,)
        past = learned_past(self._history, studies, encoding, listed, aim=repr(aim), since=since)
        past = replace(past, ignored=tuple(ignored))
        _keep(self._pasts, key, past, PASTS_KEPT)
        return past

    def _past_costs(self, usable: Sequence[Related], encoding: Encoding, cost: str) -> dict[int, TaskCosts]:
        """What trials of the latest past studies have cost, by the id of a study."""
        latest, found = usable[-TASKS:], {}
        for family in {each.family.family_id: each.family for each in latest}.values():
            mappings = {
                each.study.study_id: each.mapping for each in latest if each.family.family_id == family.family_id
            }
            known = self._history.past_costs(family, list(mappings), cost, COSTS_OF_A_TASK)
            for study_id, arrays in known.items():
                costs = past_costs(arrays, mappings[study_id], encoding)
                if costs is not None:
                    found[study_id] = costs
        return found

    def _related(self, study: Study, space: SearchSpace, names: Sequence[str]) -> list[Related]:
        """The past studies that know one of the parameters, and how their space relates to this one; by id."""
        own = self._own_id(study)
        related = [
            Related(study=sample, family=family, mapping=mapping, known=known)
            for family in self._history.past_families()
            for mapping in [self._mapping(family, space)]
            if (known := len(_known(mapping).intersection(names)))
            for sample in self._history.past_studies(family)
            if sample.study_id != own
        ]
        return sorted(related, key=lambda each: each.study.study_id)

    def _mapping(self, family: Family, space: SearchSpace) -> SpaceMapping:
        key = (family.family_id, repr(space))
        if key not in self._mappings:
            if len(self._mappings) >= MAPPINGS_KEPT:
                self._mappings.clear()
            self._mappings[key] = relate(SearchSpace.from_json(family.space), space)
        return self._mappings[key]

    def _own_id(self, study: Study) -> int | None:
        """The study's id in the history; by name, for the study may be open through another storage object."""
        try:
            return self._history.get_study_id_from_name(study.study_name)
        except KeyError:
            return None

    def _keep_receipt(
        self,
        study: Study,
        trial: FrozenTrial,
        proposal: Proposal,
        pasts: Sequence[Past | None],
        without: Configuration | None,
    ) -> None:
        past = pasts[0]
        leans_on = [] if past is None or proposal.credit is None else _sources(past, proposal.credit)
        if proposal.predicted is not None:
            own = 1.0 if proposal.credit is None else 1.0 - (proposal.history_weight or 0.0)
            leans_on += [Source(study=study.study_name, weight=own)] if own > 0.0 else []
        content = receipt(
            proposal,
            sign=-1.0 if study.directions[0].name == "MAXIMIZE" else 1.0,
            leans_on=leans_on,
            without_history=without,
            cost=self._cost,
            ignored=list(dict.fromkeys(sentence for each in pasts if each is not None for sentence in each.ignored)),
        )
        study._storage.set_trial_system_attr(trial._trial_id, RECEIPT, content)

    # Randomness

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(None if self._seed is None else [self._seed, *stream])


def _keep(cache: dict[Any, Any], key: object, value: object, most: int) -> None:
    """As the latest entry; threads may do so at once."""
    cache.pop(key, None)
    while len(cache) >= most:
        cache.pop(next(iter(cache)), None)
    cache[key] = value


def _speaks_of(past: StudySample, metric: str | None, objective: int, directions: Sequence[str]) -> bool:
    """Whether a past study, seen by one objective, may say something of an objective of this study.

    Among several it is the name that says which is which; studies that name none have them in the same order. A study
    of one objective learns from all others of one objective, for what is good for one metric is often good for another.
    """
    if metric is not None and past.metric == metric:
        return True
    if len(directions) == 1:
        return len(past.directions) == 1
    unnamed = metric is None and past.metric is None
    return unnamed and past.directions == tuple(directions) and past.objective == objective


def _usable(related: Sequence[Related], direction: str, metric: str | None) -> tuple[list[Related], list[str]]:
    """The past studies that can teach something, and sentences on those that cannot."""
    usable: list[Related] = []
    flat: list[str] = []
    against: list[str] = []
    for each in related:
        if each.study.metric is not None and each.study.metric == metric and each.study.direction != direction:
            against.append(each.study.name)
        elif len(each.study.values) > 1 and np.ptp(each.study.values) == 0.0:
            flat.append(each.study.name)
        else:
            usable.append(each)
    ignored = []
    if against:
        ignored.append(
            f"{_named(against)}: {metric} has the other direction there; this study is to {direction} it. "
            "If that is wrong here, start the study anew with the other direction."
        )
    if flat:
        ignored.append(f"{_named(flat)}: all values are equal, which says nothing of the parameters.")
    most = max((each.known for each in usable), default=0)
    akin = [each for each in usable if 2 * each.known >= most]
    if len(akin) < len(usable):
        strangers = count(len(usable) - len(akin), "study")
        ignored.append(f"{strangers} of other models: they share less than half of the parameters that others share.")
    if len(akin) > PAST_STUDIES:
        ignored.append(f"{count(len(akin) - PAST_STUDIES, 'older study')}: the latest {PAST_STUDIES} are looked at.")
    return akin[-PAST_STUDIES:], ignored


def _named(studies: Sequence[str]) -> str:
    """`a, b and 3 other studies`."""
    if len(studies) <= NAMED:
        return ", ".join(studies)
    return f"{', '.join(studies[:NAMED])} and {count(len(studies) - NAMED, 'other study')}"


def _metric(study: Study, objective: int) -> str | None:
    names = study._storage.get_study_system_attrs(study._study_id).get(METRIC_NAMES)
    return str(names[objective]) if isinstance(names, list | tuple) and len(names) > objective else None


def _past_studies(related: Sequence[Related], encoding: Encoding) -> list[PastStudy]:
    rng = np.random.default_rng(0)
    looks = [
        look_back(
            each.study,
            each.mapping,
            encoding,
            most_trials=share_of_trials(len(related)),
            most_landmarks=max(2, LANDMARKS // len(related)),
            rng=rng,
        )
        for each in related
    ]
    return [look for look in looks if look is not None]


def _known(mapping: SpaceMapping) -> set[str]:
    """The present parameters that the past knows, under whatever name."""
    return {change.present for change in mapping.changes if change.past is not None and change.present is not None}


def _trials(study: Study) -> list[FrozenTrial]:
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def _space_of(study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
    """The declared space, or every parameter that the study has asked for so far; while a trial runs, the others."""
    declared = declared_space(study)
    if declared is not None:
        return declared.distributions
    others = [other.distributions for other in _trials(study) if other.number != trial.number]
    return union(others).distributions


def _plain(configuration: Configuration) -> dict[str, Any]:
    return {name: plain_value(value) for name, value in configuration.items()}


def _with_conditions(study: Study, distributions: Mapping[str, BaseDistribution]) -> SearchSpace:
    """A relative search space in the order of the declared one, with those of its conditions that can be checked.

    Where nothing is declared, with those that the trials so far agree with.
    """
    declared = declared_space(study)
    if declared is None:
        complete = [trial.params for trial in _trials(study) if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        conditions = inferred_conditions(complete, distributions)
        return SearchSpace(distributions=_parents_first(distributions, conditions), conditions=conditions)
    order = [name for name in declared.distributions if name in distributions]
    order += [name for name in distributions if name not in declared.distributions]
    conditions = {
        name: condition
        for name, condition in declared.conditions.items()
        if name in distributions and condition.parent in distributions
    }
    return SearchSpace(
        distributions={name: distributions[name] for name in order},
        conditions=conditions,
        likely={name: likely for name, likely in declared.likely.items() if name in distributions},
    )


def _parents_first(
    distributions: Mapping[str, BaseDistribution], conditions: Mapping[str, Condition]
) -> dict[str, BaseDistribution]:
    parents = [condition.parent for condition in conditions.values()]
    order = sorted(distributions, key=lambda name: (name in conditions, name not in parents))
    return {name: distributions[name] for name in order}


def _sources(past: Past, credit: Array) -> list[Source]:
    """The past studies that count most, by their credit (t,)."""
    leading = [int(t) for t in np.argsort(-credit, kind="stable")[:LEADING_SOURCES] if credit[t] > 0]
    return [Source(study=past.studies[t].name, weight=float(credit[t])) for t in leading]


def _cost_of(cost: str | None) -> Callable[[FrozenTrial], float] | None:
    """How to read what a finished trial has cost; NaN where that is not known."""
    if cost is None:
        return None

    def read(trial: FrozenTrial) -> float:
        if cost == SECONDS:
            return float("nan") if trial.duration is None else trial.duration.total_seconds()
        value = trial.user_attrs.get(cost)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")

    return read


def _points(picks: Sequence[Pick]) -> Array:
    return np.array([pick.point for pick in picks])


def _closest(picks: Sequence[Pick], given: Array, categorical: Mask) -> Pick:
    """The first pick at the least distance from the given coordinates (d,), NaN where none is given."""
    difference = np.abs(_points(picks) - given)
    distance = np.nansum(np.where(categorical & (difference > 0), 1.0, difference), axis=1)
    return picks[int(np.argmin(np.round(distance, 6)))]
