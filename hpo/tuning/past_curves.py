"""Which curves of past studies may teach a new one, and those of the study itself: from the storage, as losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.arrays import Array
from hpo.priors.curves import Curve, End, changes_its_meaning, end_of
from hpo.priors.foresight import LEAST_ENDED, PastCurves
from hpo.spaces.encoding import union
from hpo.spaces.space import SearchSpace, declared_space
from hpo.spaces.space_mapping import relate
from hpo.tuning.past import PAST_STUDIES
from storage.curves import StoredCurve, stored_curves, studies_of_folds
from storage.families import METRIC_NAMES
from storage.summaries import StudySample

if TYPE_CHECKING:
    from storage.families import Family
    from storage.optuna_storage import HistoryStorage

CURVES_OF_A_STUDY = 64  # at most
KNOWN = 0.5  # share of the parameters that a past study must know (heuristic)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnCurves:
    """What a study has reported so far."""

    ended: Sequence[Curve]  # of complete trials, by number
    end: End  # which report their values are
    finished: int  # trials, whatever became of them


def own_curves(study: Study, trials: Sequence[FrozenTrial]) -> OwnCurves | None:
    """The curves of a study's `trials`; None where they are not what the trials are worth.

    That is so where the values of most complete trials are neither the last nor the best that they reported, or where
    the metric changes its meaning on the way.
    """
    sign = sign_of(study)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.intermediate_values]
    curves = [curve_of(trial, sign) for trial in complete]
    end = end_of(np.array([sign * (trial.value or 0.0) for trial in complete]), curves)
    if end is None or changes_its_meaning(curves):
        return None
    return OwnCurves(ended=curves, end=end, finished=sum(trial.state.is_finished() for trial in trials))


def curve_of(trial: FrozenTrial, sign: float) -> Curve:
    """What a trial reported, as losses."""
    reports = np.array(sorted(trial.intermediate_values.items()), dtype=np.float64).reshape(-1, 2)
    return Curve(steps=reports[:, 0], losses=sign * reports[:, 1], is_ended=trial.state == TrialState.COMPLETE)


def related_studies(storage: HistoryStorage, study: Study) -> list[StudySample]:
    """The latest past studies of the same metric and direction that know half of the parameters; by id.

    A metric without a name may be the same as any.
    """
    space = _space(study, storage)
    own, direction, metric = _own_id(storage, study), study.direction.name.lower(), _metric(study)
    found = [
        sample
        for family in storage.past_families()
        if family.directions == (direction,) and _may_be_the_same(family.metric, metric) and _is_akin(family, space)
        for sample in storage.past_studies(family)
        if sample.study_id != own
    ]
    return sorted(found, key=lambda sample: sample.study_id)[-PAST_STUDIES:]


def looked_at(sample: StudySample) -> int:
    """How many of its curves are looked at: 8, 16, 32, 64, so that what is learned holds for a while; 0 if too few."""
    most = min(sample.finished, CURVES_OF_A_STUDY)
    return 0 if most < LEAST_ENDED else 2 ** int(np.log2(most))


def past_curves(storage: HistoryStorage, samples: Sequence[StudySample], sign: float) -> list[PastCurves]:
    """Their curves, of those whose metric keeps its meaning and whose values are what they reported.

    A study whose trials report after each fold has none: its steps are no epochs.
    """
    of_folds = studies_of_folds(storage.store, [sample.study_id for sample in samples])
    wanted = {
        sample.study_id: looked_at(sample)
        for sample in samples
        if looked_at(sample) and sample.study_id not in of_folds
    }
    stored = stored_curves(storage.store, wanted)
    names = {sample.study_id: sample.name for sample in samples}
    tasks = [_past_task(names[study_id], curves, sign) for study_id, curves in stored.items()]
    return [task for task in tasks if task is not None]


def sign_of(study: Study) -> float:
    """The sign of the metric against its loss."""
    return -1.0 if study.direction.name == "MAXIMIZE" else 1.0


def _past_task(name: str, stored: Sequence[StoredCurve], sign: float) -> PastCurves | None:
    curves = [
        Curve(steps=each.steps, losses=sign * each.values, is_ended=each.state == TrialState.COMPLETE)
        for each in stored
    ]
    ended = [curve for curve in curves if curve.is_ended]
    values: Array = sign * np.array([each.value for each in stored if each.state == TrialState.COMPLETE])
    if len(ended) < LEAST_ENDED or end_of(values, ended) is None or changes_its_meaning(ended):
        return None
    return PastCurves(name=name, curves=curves)


def _space(study: Study, storage: HistoryStorage) -> SearchSpace:
    declared = declared_space(study)
    if declared is not None:
        return declared
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return SearchSpace(distributions=union(trial.distributions for trial in trials).distributions, conditions={})


def _is_akin(family: Family, space: SearchSpace) -> bool:
    mapping = relate(SearchSpace.from_json(family.space), space)
    known = {change.present for change in mapping.changes if change.past is not None and change.present is not None}
    return bool(known) and len(known) >= KNOWN * len(space.distributions)


def _may_be_the_same(past: str | None, present: str | None) -> bool:
    return past is None or present is None or past == present


def _metric(study: Study) -> str | None:
    names = study._storage.get_study_system_attrs(study._study_id).get(METRIC_NAMES)
    return str(names[0]) if isinstance(names, list | tuple) and names else None


def _own_id(storage: HistoryStorage, study: Study) -> int | None:
    """The study's id in the history; by name, for the study may be open through another storage object."""
    try:
        return storage.get_study_id_from_name(study.study_name)
    except KeyError:
        return None
