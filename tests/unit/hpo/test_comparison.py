import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo.statistics.comparison import (
    FEWEST_FOR_A_CLAIM,
    FEWEST_FOR_RANKS,
    compare_pairs,
    compare_samples,
    hodges_lehmann,
    holm,
    pairs_needed,
    signed_rank_test,
)


def distinct(n):
    """Differences without ties and zeros."""
    values = st.lists(st.integers(-10_000, 10_000).filter(bool), min_size=n[0], max_size=n[1], unique_by=abs)
    return values.map(lambda each: np.array(each, dtype=float))


@given(d=distinct((6, 20)))
def test_the_exact_test_is_wilcoxons(d):
    name, p = signed_rank_test(d)
    assert name == "Wilcoxon, exact"
    assert p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


@given(d=distinct((6, 20)))
def test_the_interval_inverts_the_test(d):
    effect, interval = hodges_lehmann(d)
    assert interval is not None
    low, high = interval
    assert low <= effect <= high
    _, p = signed_rank_test(d)
    i, j = np.triu_indices(len(d))
    if not ((d[i] + d[j]) == 0).any():  # where a Walsh average is zero, the test's ranks are tied there
        assert (low <= 0 <= high) == (p > 0.05)


def test_hodges_lehmann_of_a_textbook_sample():
    d = np.array([-0.952, 0.147, -1.022, -0.430, -0.620, -0.590, -0.490, 0.080, -0.010])
    effect, interval = hodges_lehmann(d)  # Hollander and Wolfe, example 3.1 (depression): -0.46 and 96%: -.786 to -.010
    assert effect == pytest.approx(-0.46, abs=0.005)
    assert interval == pytest.approx((-0.786, -0.010), abs=0.02)


def test_a_clear_difference_is_enough_and_a_small_one_says_how_many():
    rng = np.random.default_rng(0)
    b = rng.normal(size=20)
    clear = compare_pairs(b - 1 + 0.1 * rng.normal(size=20), b)
    assert clear.is_enough and clear.needed is None and clear.superiority == 1 and clear.effect < 0
    small = compare_pairs(b - 0.1 + rng.normal(size=20), b)
    assert not small.is_enough and small.needed > 20


def test_pairs_needed_would_be_enough_eight_times_of_ten():
    rng = np.random.default_rng(1)
    d = rng.normal(0.5, 1.0, size=4000)
    needed = pairs_needed(d[:4000] / 1.0)
    assert needed is not None
    claims = []
    expected = int(np.ceil(7.85 / 0.25 / 0.955)) + 1
    for _ in range(300):
        claims.append(compare_pairs(rng.normal(0.5, 1.0, size=expected), np.zeros(expected)).is_enough)
    assert np.mean(claims) == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / 300) + 0.03)


def test_few_pairs_claim_nothing():
    for n in range(FEWEST_FOR_A_CLAIM):
        found = compare_pairs(np.arange(n) * 1e-3, np.full(n, 9.0))
        assert not found.is_enough
        assert found.needed is None or found.needed >= FEWEST_FOR_A_CLAIM
    assert compare_pairs(np.arange(5) * 1e-3, np.full(5, 9.0)).is_enough


def test_equal_pairs_and_lost_ones():
    equal = compare_pairs(np.ones(8), np.ones(8))
    assert (equal.effect, equal.is_enough, equal.superiority) == (0, False, 0.5)
    lost = compare_pairs(np.array([1.0, np.nan, 2.0, np.inf]), np.array([2.0, 1.0, np.nan, 1.0]))
    assert lost.n == 1 and lost.interval is None and not lost.is_enough


@given(d=distinct((3, 15)))
def test_turning_the_sides_turns_the_answer(d):
    there, back = compare_pairs(d, np.zeros(len(d))), compare_pairs(np.zeros(len(d)), d)
    assert there.effect == pytest.approx(-back.effect)
    assert there.p == pytest.approx(back.p)
    assert there.superiority == pytest.approx(1 - back.superiority)
    assert there.interval is None or there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_unpaired_samples():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=12), rng.normal(3, 1, size=9)
    found = compare_samples(a, b, rng)
    assert found.is_enough and not found.is_paired and found.n == 9 and found.p < 0.01
    assert found.interval == pytest.approx(stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95))
    assert not compare_samples(a[:3], b[:3], rng).is_enough  # of 20 permutations no one is rare enough
    nothing = compare_samples(np.array([np.nan]), b, rng)
    assert nothing.n == 0 and nothing.effect is None
    assert not compare_samples(np.ones(5), np.ones(5), rng).is_enough


def test_three_values_claim_nothing_however_many_the_other_side_has():
    rng = np.random.default_rng(0)
    few = compare_samples(5 + 0.1 * rng.normal(size=3), rng.normal(size=40), rng)
    assert few.p < 0.01 and few.interval[0] > 0
    assert not few.is_enough and few.needed == FEWEST_FOR_A_CLAIM


@pytest.mark.parametrize(("n", "needed"), [(3, FEWEST_FOR_RANKS), (7, None), (8, None)])
def test_of_sides_that_do_not_vary_more_values_are_not_asked_once_there_are_enough(n, needed):
    found = compare_samples(np.full(n, 0.1), np.full(n, 0.7), np.random.default_rng(0))
    assert (found.is_constant, found.is_enough, found.p, found.needed) == (True, False, None, needed)
    assert not compare_samples(np.ones(1), np.ones(1), np.random.default_rng(0)).is_constant


def test_pairs_that_all_differ_by_the_same_have_no_interval():
    found = compare_pairs(np.full(3, 0.1), np.zeros(3))  # their mean is not quite 0.1
    assert found.effect == pytest.approx(0.1) and found.interval is None and not found.is_enough


def test_holm_is_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
