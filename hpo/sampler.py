"""What to try next: an Optuna sampler that starts from history and goes on with a Gaussian process.

    study = optuna.create_study(storage=storage, sampler=HistorySampler(storage))

1. The first trials are a portfolio: configurations that cover what past tasks with these parameters were like.
2. Without a past there is a space-filling design instead, its first point the centre of the space.
3. Then the largest expected improvement under Gaussian processes: some start from what the past says and learn where
   this study differs, others know this study's own trials only, and each counts as much as it explains those.

The sampler keeps no state between calls: every proposal is a function of the trials in the storage, the seed and the
number of the trial. So any process may ask, and a crash loses nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from hpo.arrays import Array, Mask, best_and_some
from hpo.encoding import Encoding, union
from hpo.evidence import Evidence, PastStudy, gather, look_back
from hpo.past import FIRST_POINTS, LANDMARKS, PAST_STUDIES, Past, learn, share_of_trials
from hpo.priors.mixture import Mixture, mixture
from hpo.priors.portfolio import Pick
from hpo.receipts import RECEIPT
from hpo.search import maximise, untried
from hpo.space import SearchSpace, declared_space
from hpo.space_mapping import SpaceMapping, relate
from storage.families import Family
from storage.summaries import StudySample

if TYPE_CHECKING:
    from storage.optuna_storage import HistoryStorage

MODELLED_TRIALS = 200  # beyond them: the best half and a random one
LEAST_SHARE = 0.01  # of history, to be mentioned
LEADING_SOURCES = 8  # past studies that a receipt names at most
MAPPINGS_KEPT = 4096
WIDE_EVERY = 4  # one proposal in so many may be anywhere; the others are near good points (heuristic)
ANCHORS = 5  # good trials whose neighbourhood is searched


Related: TypeAlias = tuple[StudySample, SpaceMapping]


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A point to try, and its receipt."""

    point: Array  # (d,)
    kind: str
    why: str  # one sentence
    predicted: float | None = None  # raw metric
    interval90: tuple[float, float] | None = None  # raw metric, of the next value
    incumbent: float | None = None  # raw metric, the best so far
    improvement_probability: float | None = None  # that the next value is better
    history_weight: float | None = None
    pending: int = 0  # trials running beside it
    leans_on: Sequence[tuple[str, float]] = field(default_factory=tuple)  # studies and their shares

    def receipt(self) -> dict[str, Any]:
        """The proposal as it is kept with the trial."""
        return {
            "kind": self.kind,
            "predicted": self.predicted,
            "interval90": None if self.interval90 is None else list(self.interval90),
            "incumbent": self.incumbent,
            "improvement_probability": self.improvement_probability,
            "history_weight": self.history_weight,
            "pending": self.pending,
            "leans_on": [{"study": study, "weight": round(weight, 4)} for study, weight in self.leans_on],
            "why": self.why,
        }


