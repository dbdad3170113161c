"""When does a study end before its budget is spent? When what is left to gain is not worth the trials.

    study.optimize(objective, n_trials=60, callbacks=[StopWhenDone(gain=0.002, trials=60)])

What is left is told from the tuner's own predictions, which its receipts keep, and from how they came out
(`hpo.statistics.remaining_gain`); what past studies taught is in the predictions. A study ends when several trials in
a row have found that both the expected gain and its 95% quantile are less than the tolerance: a single find would be
luck. A perfect score ends it as well. Nothing is kept between calls: whoever asks gets the same answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.arrays import best_and_some
from hpo.one_thread import one_thread
from hpo.spaces.encoding import Encoding, union
from hpo.spaces.space import SearchSpace, declared_space
from hpo.statistics.loss_scale import LossScale
from hpo.statistics.remaining_gain import LEAST_GUIDANCE, LEFT, Record, RemainingGain, best_case_below, remaining_gain
from hpo.studies.spec import Budget, Stop
from hpo.surrogates.gaussian_process import fit_kernel
from hpo.tuning.evidence import encode_trials, losses_of
from hpo.tuning.receipts import RECEIPT
from storage.database import Store
from storage.optuna_storage import HistoryStorage
from storage.studies import STOPPED_ATTRIBUTE

FIRST_CHECK = 6  # finished trials before anything is judged
CHECKS = 3  # in a row, after as many trials
THRIFT = 0.05  # of what a trial has gained so far: less is not worth its time, where nobody names a price (heuristic)
FITTED_TRIALS = 100  # to tell the noise
PERFECT_SCORES = (1.0, 100.0)  # of a share, and of a percentage, that is maximised

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """Why a study has ended."""

    rule: str  # auto, gain or cost
    finished: int  # trials
    started: int  # trials, those that still ran included
    left: int  # trials that the budget would have allowed after the finished ones
    expected_gain: float  # of them, in the metric's units
    gain95: float  # more is left with a probability of 5% only
    gain_of_next: float  # expected of one more trial
    threshold: float  # the gain that would be worth it: of them all, or for `cost` of the next one
    reason: str  # one sentence
    budget_trials: int | None = None  # of the budget; both None where it is not known
    budget_hours: float | None = None

    def went_on(self, counts: Mapping[TrialState, int]) -> bool:
        """Whether trials were started after the study was stopped, by how many are in each state now."""
        return sum(count for state, count in counts.items() if state != TrialState.WAITING) > self.started

    def is_less_than(self, budget: Budget) -> bool:
        """Whether the budget then was less than this one, in trials or in hours."""
        if self.budget_trials is None and self.budget_hours is None:  # hours, if any, were only guessed in trials
            return budget.trials is not None and budget.trials > self.finished + self.left
        return _grew(self.budget_trials, budget.trials) or _grew(self.budget_hours, budget.hours)

    @property
    def ways_on(self) -> str:
        """With what the study would go on, in words."""
        ways = []
        if self.budget_trials is not None or self.budget_hours is None:
            ways.append(f"with --trials of more than {self.budget_trials or self.finished + self.left}")
        if self.budget_hours is not None:
            ways.append(f"with a budget of more than {self.budget_hours:g} hours")
        return ", ".join([*ways, "or with --stop none"])


def _grew(before: float | None, now: float | None) -> bool:
    """Whether a bound is wider now; None is no bound."""
    return before is not None and (now is None or now > before)


@dataclass(frozen=True, kw_only=True)
class _Case:
    stop: Stop
    tolerance: float  # in the metric's units; 0 for `cost`
    metric: str  # its name in sentences


def stop_reason(study: Study, stop: Stop, trials_left: int, *, metric: str = "value", since: int = 0) -> Stopped | None:
    """Why the study need not go on; None while it must.

    trials_left: that the budget allows. since: finished trials when it was last stopped: only later ones are asked.
    """
    trials, direction = study.get_trials(deepcopy=False), study.direction
    finished = [trial for trial in trials if trial.state.is_finished()]
    if stop.rule == "none" or trials_left < 1 or len(finished) < max(FIRST_CHECK, since + 1) + CHECKS - 1:
        return None
    found = _perfect(finished, direction, metric) or _enough(study, finished, stop, trials_left, metric)
    if found is None:
        return None
    gain, verdict = found
    return Stopped(
        rule=stop.rule,
        finished=len(finished),
        started=sum(trial.state != TrialState.WAITING for trial in trials),
        left=trials_left,
        expected_gain=gain.expected,
        gain95=gain.quantile,
        gain_of_next=gain.next_trial,
        threshold=verdict.threshold,
        reason=f"stopped after {len(finished)} of {len(finished) + trials_left} trials: {verdict.because}",
    )


def _enough(
    study: Study, finished: Sequence[FrozenTrial], stop: Stop, trials_left: int, metric: str
) -> tuple[RemainingGain, _Verdict] | None:
    """What is left and why it is not worth it, if the last checks all agree."""
    record, direction = record_of(finished, study.direction), study.direction
    gains = []
    for back in range(CHECKS):
        seen = finished[: len(finished) - back]
        gain = remaining_gain(record.until(seen[-1].number + 1), trials_left + back)
        if gain is None:
            return None
        gains.append((gain, seen))
    tolerance = stop.gain if stop.rule != "auto" else noise_of(finished, direction, declared_space(study))
    case = _Case(stop=stop, tolerance=tolerance or 0.0, metric=metric)
    verdicts = [_verdict(gain, trials_left + back, seen, direction, case) for back, (gain, seen) in enumerate(gains)]
    return (gains[0][0], verdicts[0]) if all(verdict.is_enough for verdict in verdicts) else None


def _perfect(
    finished: Sequence[FrozenTrial], direction: StudyDirection, metric: str
) -> tuple[RemainingGain, _Verdict] | None:
    """That nothing is left, where the best value is the end of its scale: a loss of 0, a share of 1 or of 100%.

    What is maximised is a share where some value lies between, not a whole number: counts and returns have no end.
    """
    values = np.array([trial.value for trial in finished if trial.state == TrialState.COMPLETE])
    if not len(values) or not values.min() >= 0.0:
        return None
    best = float(values.max() if direction == StudyDirection.MAXIMIZE else values.min())
    if best not in (PERFECT_SCORES if direction == StudyDirection.MAXIMIZE else (0.0,)):
        return None
    if direction == StudyDirection.MAXIMIZE and not (values % 1.0 > 0.0).any():
        return None
    because = f"the best {metric}, {best:g}, is the end of its scale"
    nothing = RemainingGain(expected=0.0, quantile=0.0, next_trial=0.0)
    return nothing, _Verdict(is_enough=True, threshold=0.0, because=because)


def kept_reason(attributes: Mapping[str, Any]) -> Stopped | None:
    """Why a study was stopped, from its attributes; None where it was not, or where they say something else."""
    kept = attributes.get(STOPPED_ATTRIBUTE)
    try:
        return Stopped(**kept) if isinstance(kept, Mapping) else None
    except TypeError:
        return None


def stopped_reason(store: Store, study_id: int) -> Stopped | None:
    """Why a study in the store was stopped; None where it was not."""
    return kept_reason(HistoryStorage(store).get_study_user_attrs(study_id))


class StopWhenDone:
    """An Optuna callback that ends `optimize` when what is left to gain is not worth it, and says why in the log.

    gain: in the metric's units. Without it, the noise of the metric decides, or money: price_per_hour of training, and
    worth of one unit of the metric. trials: the budget that `optimize` has; without it, as many more trials are taken
    to be left as have finished. The study needs the `HistorySampler`, whose receipts say what was predicted; where
    other samplers proposed, only a perfect score ends it: a loss of 0, a share of 1 or of 100%. The reason stays with
    the study, as its attribute `hindsight:stopped`; `optimize`, called again, goes on.
    """

    def __init__(
        self,
        *,
        gain: float | None = None,
        trials: int | None = None,
        price_per_hour: float | None = None,
        worth: float | None = None,
    ) -> None:
        rule = "gain" if gain is not None else "auto" if price_per_hour is None and worth is None else "cost"
        self._stop = Stop.model_validate({"rule": rule, "gain": gain, "price_per_hour": price_per_hour, "worth": worth})
        self._trials = trials

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Judge, after a trial has ended. Raises ValueError for a study of several objectives."""
        if len(study.directions) != 1:
            raise ValueError(f"StopWhenDone judges one objective, and this study has {len(study.directions)}")
        finished = sum(other.state.is_finished() for other in study.get_trials(deepcopy=False))
        left = finished if self._trials is None else self._trials - finished
        before = kept_reason(study.user_attrs)
        stopped = stop_reason(study, self._stop, left, since=0 if before is None else before.finished)
        if stopped is not None:
            keep_reason(study, replace(stopped, budget_trials=self._trials))
            logger.info("study %s: %s", study.study_name, stopped.reason)
            study.stop()


