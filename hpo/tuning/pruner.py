"""Which trial to stop early: an Optuna pruner that has learned from past studies how curves go on.

    study = optuna.create_study(storage=storage, sampler=..., pruner=HistoryPruner(storage))

The pruner keeps no state between calls: a verdict is a function of the trials in the storage. What was learned from the
past is remembered while the past stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.one_thread import one_thread
from hpo.priors.curves import START_UPS, Curve, End, Standing, is_probe, standing
from hpo.priors.foresight import Foresight, Outlook, learn
from hpo.tuning.past_curves import curve_of, looked_at, own_curves, past_curves, related_studies, sign_of
from hpo.tuning.prune_reasons import NAMED, PRUNED_BECAUSE, PruneReason

if TYPE_CHECKING:
    from storage.optuna_storage import HistoryStorage

LEARNED_KEPT = 4  # pasts, the latest
KNOWN_KEPT = 16  # studies at some moment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """What may be held against a running trial."""

    now: Standing  # of the study
    finished: int  # trials of it
    foresight: Foresight


class HistoryPruner(BasePruner):
    """Stops trials with little chance to end better than the best one so far, by what the history teaches of curves.

    Little is a share of what any next trial has, one in n + 1 after n trials; the history says which share.

    false_prunes: the promised rate: at most this share of studies lose their best trial, because it was stopped though
    it would have ended better than everything the study is left with. It is estimated by tuning each related past study
    again without having learned from it; where they are few, generated curves stand in.
    startup_trials: complete trials before the first may be stopped, at least 4. warmup_steps: steps below which none
    is stopped.

    A trial's value may be the last or the best that it reports. A study is left alone where it is neither, and where
    the metric changes its meaning on the way. A report that is no number counts as very bad. A trial that is not
    farther behind than this study has seen made good goes on, whatever other studies were like, and so do trials 7, 15,
    31, 63, ..., by which a study sees what it would otherwise always stop.
    """

    def __init__(
        self,
        storage: HistoryStorage,
        *,
        false_prunes: float = 0.05,
        startup_trials: int = START_UPS,
        warmup_steps: int = 0,
    ) -> None:
        if not 0.0 < false_prunes < 1.0:
            raise ValueError(f"false_prunes = {false_prunes} is not between 0 and 1, as 0.05 is")
        if startup_trials < 0 or warmup_steps < 0:
            raise ValueError(
                f"startup_trials = {startup_trials}, warmup_steps = {warmup_steps}: neither may be below 0"
            )
        self._history = storage
        self._false_prunes = false_prunes
        self._startup_trials = max(startup_trials, START_UPS)
        self._warmup_steps = warmup_steps
        self._learned: dict[tuple[object, ...], Foresight] = {}  # a pure cache of the latest pasts
        self._knowledge: dict[tuple[str, int, int], _Known | None] = {}  # the same, by study and finished trials
        self._said: set[str] = set()  # studies that are left alone, once in the log

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial at its last report; the reason is kept with it.

        Raises ValueError for a study of several objectives: Optuna prunes by one only.
        """
        if len(study.directions) > 1:
            raise ValueError(f"study {study.study_name} has {len(study.directions)} objectives; prune by one only")
        step = trial.last_step
        if step is None or step < self._warmup_steps or is_probe(trial.number):
            return False
        known = self._known(study, trial)
        if known is None:
            return False
        curve = curve_of(trial, sign_of(study))
        last = np.array([len(curve.steps) - 1])
        if not known.foresight.stops(known.now, curve, last, known.finished)[0]:
            return False
        reason = self._reason(known, curve, sign_of(study))
        study._storage.set_trial_system_attr(trial._trial_id, PRUNED_BECAUSE, reason.to_json())
        return True

    def outlook(self, study: Study, trial: FrozenTrial) -> Outlook | None:
        """What is expected of a running trial at its end, in the metric's units; None while too little is known."""
        known = None if trial.last_step is None else self._known(study, trial)
        if known is None:
            return None
        sign = sign_of(study)
        found = known.foresight.outlook(known.now, curve_of(trial, sign), known.finished)
        low, high = sorted(sign * end for end in found.interval90)
        return Outlook(chance=found.chance, predicted=sign * found.predicted, interval90=(low, high))

    def _reason(self, known: _Known, curve: Curve, sign: float) -> PruneReason:
        now, foresight = known.now, known.foresight
        outlook = foresight.outlook(now, curve, known.finished)
        low, high = sorted(sign * end for end in outlook.interval90)
        value = sign * float(curve.losses[-1])
        return PruneReason(
            step=float(curve.steps[-1]),
            value=value if np.isfinite(value) else None,
            predicted=sign * outlook.predicted,
            interval90=(low, high),
            incumbent=sign * now.incumbent,
            chance=outlook.chance,
            least_chance=foresight.threshold_after(known.finished, uneven=now.is_uneven),
            false_prunes=self._false_prunes,
            proven=foresight.proven_rate,
            past_studies=len(foresight.past),
            named=tuple(foresight.past[-NAMED:]),
        )

    # What is known

    def _known(self, study: Study, trial: FrozenTrial) -> _Known | None:
        """What may be held against a trial, the same until another one ends; None while that is too little."""
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        others = [other for other in trials if other.number != trial.number and other.state.is_finished()]
        key = (study.study_name, study._study_id, len(others))
        if key not in self._knowledge:
            _make_room(self._knowledge, KNOWN_KEPT)
            self._knowledge[key] = self._learn(study, others)
        return self._knowledge[key]

    def _learn(self, study: Study, others: Sequence[FrozenTrial]) -> _Known | None:
        own = own_curves(study, others)
        if own is None:
            self._leave_alone(study, others)
            return None
        if len(own.ended) < self._startup_trials:
            return None
        now = standing(own.ended, own.end)
        if now is None:
            return None
        return _Known(now=now, finished=own.finished, foresight=self._foresight(study, own.end))

    def _foresight(self, study: Study, end: End) -> Foresight:
        """What the related past teaches, the same for everyone who asks."""
        samples = related_studies(self._history, study)
        known = tuple((sample.study_id, looked_at(sample)) for sample in samples if looked_at(sample))
        key = (known, end, study.direction.name)
        if key not in self._learned:
            with one_thread():
                past = past_curves(self._history, samples, sign_of(study))
                foresight = learn(past, end, false_prunes=self._false_prunes)
            _make_room(self._learned, LEARNED_KEPT)
            self._learned[key] = foresight
        return self._learned[key]

    def _leave_alone(self, study: Study, others: Sequence[FrozenTrial]) -> None:
        """Say once why nothing is stopped, where trials have reported enough that something might be."""
        telling = sum(other.state == TrialState.COMPLETE and bool(other.intermediate_values) for other in others)
        if telling >= self._startup_trials and study.study_name not in self._said:
            self._said.add(study.study_name)
            logger.warning(
                "study %s: no trial is stopped early, for what trials report is not what they are worth: return the "
                "last or the best reported value, on one scale throughout",
                study.study_name,
            )


def _make_room(cache: dict[Any, Any], most: int) -> None:
    while len(cache) >= most:
        cache.pop(next(iter(cache)), None)
