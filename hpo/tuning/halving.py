"""Which trial to stop early where there are very many: successive halving whose rungs come from past studies.

    study = optuna.create_study(storage=storage, sampler=..., pruner=HistoryHalving(storage))

Like `HistoryPruner` it keeps no state between calls; what was learned from the past is remembered while that stays as
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.arrays import Array
from hpo.one_thread import one_thread
from hpo.priors.curves import Curve, End, is_probe
from hpo.priors.rungs import Comparison, Rungs, at_rungs, compare, learn_rungs
from hpo.tuning.past_curves import curve_of, looked_at, own_curves, past_curves, related_studies, sign_of
from hpo.tuning.prune_reasons import HALVED_BECAUSE, NAMED, HalvingReason

if TYPE_CHECKING:
    from storage.optuna_storage import HistoryStorage

KEPT = 4  # pasts, and studies at some moment: the latest
TELLING = 32  # complete trials that tell which report is their value


class HistoryHalving(BasePruner):
    """Compares trials at a few steps, the rungs, and stops those of which too many others were better there.

    Past studies' curves say where the rungs are, how many trials may be better, and what the first trials are compared
    with (`hpo.priors.rungs`). Where no past study of the metric has 8 curves that went to their end, it is Optuna's
    SuccessiveHalvingPruner, which gives no reasons.

    false_prunes: the promised rate: at most this share of studies lose their best trial. warmup_steps: steps below
    which none is stopped. Trials 7, 15, 31, 63, ... are never stopped.
    """

    def __init__(self, storage: HistoryStorage, *, false_prunes: float = 0.1, warmup_steps: int = 0) -> None:
        if not 0.0 < false_prunes < 1.0:
            raise ValueError(f"false_prunes = {false_prunes} is not between 0 and 1, as 0.1 is")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps = {warmup_steps} may not be below 0")
        self._history = storage
        self._false_prunes = false_prunes
        self._warmup_steps = warmup_steps
        self._without_history = SuccessiveHalvingPruner()
        self._learned: dict[tuple[object, ...], Rungs | None] = {}  # a pure cache of the latest pasts
        self._known: dict[tuple[str, int, int], tuple[Rungs | None, End]] = {}  # the same, by study and finished trials

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial at its last report; the reason is kept with it.

        Raises ValueError for a study of several objectives: Optuna prunes by one only.
        """
        if len(study.directions) > 1:
            raise ValueError(f"study {study.study_name} has {len(study.directions)} objectives; prune by one only")
        step = trial.last_step
        if step is None or step < self._warmup_steps:
            return False
        others = [
            other
            for other in study._storage.get_all_trials(study._study_id, deepcopy=False)
            if other.number != trial.number and other.intermediate_values
        ]
        rungs, end = self._knowledge(study, others)
        if rungs is None:
            return bool(self._without_history.prune(study, trial))
        if is_probe(trial.number):
            return False
        sign = sign_of(study)
        curve = curve_of(trial, sign)
        before = float(curve.steps[-2]) if len(curve.steps) > 1 else -np.inf
        for rung in np.flatnonzero((before < rungs.steps) & (rungs.steps <= step)):
            comparison = _compared(rungs, int(rung), curve, others, sign, end)
            if comparison is not None and comparison.is_lost:
                reason = self._reason(rungs, comparison, float(step), trial.intermediate_values[step])
                study._storage.set_trial_system_attr(trial._trial_id, HALVED_BECAUSE, reason.to_json())
                return True
        return False

    def _knowledge(self, study: Study, others: Sequence[FrozenTrial]) -> tuple[Rungs | None, End]:
        """The rungs, and which report a trial's value is: the same until another trial ends."""
        key = (study.study_name, study._study_id, sum(other.state.is_finished() for other in others))
        if key not in self._known:
            end = _end(study, others)
            rungs = self._rungs(study, end)
            _make_room(self._known)
            self._known[key] = (rungs, end)
        return self._known[key]

    def _rungs(self, study: Study, end: End) -> Rungs | None:
        """What the related past teaches, the same for everyone who asks."""
        samples = related_studies(self._history, study)
        key = (tuple((each.study_id, looked_at(each)) for each in samples if looked_at(each)), end, study.direction)
        if key not in self._learned:
            with one_thread():
                past = past_curves(self._history, samples, sign_of(study))
                rungs = learn_rungs(past, end, false_prunes=self._false_prunes)
            _make_room(self._learned)
            self._learned[key] = rungs
        return self._learned[key]

    def _reason(self, rungs: Rungs, comparison: Comparison, step: float, value: float) -> HalvingReason:
        return HalvingReason(
            step=step,
            value=value if np.isfinite(value) else None,
            better=comparison.better,
            allowed=comparison.allowed,
            compared=comparison.trials,
            false_prunes=self._false_prunes,
            past_studies=len(rungs.names),
            named=tuple(rungs.names[-NAMED:]),
        )


def _end(study: Study, others: Sequence[FrozenTrial]) -> End:
    """Which report a trial's value is: the last, unless most complete trials of the study say the best."""
    own = own_curves(study, [other for other in others if other.state == TrialState.COMPLETE][:TELLING])
    return "last" if own is None else own.end


def _make_room(cache: dict[Any, Any]) -> None:
    while len(cache) >= KEPT:
        cache.pop(next(iter(cache)), None)


def _compared(  # noqa: PLR0917
    rungs: Rungs, rung: int, curve: Curve, others: Sequence[FrozenTrial], sign: float, end: End
) -> Comparison | None:
    """How a curve stands at a rung; None where it is at its end there, as far as the study's own trials tell."""
    curves = [curve_of(other, sign) for other in others]
    complete = [each for each in curves if each.is_ended]
    if complete and curve.steps[-1] >= max(each.steps[-1] for each in complete):
        return None
    stopped = [other.state == TrialState.PRUNED for other in others]
    losses: Array = np.array([at_rungs(each, rungs.steps, end)[rung] for each in curves], dtype=np.float64)
    losses = np.where(np.isnan(losses) & np.array(stopped, dtype=bool), np.inf, losses)  # before it came to the rung
    best = None
    if complete:
        leader = min(complete, key=lambda each: each.end(end))
        best = float(at_rungs(leader, rungs.steps, end)[rung])
    own = float(at_rungs(curve, rungs.steps, end)[rung])
    return compare(rungs, rung, own, losses[~np.isnan(losses)], best)
