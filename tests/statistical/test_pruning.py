"""Does the pruner keep its promise, also where the past misleads, and does it save anything?

A study is lost if its best trial was stopped. 5% of studies may be, within three standard errors.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hpo.priors.curves import is_probe, standing
from hpo.priors.foresight import PastCurves, learn
from tests.learning_curves import crossing, ended, fast, late, mixed

PROMISED = 0.05
STUDIES = 50


def prune(foresight, losses):
    """Share of reports that were saved, and whether the best trial was stopped."""
    curves, complete, spent = ended(losses), [], 0
    for number, curve in enumerate(curves):
        now, at = standing(complete, "last"), np.arange(len(curve.steps) - 1)
        stops = np.flatnonzero(foresight.stops(now, curve, at, number)) if now and not is_probe(number) else []
        spent += int(stops[0]) + 1 if len(stops) else len(curve.steps)
        if not len(stops):
            complete.append(curve)
    best = min(curve.losses[-1] for curve in complete)
    return 1 - spent / losses.size, best > losses[:, -1].min()


def measure(foresight, family, seed=0, **options):
    rng = np.random.default_rng(seed)
    saved, lost = np.array([prune(foresight, family(rng, **options)) for _ in range(STUDIES)]).T
    return saved.mean(), lost.mean()


@pytest.fixture(scope="module")
def foresights():
    rng = np.random.default_rng(1)
    past = {
        "nothing": [],
        "fast": [PastCurves(name=str(number), curves=ended(fast(rng))) for number in range(20)],
        "mixed": [PastCurves(name=str(number), curves=ended(mixed(rng))) for number in range(20)],
    }
    return {name: learn(tasks, "last", false_prunes=PROMISED) for name, tasks in past.items()}


@pytest.fixture(scope="module")
def measured(foresights):
    """As `measure`, of a past by its name; each is measured once."""
    return cache(lambda past, family: measure(foresights[past], family))


@pytest.mark.parametrize(
    ("past", "family"),
    [
        ("nothing", fast),
        ("nothing", mixed),
        ("nothing", crossing),
        ("fast", fast),
        ("mixed", mixed),
        ("fast", crossing),  # from here on the past misleads
        ("fast", late),
        ("mixed", crossing),
        ("mixed", late),
    ],
)
def test_at_most_5_percent_of_studies_lose_their_best_trial(measured, past, family):
    _, lost = measured(past, family)
    assert lost <= PROMISED + 3 * np.sqrt(PROMISED * (1 - PROMISED) / STUDIES)


def test_a_past_that_is_alike_saves_more_than_half_and_more_than_none(measured):
    with_past, without = measured("fast", fast)[0], measured("nothing", fast)[0]
    assert with_past > 0.5
    assert with_past > without + 0.05


@pytest.mark.parametrize("trials", [10, 40, 160])
def test_with_the_right_chances_a_share_bounds_what_is_lost_however_many_trials_there_are(trials):
    """A trial's loss is uniform on (0, 1), with a probability that is known, else larger; 2,000 studies at once."""
    rng, studies, share = np.random.default_rng(0), 2000, 0.2
    incumbent, best_stopped, best_left = np.ones(studies), np.full(studies, 9.0), np.full(studies, 9.0)
    for finished in range(trials):
        promise = 10 ** rng.uniform(-3, 0, studies)
        loss = rng.random(studies) + (rng.random(studies) > promise)
        is_stopped = promise * incumbent < share / (finished + 1)
        best_stopped = np.minimum(best_stopped, np.where(is_stopped, loss, 9.0))
        best_left = np.minimum(best_left, np.where(is_stopped, 9.0, loss))
        incumbent = np.minimum(incumbent, best_left)
    assert 0.1 * share < (best_stopped < best_left).mean() <= share


def test_a_study_much_longer_than_those_of_the_past_keeps_the_promise():
    rng = np.random.default_rng(1)
    past = [PastCurves(name=str(number), curves=ended(fast(rng, trials=16))) for number in range(20)]
    _, lost = measure(learn(past, "last", false_prunes=PROMISED), fast, trials=80)
    assert lost <= PROMISED + 3 * np.sqrt(PROMISED * (1 - PROMISED) / STUDIES)
