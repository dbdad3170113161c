"""Does a study end when nothing is left to gain, by several checks in a row, and say why?"""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from pydantic import ValidationError

from hpo.studies.spec import Budget, Stop
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.stopping import CHECKS, FIRST_CHECK, Stopper, StopWhenDone, kept_reason, noise_of, stop_reason
from storage.studies import STOPPED_ATTRIBUTE
from tests.memory_history import MemoryHistory
from tests.unit.hpo.tuning.test_sampler import SPACE, history_of, loss, study_on

NOTHING_LEFT = {"predicted": 1.0, "interval90": [0.95, 1.05], "incumbent": 0.2}
MUCH_LEFT = {"predicted": 0.2, "interval90": [-1.0, 1.4], "incumbent": 0.2}


def study_of(receipts, *, direction="minimize", values=None, state=TrialState.COMPLETE):
    """A study whose trials came with these receipts (None: without one)."""
    study = optuna.create_study(storage=MemoryHistory(), direction=direction)
    for number, receipt in enumerate(receipts):
        value = 0.2 + 0.1 * (number % 7) if values is None else values[number]
        study.add_trial(
            create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params={"x": (number * 0.37) % 1.0},
                distributions={"x": FloatDistribution(0.0, 1.0)},
                system_attrs={} if receipt is None else {RECEIPT: receipt},
            )
        )
    return study


GAIN = Stop(rule="gain", gain=0.01)


def test_a_study_with_nothing_left_stops_and_says_so():
    stopped = stop_reason(study_of([NOTHING_LEFT] * 12), GAIN, 8, metric="val_loss")
    assert (stopped.finished, stopped.left, stopped.threshold) == (12, 8, 0.01)
    assert stopped.expected_gain < 0.01 and stopped.gain95 < 0.01
    assert stopped.reason.startswith("stopped after 12 of 20 trials: the 8 left are expected to improve val_loss by ")
    assert "with a probability of 5%; that is below the tolerance, 0.01" in stopped.reason


def test_noise_is_nothing_to_be_gained():
    """Values that scatter widely promise nothing where the configurations themselves are not in doubt."""
    noisy = {"predicted": 0.25, "interval90": [0.0, 0.5], "incumbent": 0.2, "history_weight": 0.7}
    assert stop_reason(study_of([noisy] * 12), GAIN, 8) is None
    assert stop_reason(study_of([{**noisy, "best_case": 0.24}] * 12), GAIN, 8) is not None
    assert stop_reason(study_of([{**noisy, "best_case": 0.25}] * 12), GAIN, 8) is not None
    cold = {**noisy, "best_case": 0.24, "history_weight": 0.1}  # its model's doubt is not to be trusted that far
    assert stop_reason(study_of([cold] * 12), GAIN, 8) is None
    up = {**noisy, "predicted": 0.75, "interval90": [0.5, 1.0], "incumbent": 0.8, "best_case": 0.76}
    values = [0.8 - 0.1 * (number % 7) for number in range(12)]
    assert stop_reason(study_of([up] * 12, values=values, direction="maximize"), GAIN, 8) is not None


def test_a_study_with_much_left_goes_on():
    assert stop_reason(study_of([MUCH_LEFT] * 12), GAIN, 8) is None


@pytest.mark.parametrize(
    ("direction", "best", "other"), [("minimize", 0.0, 0.5), ("maximize", 1.0, 0.5), ("maximize", 100.0, 50.5)]
)
def test_what_cannot_be_better_is_enough(direction, best, other):
    values = [best] + [other] * 11
    stopped = stop_reason(study_of([MUCH_LEFT] * 12, values=values, direction=direction), GAIN, 8, metric="score")
    assert stopped.reason == f"stopped after 12 of 20 trials: the best score, {best:g}, is the end of its scale"
    beyond = [best + (1.0 if direction == "maximize" else -1.0), *values[1:]]
    assert stop_reason(study_of([MUCH_LEFT] * 12, values=beyond, direction=direction), GAIN, 8) is None


@pytest.mark.parametrize("values", [[1.0, *[0.0] * 11], [1.0] * 12, [100.0, *range(11)], [100.0] * 12])
def test_what_is_counted_has_no_perfect_score(values):
    assert stop_reason(study_of([MUCH_LEFT] * 12, values=values, direction="maximize"), GAIN, 8) is None


def test_one_lucky_check_is_not_enough():
    """The last checks must all agree: what was promising two trials ago keeps a study alive."""
    lucky = [MUCH_LEFT] * 10 + [NOTHING_LEFT] * 2
    assert stop_reason(study_of(lucky), GAIN, 8) is None
    settled = [MUCH_LEFT] * 10 + [NOTHING_LEFT] * 4
    values = [0.2] + [1.0] * 13
    assert stop_reason(study_of(settled, values=values), GAIN, 8) is not None


