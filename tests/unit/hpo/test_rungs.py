"""Does halving keep what past curves keep, stop what they do not, and distrust them where it should?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.priors.curves import Curve
from hpo.priors.foresight import PastCurves
from hpo.priors.rungs import at_rungs, compare, learn_rungs
from tests.learning_curves import ended, fast

STEPS = 32


def crossing(rng, trials=32):
    """Curves whose order turns around at their end."""
    start = rng.random(trials)
    progress = np.linspace(0.0, 1.0, STEPS) ** 8
    return 1.0 + start[:, None] * (1.0 - 2.0 * progress)


def past(kind, tasks=8):
    rng = np.random.default_rng(3)
    return [PastCurves(name=f"past {t}", curves=ended(kind(rng, trials=32))) for t in range(tasks)]


@pytest.fixture(scope="module")
def steady():
    return learn_rungs(past(fast), "last", false_prunes=0.1)


def test_curves_that_keep_their_order_are_halved(steady):
    assert len(steady.steps) >= 2
    assert (np.diff(steady.steps) > 0).all()
    assert steady.shares[-1] < 0.5
    assert steady.estimated_rate <= 0.1


def test_where_the_order_turns_nobody_is_stopped():
    assert not len(learn_rungs(past(crossing), "last", false_prunes=0.1).steps)


def test_a_larger_rate_stops_more():
    few, many = (learn_rungs(past(fast), "last", false_prunes=rate) for rate in (0.03, 0.4))
    common = np.intersect1d(few.steps, many.steps)
    assert len(common)
    assert all(many.shares[many.steps == step][0] <= few.shares[few.steps == step][0] for step in common)


def test_too_few_curves_teach_nothing():
    assert learn_rungs([], "last", false_prunes=0.1) is None
    short = [PastCurves(name="short", curves=ended(fast(np.random.default_rng(0), trials=5)))]
    assert learn_rungs(short, "last", false_prunes=0.1) is None


def test_what_diverged_is_stopped_at_the_first_trial_and_a_usual_one_is_not(steady):
    nobody = np.empty(0)
    assert compare(steady, 0, np.inf, nobody, None).is_lost
    middle = float(np.median(steady.past[0][0]))
    assert not compare(steady, 0, min(task[0].min() for task in steady.past), nobody, None).is_lost
    assert not compare(steady, 0, 1e-6 * middle, nobody, None).is_lost  # on another scale all are better


def test_nobody_is_stopped_who_is_not_behind_where_the_best_was(steady):
    others = np.linspace(1.0, 2.0, 40)
    rung = len(steady.steps) - 1
    assert compare(steady, rung, 1.8, others, 1.0).is_lost
    assert not compare(steady, rung, 1.8, others, 1.9).is_lost


def test_a_trial_is_seen_as_it_came_to_each_rung():
    curve = Curve(steps=np.array([1.0, 3.0, 5.0]), losses=np.array([3.0, 2.0, np.nan]), is_ended=False)
    np.testing.assert_array_equal(
        at_rungs(curve, np.array([1.0, 2.0, 3.0, 4.0, 6.0]), "last"), [3, 2, 2, np.inf, np.nan]
    )
    np.testing.assert_array_equal(at_rungs(curve, np.array([2.0, 4.0]), "best"), [2, 2])