def keep_reason(study: Study, stopped: Stopped) -> None:
    """Note with the study why it was stopped."""
    study.set_user_attr(STOPPED_ATTRIBUTE, asdict(stopped))


# What is known


def record_of(trials: Sequence[FrozenTrial], direction: StudyDirection) -> Record:
    """What was predicted of finished trials, and how they came out: those whose receipts say it."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    rows = [row for trial in trials if (row := _row(trial, sign)) is not None]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 6).T
    return Record(
        numbers=columns[0],
        predicted=columns[1],
        low=columns[2],
        incumbents=columns[3],
        losses=columns[4],
        history=columns[5],
    )


def noise_of(trials: Sequence[FrozenTrial], direction: StudyDirection, declared: SearchSpace | None) -> float:
    """By how much the metric differs between runs of one configuration, as a standard deviation.

    From a Gaussian process on the finished trials: what it cannot explain by their parameters. Zero where none varies.
    """
    finished, losses = losses_of([trial for trial in trials if trial.params], direction)
    space = declared or union(_distributions(finished))
    if len(finished) < 2 or not space.distributions or np.ptp(losses) == 0.0:
        return 0.0
    rng = np.random.default_rng(0)
    encoding, scale = Encoding(space=space), LossScale.of(losses)
    rows = best_and_some(losses, FITTED_TRIALS, rng)
    X, y = encode_trials([finished[row] for row in rows], encoding), scale.standardise(losses[rows])
    with one_thread():
        kernel = fit_kernel([(X, y)], encoding.categorical, rng, restarts=1)
    return float(np.sqrt(kernel.noise) * scale.spread * scale.deviation)


def _distributions(trials: Sequence[FrozenTrial]) -> list[dict[str, BaseDistribution]]:
    return [trial.distributions for trial in trials]


def _row(trial: FrozenTrial, sign: float) -> tuple[float, ...] | None:
    """What `Record` holds of a trial, in its order; None where something is not known."""
    kept = trial.system_attrs.get(RECEIPT)
    if not isinstance(kept, Mapping) or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    interval = kept.get("interval90")
    if kept.get("predicted") is None or kept.get("incumbent") is None or not isinstance(interval, list | tuple):
        return None
    came_out = sign * trial.value if trial.state == TrialState.COMPLETE and trial.value is not None else np.inf
    predicted = sign * float(kept["predicted"])
    low = min(sign * float(end) for end in interval)
    weight = float(kept.get("history_weight") or 0.0)
    if kept.get("best_case") is not None and weight >= LEAST_GUIDANCE:  # noise is nothing to be gained
        low = best_case_below(predicted, low, sign * float(kept["best_case"]))
    if not (np.isfinite([predicted, low, float(kept["incumbent"])]).all() and low < predicted) or np.isnan(came_out):
        return None
    return float(trial.number), predicted, low, sign * float(kept["incumbent"]), came_out, weight


# What is enough


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    is_enough: bool
    threshold: float
    because: str


def _verdict(
    gain: RemainingGain, left: int, seen: Sequence[FrozenTrial], direction: StudyDirection, case: _Case
) -> _Verdict:
    """Whether the trials that are left are worth it, by what is known of the finished ones."""
    if case.stop.rule == "cost":
        threshold, against = _least_worth(seen, direction, case.stop)
        because = f"the next is expected to improve {case.metric} by {gain.next_trial:.2g}, less than {against}"
        return _Verdict(is_enough=gain.next_trial < threshold, threshold=threshold, because=because)
    what = "the noise of the metric" if case.stop.rule == "auto" else "the tolerance"
    because = (
        f"the {left} left are expected to improve {case.metric} by {gain.expected:.2g}, and by more than "
        f"{gain.quantile:.2g} with a probability of {LEFT:.0%}; that is below {what}, {case.tolerance:.3g}"
    )
    is_enough = gain.expected < case.tolerance and gain.quantile < case.tolerance
    return _Verdict(is_enough=is_enough, threshold=case.tolerance, because=because)


def _least_worth(seen: Sequence[FrozenTrial], direction: StudyDirection, stop: Stop) -> tuple[float, str]:
    """What the next trial must gain, and why: it gains more than any after it, so if it is not worth it, none is."""
    if stop.price_per_hour is not None and stop.worth is not None:
        seconds = [trial.duration.total_seconds() for trial in seen if trial.duration is not None]
        price = stop.price_per_hour * float(np.mean(seconds)) / 3600.0 if seconds else 0.0
        return price / stop.worth, f"{price / stop.worth:.3g}, which is worth the {price:.3g} that a trial costs"
    _, losses = losses_of(seen, direction)
    gained = float(np.median(losses) - losses.min()) if len(losses) else 0.0  # by the best, on the median one
    threshold = THRIFT * gained / len(seen)
    return threshold, f"{threshold:.3g}, which is {THRIFT:.0%} of what a trial has gained so far"


# A study that runs


class Stopper:
    """Whether the study that a process runs is done: asked before each new trial.

    A study that was stopped before and now has a larger budget runs to its end: its user has decided.
    """

    def __init__(
        self,
        study: Study,
        stop: Stop,
        *,
        budget: Budget,
        trials_left: Callable[[int], int],
        metric: str,
        notice: Callable[[str], None],
    ) -> None:
        """trials_left: that the budget allows after so many finished ones; its hours as at the pace so far."""
        self._study, self._stop, self._budget, self._trials_left = study, stop, budget, trials_left
        self._metric, self._notice = metric, notice
        self._judged = -1  # finished trials
        self._is_done = self._is_resumed = False
        before = kept_reason(study.user_attrs)
        if before is None or stop.rule == "none":
            return
        self._is_resumed = before.is_less_than(budget)
        self._is_done = not self._is_resumed
        if self._is_resumed:
            notice(f"it was stopped after {before.finished} trials; now its budget is larger, and all of it is used")
        else:
            notice(f"{before.reason}. Go on {before.ways_on}")

    def is_done(self) -> bool:
        """Whether no trial need be started any more; the reason is kept with the study and told once."""
        if self._is_done or self._is_resumed or self._stop.rule == "none":
            return self._is_done
        finished = self._finished()
        if finished != self._judged:
            self._judged = finished
            stopped = kept_reason(self._study.user_attrs)  # by another process
            if stopped is None:
                stopped = stop_reason(self._study, self._stop, self._trials_left(finished), metric=self._metric)
                if stopped is not None:
                    budget = self._budget
                    stopped = replace(stopped, budget_trials=budget.trials, budget_hours=budget.hours)
                    keep_reason(self._study, stopped)
            if stopped is not None:
                self._is_done = True
                self._notice(stopped.reason)
        return self._is_done

    def _finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))