def test_nothing_is_judged_at_the_beginning():
    least = FIRST_CHECK + CHECKS - 1
    assert stop_reason(study_of([NOTHING_LEFT] * (least - 1)), GAIN, 8) is None
    assert stop_reason(study_of([NOTHING_LEFT] * least), GAIN, 8) is not None


def test_a_study_that_went_on_is_judged_by_later_trials_only():
    study = study_of([NOTHING_LEFT] * 12)
    assert stop_reason(study, GAIN, 8, since=12) is None
    assert stop_reason(study, GAIN, 8, since=12 - CHECKS) is not None


def test_no_trials_left_and_no_rule_are_no_reason():
    study = study_of([NOTHING_LEFT] * 12)
    assert stop_reason(study, GAIN, 0) is None
    assert stop_reason(study, Stop(rule="none"), 8) is None


@pytest.mark.parametrize(
    "receipts",
    [
        [None] * 12,
        [{"predicted": None}] * 12,
        [{"predicted": math.nan, "interval90": [0, 1], "incumbent": 0}] * 12,
        [{"predicted": 1.0, "interval90": [1.0, 1.0], "incumbent": 0.5}] * 12,
        ["damaged"] * 12,
    ],
)
def test_without_predictions_nothing_is_known(receipts):
    assert stop_reason(study_of(receipts), GAIN, 8) is None


def test_failed_trials_only():
    assert stop_reason(study_of([NOTHING_LEFT] * 12, state=TrialState.FAIL), GAIN, 8) is None
    assert stop_reason(study_of([NOTHING_LEFT] * 12, state=TrialState.FAIL), Stop(rule="auto"), 8) is None


def test_a_metric_to_maximise_is_the_mirror_image():
    mirrored = {"predicted": -1.0, "interval90": [-1.05, -0.95], "incumbent": -0.2}
    values = [0.2 + 0.1 * (number % 7) for number in range(12)]
    down = stop_reason(study_of([NOTHING_LEFT] * 12, values=values), GAIN, 8)
    up = stop_reason(study_of([mirrored] * 12, values=[-v for v in values], direction="maximize"), GAIN, 8)
    assert up == down


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_the_noise_is_what_parameters_cannot_explain(noise):
    rng = np.random.default_rng(0)
    values = [2 * ((number * 0.37) % 1.0 - 0.4) ** 2 + noise * rng.standard_normal() for number in range(60)]
    study = study_of([None] * 60, values=values)
    assert noise_of(study.get_trials(), study.direction, None) == pytest.approx(noise, rel=0.4)


def test_nothing_varies_and_there_is_no_noise():
    study = study_of([NOTHING_LEFT] * 12, values=[1.0] * 12)
    assert noise_of(study.get_trials(), study.direction, None) == 0.0
    assert stop_reason(study, Stop(rule="auto"), 8) is None
    assert stop_reason(study, Stop(rule="cost"), 8) is None


def test_by_price_a_study_ends_when_a_trial_costs_more_than_it_gains():
    study = study_of([MUCH_LEFT] * 12)  # trials of no time at all cost nothing
    assert stop_reason(study, Stop(rule="cost", price_per_hour=1e9, worth=1.0), 8) is None
    slow = study_of([])
    for trial in study_of([MUCH_LEFT] * 12).get_trials():
        trial.datetime_complete = trial.datetime_start + np.timedelta64(3600, "s").item()
        slow.add_trial(trial)
    dear = stop_reason(slow, Stop(rule="cost", price_per_hour=10.0, worth=1.0), 8)
    assert dear.threshold == pytest.approx(10.0)
    assert "which is worth the 10 that a trial costs" in dear.reason
    assert stop_reason(slow, Stop(rule="cost", price_per_hour=1e-6, worth=1.0), 8) is None


def test_without_a_price_a_trial_must_gain_a_share_of_what_trials_have_gained():
    assert stop_reason(study_of([MUCH_LEFT] * 12), Stop(rule="cost"), 8) is None
    stopped = stop_reason(study_of([NOTHING_LEFT] * 12), Stop(rule="cost"), 8)
    assert stopped.gain_of_next < stopped.threshold
    assert "5% of what a trial has gained so far" in stopped.reason


def tune(study, callback, trials):
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=trials, callbacks=[callback])


def test_the_callback_ends_optimize_and_the_next_call_goes_on():
    study = study_on(history_of(0.0, 0.1, -0.1, 0.05))
    callback = StopWhenDone(gain=0.5, trials=40)
    tune(study, callback, 40)
    first = len(study.trials)
    stopped = kept_reason(study.user_attrs)
    assert FIRST_CHECK + CHECKS - 1 <= first < 40
    assert (stopped.finished, stopped.left, stopped.budget_trials) == (first, 40 - first, 40)
    tune(study, callback, 10)
    assert len(study.trials) >= first + CHECKS


