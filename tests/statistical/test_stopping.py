"""Is more left than a stopped study says no more often than it says, and do bands hold for as many tasks as claimed?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from hpo.statistics.progress_bands import prediction_band
from hpo.statistics.remaining_gain import LEFT, Record, remaining_gain
from hpo.tuning.stopping import CHECKS, FIRST_CHECK

BUDGET, TOLERANCE, STUDIES = 40, 0.03, 400


def _study(rng):
    """A study whose improvements come at a share of what is claimed, a sixth on the average, as on recorded tasks.

    Claims fall like 1 / n; a gain is as large as was predicted of one. Returns the record of all trials, and the gains.
    """
    share = rng.exponential(1 / 6)
    trials = np.arange(1, BUDGET + 1)
    chance, deviation = np.minimum(0.9, 6.0 / trials), 0.05
    succeeds = rng.random(BUDGET) < -np.expm1(-share * chance)
    gains = np.where(succeeds, deviation * (norm.ppf(chance) - norm.ppf(chance * rng.random(BUDGET))), 0.0)
    incumbents = 1.0 - np.concatenate([[0.0], np.cumsum(gains)[:-1]])
    predicted = incumbents - norm.ppf(chance) * deviation
    record = Record(
        numbers=trials - 1.0,
        predicted=predicted,
        low=predicted - 1.6448536 * deviation,
        incumbents=incumbents,
        losses=np.where(succeeds, incumbents - gains, incumbents + 0.1),
        history=np.zeros(BUDGET),
    )
    return record, gains


def test_what_is_left_exceeds_its_quantile_about_as_often_as_it_says():
    """At any one moment: nominal 5%, and at most twice that within three standard errors."""
    rng, exceeded = np.random.default_rng(0), []
    for _ in range(STUDIES):
        record, gains = _study(rng)
        left = remaining_gain(record.until(20), BUDGET - 20)
        exceeded.append(gains[20:].sum() > left.quantile)
    assert np.mean(exceeded) <= 2 * LEFT + 3 * np.sqrt(LEFT * (1 - LEFT) / STUDIES)


def test_stopped_studies_seldom_had_more_than_the_tolerance_left_and_some_stop():
    rng, left, used = np.random.default_rng(1), [], []
    for _ in range(STUDIES):
        record, gains = _study(rng)
        in_a_row, stop = 0, BUDGET
        for finished in range(FIRST_CHECK, BUDGET):
            gain = remaining_gain(record.until(finished), BUDGET - finished)
            in_a_row = in_a_row + 1 if max(gain.quantile, gain.expected) < TOLERANCE else 0
            if in_a_row == CHECKS:
                stop = finished
                break
        left.append(gains[stop:].sum() > TOLERANCE)
        used.append(stop)
    assert np.mean(left) <= 0.1 + 3 * np.sqrt(0.09 / STUDIES)
    assert np.mean(used) < 0.97 * BUDGET


@pytest.mark.parametrize("tasks", [8, 20, 40])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
def test_bands_hold_for_19_of_20_new_tasks(draw, tasks):
    """Within three standard errors and two points, also where tasks are skewed."""
    rng, held = np.random.default_rng(0), []
    for _ in range(600):
        losses = getattr(rng, draw)(size=tasks + 20)
        band = prediction_band(losses[:tasks])
        held.append(np.mean((losses[tasks:] >= band.low) & (losses[tasks:] <= band.high)))
    assert np.mean(held) == pytest.approx(0.95, abs=0.02 + 3 * np.std(held) / np.sqrt(len(held)))
