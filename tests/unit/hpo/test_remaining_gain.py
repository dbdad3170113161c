"""Is what is left to gain told from claims and from how they came out?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gamma, poisson

from hpo.statistics.remaining_gain import COLD, GUIDED, LATEST, YOUNG, Record, probability_left, remaining_gain

SUCCESSES, CLAIMED = GUIDED


def record(count, *, first=YOUNG, predicted=1.0, spread=0.5, incumbent=0.8, loss=1.0, history=0.7):
    fill = np.full(count, 1.0)
    return Record(
        numbers=np.arange(first, first + count, dtype=float),
        predicted=predicted * fill,
        low=(predicted - spread) * fill,
        incumbents=incumbent * fill,
        losses=loss * fill,
        history=history * fill,
    )


def coming(known, trials):
    """How many times the latest claim the claims of so many trials to come are: they fall like one over n."""
    so_far = known.numbers[-1] + 1
    return so_far * np.log((so_far + trials) / so_far)


def test_too_few_predictions_say_nothing():
    assert remaining_gain(record(LATEST - 1), 10) is None
    assert remaining_gain(record(0), 10) is None


def test_a_claim_is_the_probability_below_the_incumbent():
    claims = record(1, predicted=1.0, spread=1.6448536, incumbent=1.0).claims(np.array([0.0, 1.0]))
    assert claims[0] == pytest.approx([0.5, 0.158655], abs=1e-5)


def test_the_probability_is_that_of_a_poisson_process_with_an_uncertain_rate():
    """The closed form against the integral over the rate."""
    known, gains = record(5, loss=0.7), np.array([0.0, 0.05, 0.5])
    claims, successes = known.claims(gains), known.successes(gains)
    for column in range(len(gains)):
        rate = gamma(SUCCESSES + successes[:, column].sum(), scale=1.0 / (CLAIMED + claims[:, column].sum()))
        kappa = rate.ppf((np.arange(20_000) + 0.5) / 20_000)
        none = poisson.pmf(0, kappa * coming(known, 7) * claims[-1, column]).mean()
        assert probability_left(known, 7, gains)[column] == pytest.approx(1.0 - none, abs=1e-3)


def test_claims_that_did_not_come_true_lower_what_is_left_and_those_that_did_raise_it():
    nothing, something = record(10, loss=2.0), record(10, loss=0.5)
    fewer = remaining_gain(record(3, first=YOUNG + 7, loss=2.0), 10)
    assert remaining_gain(nothing, 10).expected < fewer.expected < remaining_gain(something, 10).expected


def test_claims_of_a_young_study_do_not_count():
    young = record(3, first=YOUNG - 3, loss=0.5)
    assert probability_left(young, 5, np.array([0.0])) == pytest.approx(
        1.0 - (CLAIMED / (CLAIMED + coming(young, 5) * young.claims(np.array([0.0]))[0, 0])) ** SUCCESSES
    )


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_without_a_history_that_counts_more_is_left_in_the_same_claims(weight):
    assert COLD[0] / COLD[1] > GUIDED[0] / GUIDED[1]
    assert remaining_gain(record(6, history=weight), 10).expected > remaining_gain(record(6), 10).expected


def test_until_forgets_what_came_later():
    assert len(record(6).until(YOUNG + 2).losses) == 2


@given(
    trials=st.integers(1, 200),
    count=st.integers(2, 30),
    spread=st.floats(1e-6, 1e6),
    incumbent=st.floats(-1e6, 1e6),
    ahead=st.floats(-3, 3),
)
def test_gains_are_in_order_and_grow_with_the_trials(trials, count, spread, incumbent, ahead):
    known = record(count, predicted=incumbent + ahead * spread, spread=spread, incumbent=incumbent, loss=incumbent)
    gain, more = remaining_gain(known, trials), remaining_gain(known, trials + 10)
    assert 0.0 <= gain.next_trial <= gain.expected * (1 + 1e-9)
    assert gain.expected <= more.expected
    assert gain.quantile <= more.quantile


def test_units_do_not_matter():
    raw = remaining_gain(record(6), 10)
    scaled = record(6, predicted=1000.0, spread=500.0, incumbent=800.0, loss=1000.0)
    assert remaining_gain(scaled, 10).expected == pytest.approx(1000.0 * raw.expected)
    assert remaining_gain(scaled, 10).quantile == pytest.approx(1000.0 * raw.quantile)


def test_predictions_beside_a_pruned_trial_count_as_not_come_true():
    assert record(3, loss=np.inf).successes(np.array([0.0])).sum() == 0.0
