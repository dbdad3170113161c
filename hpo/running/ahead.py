"""What would be proposed to a trial that is not there yet, once others that are not there either have begun?

So proposals can be made before somebody asks for them. Nothing is written.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.running.tuner import tuned_study
from hpo.spaces.space import SearchSpace
from hpo.studies.spec import StudySpec
from hpo.tuning.receipts import RECEIPT
from storage.optuna_storage import HistoryStorage

NOT_THERE = -1  # the id of a trial that is not in the storage


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """A configuration, and why."""

    params: Mapping[str, Any]
    receipt: Mapping[str, Any] | None


class Outlook(HistoryStorage):
    """The history of a study as it will be when some proposals have been handed out.

    Trials that are to get the proposals made here, for they have no parameters yet, are left out, and the others are
    numbered anew without them: a trial that is supposed has no number of one that is there. Those that were given back
    with their parameters will run again, and count as if they did.
    """

    _study_id: int | None = None  # whose trials are supposed
    _supposed: Sequence[FrozenTrial] = ()
    _kept: Mapping[str, Any] = MappingProxyType({})

    def look_ahead(self, study_id: int, begun: Sequence[Mapping[str, Any]], space: SearchSpace) -> FrozenTrial:
        """Take the study as it is now, and proposals of these parameters for handed out; the trial that comes next.

        So it stays until somebody looks ahead again. Raises StorageError.
        """
        found = super().get_all_trials(study_id, deepcopy=False)
        configured = [trial for trial in found if trial.params or trial.state.is_finished()]
        trials = [_as_begun(trial, number) for number, trial in enumerate(configured)]
        trials += [_running(number, params, space) for number, params in enumerate(begun, start=len(trials))]
        self._study_id, self._supposed, self._kept = study_id, trials, {}
        return _running(len(trials), {}, space)

    def look_on(self, params: Mapping[str, Any], space: SearchSpace) -> FrozenTrial:
        """Take one more proposal for handed out, and nothing else for changed; the trial that comes next."""
        self._supposed = [*self._supposed, _running(len(self._supposed), params, space)]
        self._kept = {}
        return _running(len(self._supposed), {}, space)

    @property
    def kept(self) -> Mapping[str, Any]:
        """What was to be kept with the trial that is not there."""
        return self._kept

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Those of the storage; of the study that was looked at those that are supposed."""
        if study_id != self._study_id:
            return super().get_all_trials(study_id, deepcopy, states)
        found = [trial for trial in self._supposed if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep what is said of the trial that is not there."""
        if trial_id == NOT_THERE:
            self._kept = {**self._kept, key: value}
        else:
            super().set_trial_system_attr(trial_id, key, value)


class Foreteller:
    """Makes proposals for one study ahead of time."""

    def __init__(self, outlook: Outlook, spec: StudySpec) -> None:
        self._outlook, self._space = outlook, spec.search_space()
        self._study = tuned_study(outlook, spec)

    def propose(self, begun: Sequence[Mapping[str, Any]], *, count: int = 1) -> Iterator[Proposed]:
        """The next proposals, after those whose parameters are given; each counts on those before.

        All know the same trials: those that had ended when the first was asked for. Raises StorageError.
        """
        study, outlook = self._study, self._outlook
        trial = outlook.look_ahead(study._study_id, begun, self._space)
        for place in range(count):
            space = study.sampler.infer_relative_search_space(study, trial)
            params = _active(self._space, study.sampler.sample_relative(study, trial, space))
            receipt = outlook.kept.get(RECEIPT)
            if place < count - 1:
                trial = outlook.look_on(params, self._space)
            yield Proposed(params=params, receipt=receipt)


def _running(number: int, params: Mapping[str, Any], space: SearchSpace) -> FrozenTrial:
    distributions: dict[str, BaseDistribution] = {name: space.distributions[name] for name in params}
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(params),
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=NOT_THERE,
    )


def _as_begun(trial: FrozenTrial, number: int) -> FrozenTrial:
    state = TrialState.RUNNING if trial.state == TrialState.WAITING else trial.state
    if (trial.number, trial.state) == (number, state):
        return trial
    begun = copy.copy(trial)
    begun.number, begun.state = number, state
    return begun


def _active(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in space.distributions:
        if space.is_active(name, found):
            found[name] = params[name]
    return found