class HistorySampler(BaseSampler):
    """Proposes configurations from the history in `storage`; the same seed and the same data give the same proposals.

    Studies with several objectives or with constraints are left to Optuna's TPESampler.
    """

    def __init__(self, storage: HistoryStorage, *, seed: int | None = None) -> None:
        self._history = storage
        self._seed = seed
        self._pasts: dict[str, Past] = {}  # a pure cache of the latest one
        self._mappings: dict[tuple[int, str], SpaceMapping] = {}  # the same, by family and space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, or every parameter that this study has asked for so far."""
        if _is_for_tpe(study):
            return self._tpe(trial).infer_relative_search_space(study, trial)
        declared = declared_space(study)
        if declared is not None:
            return declared.distributions
        return union(other.distributions for other in _trials(study) if other.number != trial.number).distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The active parameters of the next configuration."""
        if _is_for_tpe(study):
            tpe = self._tpe(trial)
            return tpe.sample_relative(study, trial, tpe.infer_relative_search_space(study, trial))
        if not search_space:
            return {}
        encoding = Encoding(space=_with_conditions(study, search_space))
        with _one_thread().limit(limits=1, user_api="blas"):
            proposal = self._propose(study, trial, encoding)
        _keep_receipt(study, trial, proposal)
        return encoding.decode(proposal.point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter of a space that is not known yet: from history where possible, else at random."""
        if _is_for_tpe(study):
            return self._tpe(trial).sample_independent(study, trial, param_name, param_distribution)
        with _one_thread().limit(limits=1, user_api="blas"):
            value = self._remember(study, trial, param_name, param_distribution)
        if value is not None:
            return value
        encoding = Encoding(space=SearchSpace(distributions={param_name: param_distribution}, conditions={}))
        rng = self._rng(trial.number, crc32(param_name.encode()))
        return encoding.decode(encoding.uniform(rng.random((1, 1)))[0])[param_name]

    # The three ways to propose a configuration

    def _propose(self, study: Study, trial: FrozenTrial, encoding: Encoding) -> Proposal:
        evidence = gather(_trials(study), study.direction, encoding, trial.number)
        rng = self._rng(trial.number)
        past = self._past(study, encoding, encoding.names)
        if past is not None and evidence.position < FIRST_POINTS:
            proposal = self._from_portfolio(past, evidence)
            if proposal is not None:
                return proposal
        design_size = min(FIRST_POINTS, 2 + len(encoding.names))
        if evidence.position < design_size or not len(evidence.losses):
            return self._from_design(study, encoding, evidence, design_size, rng)
        return self._from_model(study, encoding, evidence, past, rng)

    def _from_portfolio(self, past: Past, evidence: Evidence) -> Proposal | None:
        """The next entry of the portfolio that nobody has tried, or is about to; None if there is no other."""
        picks = past.picks
        new = [pick for pick, is_new in zip(picks, untried(_points(picks), evidence.tried), strict=True) if is_new]
        if len(new) <= evidence.waiting:
            return None
        pick = new[evidence.waiting]
        return Proposal(
            point=pick.point,
            kind="portfolio",
            leans_on=self._sources(past, pick.credit),
            why=f"Among the first {FIRST_POINTS} points that together do well on "
            f"{_count(len(past.studies), 'past study')}.",
        )

    def _from_design(
        self, study: Study, encoding: Encoding, evidence: Evidence, size: int, rng: np.random.Generator
    ) -> Proposal:
        """The centre of the space, then a Latin hypercube; anything untried where those points are taken."""
        seed = crc32(study.study_name.encode()) if self._seed is None else self._seed
        design = encoding.uniform(_centred_latin_hypercube(size, len(encoding.names), np.random.default_rng(seed)))
        point = design[min(evidence.position, size - 1)]
        if not untried(point[None, :], evidence.tried)[0] or evidence.position >= size:
            point = maximise(lambda points: rng.random(len(points)), encoding, evidence.tried, design, rng)
        return Proposal(point=point, kind="cold_start", why="No history of these parameters: a space-filling start.")

    def _from_model(
        self, study: Study, encoding: Encoding, evidence: Evidence, past: Past | None, rng: np.random.Generator
    ) -> Proposal:
        """The largest expected improvement, by history and by this study's own trials."""
        rows = np.sort(best_and_some(evidence.losses, MODELLED_TRIALS, rng))
        X, losses = evidence.X[rows], evidence.losses[rows]
        history = None if past is None else past.history
        models = mixture(X, losses, encoding.categorical, rng, pending=evidence.pending, history=history)
        anchors = X[np.argsort(losses, kind="stable")[:ANCHORS]]
        if past is not None and models.history_weight > 0.0:
            anchors = np.vstack([anchors, past.anchors])
        near = evidence.position % WIDE_EVERY != 0
        point = maximise(models.log_expected_improvement, encoding, evidence.tried, anchors, rng, near=near)
        sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
        low, middle, high = (sign * loss for loss in models.quantiles(point, (0.05, 0.5, 0.95)))
        best = float(losses.min())
        leans_on = [] if past is None else self._sources(past, models.credit(point))
        if models.history_weight < 1.0:
            leans_on.append((study.study_name, 1.0 - models.history_weight))
        return Proposal(
            point=point,
            kind="gaussian_process",
            predicted=middle,
            interval90=(min(low, high), max(low, high)),
            incumbent=sign * best,
            improvement_probability=round(models.probability_below(point, best), 4),
            history_weight=round(models.history_weight, 4),
            pending=len(evidence.pending),
            leans_on=sorted(leans_on, key=lambda source: -source[1]),
            why=_reason(len(evidence.losses), models, past),
        )

    def _remember(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """One parameter of the portfolio entry closest to those already given in this trial; None without history."""
        given = {**trial.distributions, name: distribution}
        asked = SearchSpace(distributions=given, conditions={})
        known = [
            dict(zip(sample.names, sample.distributions, strict=True))
            for sample, _ in self._related(study, asked, [name])
        ]
        seen = union(past for past in known if set(given) <= set(past)).distributions
        if not seen:
            return None
        encoding = Encoding(space=SearchSpace(distributions={**seen, **given}, conditions={}))
        past = self._past(study, encoding, list(given))
        if past is None:
            return None
        picks = past.picks
        turn = sum(1 for other in _trials(study) if other.number < trial.number)
        pick = _closest([*picks[turn:], *picks[:turn]], encoding.raw([trial.params])[0], encoding.categorical)
        _keep_receipt(
            study,
            trial,
            Proposal(
                point=pick.point,
                kind="portfolio",
                leans_on=self._sources(past, pick.credit),
                why=f"Parameter by parameter from {_count(len(past.studies), 'past study')} with the same parameters.",
            ),
        )
        return encoding.decode(pick.point)[name]

    # What history says

    def _past(self, study: Study, encoding: Encoding, names: Sequence[str]) -> Past | None:
        """The past of the parameters `names`, the same for everyone who asks; None without history."""
        related = self._related(study, encoding.space, names)
        key = repr((encoding.space, [(sample.study_id, sample.finished) for sample, _ in related]))
        if key in self._pasts:
            return self._pasts[key]
        studies = _past_studies(related, encoding)
        if not studies:
            return None
        past = learn(studies, encoding.categorical)
        self._pasts = {key: past}
        return past

    def _related(self, study: Study, space: SearchSpace, names: Sequence[str]) -> list[Related]:
        """The latest past studies that know one of the parameters, and how their space relates to this one."""
        own = self._own_id(study)
        related = [
            (sample, mapping)
            for family in self._history.past_families()
            for mapping in [self._mapping(family, space)]
            if not _known(mapping).isdisjoint(names)
            for sample in self._history.past_studies(family)
            if sample.study_id != own
        ]
        return sorted(related, key=lambda pair: pair[0].study_id)[-PAST_STUDIES:]

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

    def _sources(self, past: Past, credit: Array) -> list[tuple[str, float]]:
        """The past studies that count most, by their credit (t,)."""
        leading = [int(t) for t in np.argsort(-credit, kind="stable")[:LEADING_SOURCES] if credit[t] > 0]
        return [(past.studies[t].name, float(credit[t])) for t in leading]

    # Randomness

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(None if self._seed is None else [abs(self._seed), *stream])

    def _tpe(self, trial: FrozenTrial) -> TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            seed = int(self._rng(trial.number).integers(2**31))
            return TPESampler(multivariate=True, group=True, seed=seed)


def _past_studies(related: Sequence[Related], encoding: Encoding) -> list[PastStudy]:
    rng = np.random.default_rng(0)
    looks = [
        look_back(
            sample,
            mapping,
            encoding,
            most_trials=share_of_trials(len(related)),
            most_landmarks=max(2, LANDMARKS // len(related)),
            rng=rng,
        )
        for sample, mapping in related
    ]
    return [look for look in looks if look is not None]


def _known(mapping: SpaceMapping) -> set[str]:
    """The present parameters that the past knows, under whatever name."""
    return {change.present for change in mapping.changes if change.past is not None and change.present is not None}


def _reason(trials: int, models: Mixture, past: Past | None) -> str:
    reason = f"The largest expected improvement after {_count(trials, 'trial')} of this study"
    if past is None or models.history_weight < LEAST_SHARE:
        return reason + "."
    return f"{reason}; what {_count(len(past.studies), 'past study')} led to expect counts {models.history_weight:.0%}."


@cache
def _one_thread() -> ThreadpoolController:
    """Small matrices are slower on several threads, on a busy machine much slower. Found once, for that takes long."""
    return ThreadpoolController()


def _is_for_tpe(study: Study) -> bool:
    """Several objectives, or constraints."""
    return study._is_multi_objective() or any("constraints" in trial.system_attrs for trial in _trials(study))


def _trials(study: Study) -> list[FrozenTrial]:
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def _with_conditions(study: Study, distributions: Mapping[str, BaseDistribution]) -> SearchSpace:
    """A relative search space in the order of the declared one, with those of its conditions that can be checked."""
    declared = declared_space(study)
    if declared is None:
        return SearchSpace(distributions=dict(distributions), conditions={})
    order = [name for name in declared.distributions if name in distributions]
    order += [name for name in distributions if name not in declared.distributions]
    conditions = {
        name: condition
        for name, condition in declared.conditions.items()
        if name in distributions and condition.parent in distributions
    }
    return SearchSpace(distributions={name: distributions[name] for name in order}, conditions=conditions)


def _keep_receipt(study: Study, trial: FrozenTrial, proposal: Proposal) -> None:
    study._storage.set_trial_system_attr(trial._trial_id, RECEIPT, proposal.receipt())


def _points(picks: Sequence[Pick]) -> Array:
    return np.array([pick.point for pick in picks])


def _closest(picks: Sequence[Pick], given: Array, categorical: Mask) -> Pick:
    """The first pick at the least distance from the given coordinates (d,), NaN where none is given."""
    difference = np.abs(_points(picks) - given)
    distance = np.nansum(np.where(categorical & (difference > 0), 1.0, difference), axis=1)
    return picks[int(np.argmin(np.round(distance, 6)))]


def _centred_latin_hypercube(n: int, d: int, rng: np.random.Generator) -> Array:
    """The centre of the cube, then n - 1 points of which every parameter takes each (n - 1)-th of its range once.

    McKay, Beckman and Conover, A Comparison of Three Methods for Selecting Values of Input Variables, 1979.
    """
    strata = np.argsort(rng.random((n - 1, d)), axis=0)
    return np.vstack([np.full((1, d), 0.5), (strata + rng.random((n - 1, d))) / max(n - 1, 1)])


def _count(n: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n} {noun if n == 1 else plural}"