def test_a_perfect_score_ends_it_whoever_proposed():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: min(1.0, 2 * trial.suggest_float("x", 0, 1)), n_trials=40, callbacks=[StopWhenDone()])
    assert FIRST_CHECK + CHECKS - 1 <= len(study.trials) < 40


def test_the_callback_refuses_half_a_price():
    with pytest.raises(ValidationError, match="go together"):
        StopWhenDone(price_per_hour=2.0)


def test_the_callback_is_for_one_objective():
    study = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="this study has 2"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 0.0), n_trials=1, callbacks=[StopWhenDone()])


def test_a_kept_reason_that_is_damaged_is_none():
    assert kept_reason({}) is None
    assert kept_reason({STOPPED_ATTRIBUTE: "because"}) is None
    assert kept_reason({STOPPED_ATTRIBUTE: {"rule": "gain"}}) is None


def stopper(study, budget, said, rule=GAIN):
    return Stopper(
        study,
        rule,
        budget=Budget(trials=budget),
        trials_left=lambda finished: budget - finished,
        metric="val_loss",
        notice=said.append,
    )


def with_budget(study, left, said, **budget):
    """left: trials, by the pace so far where the budget has hours."""
    return Stopper(
        study, GAIN, budget=Budget(**budget), trials_left=lambda finished: left, metric="val_loss", notice=said.append
    )


def test_a_running_study_is_stopped_once_and_says_so_once():
    study, said = study_of([NOTHING_LEFT] * 12), []
    running = stopper(study, 20, said)
    assert running.is_done() and running.is_done()
    assert len(said) == 1 and "stopped after 12 of 20 trials" in said[0]
    assert kept_reason(study.user_attrs).reason == said[0]


def test_a_stopped_study_goes_on_only_with_a_larger_budget():
    study, said = study_of([NOTHING_LEFT] * 12), []
    assert stopper(study, 20, []).is_done()
    assert stopper(study, 20, said).is_done()
    assert "Go on with --trials of more than 20" in said[-1]
    resumed = stopper(study, 30, said)
    assert not resumed.is_done()
    assert "now its budget is larger" in said[-1]
    assert not stopper(study, 20, [], Stop(rule="none")).is_done()


def test_a_faster_pace_is_no_larger_budget():
    study, said = study_of([NOTHING_LEFT] * 12), []
    assert with_budget(study, 8, [], hours=2.0).is_done()
    assert with_budget(study, 50, said, hours=2.0).is_done()
    assert said[-1].endswith("Go on with a budget of more than 2 hours, or with --stop none")
    assert not with_budget(study, 4, [], hours=2.5).is_done()


@pytest.mark.parametrize(
    ("budget", "grew"),
    [
        ({"trials": 20, "hours": 2.0}, False),
        ({"trials": 15, "hours": 1.0}, False),
        ({"trials": 21, "hours": 2.0}, True),
        ({"trials": 20, "hours": 3.0}, True),
        ({"trials": 20}, True),
        ({"hours": 2.0}, True),
    ],
)
def test_a_budget_of_trials_and_hours_grows_by_either(budget, grew):
    study, said = study_of([NOTHING_LEFT] * 12), []
    assert with_budget(study, 8, [], trials=20, hours=2.0).is_done()
    assert with_budget(study, 8, said, **budget).is_done() != grew
    if not grew:
        assert "--trials of more than 20, with a budget of more than 2 hours, or" in said[-1]


@pytest.mark.parametrize(("budget", "grew"), [({"trials": 20}, False), ({"trials": 21}, True), ({"hours": 9.0}, False)])
def test_a_reason_kept_without_its_budget_is_still_understood(budget, grew):
    study, said = study_of([NOTHING_LEFT] * 12), []
    kept = stop_reason(study, GAIN, 8).__dict__
    study.set_user_attr(STOPPED_ATTRIBUTE, {name: kept[name] for name in kept if not name.startswith("budget_")})
    assert with_budget(study, 50, said, **budget).is_done() != grew
    assert grew or said[-1].endswith("Go on with --trials of more than 20, or with --stop none")


def test_what_another_process_has_decided_holds():
    study, said = study_of([MUCH_LEFT] * 12), []
    running = stopper(study, 20, said)
    assert not running.is_done()
    other = stop_reason(study_of([NOTHING_LEFT] * 12), GAIN, 8)
    study.set_user_attr(STOPPED_ATTRIBUTE, other.__dict__)
    study.add_trial(study.get_trials()[0])
    assert running.is_done()
    assert said == [other.reason]
