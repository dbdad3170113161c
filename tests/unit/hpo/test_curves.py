import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.priors.curves import (
    FEATURES,
    Curve,
    changes_its_meaning,
    end_of,
    is_probe,
    standing,
)


def curve(losses, steps=None, is_ended=True):
    losses = np.asarray(losses, dtype=float)
    steps = np.arange(1.0, len(losses) + 1.0) if steps is None else np.asarray(steps, dtype=float)
    return Curve(steps=steps, losses=losses, is_ended=is_ended)


def study(rng, trials=8, k=12):
    ends = rng.random(trials)
    speeds = rng.uniform(1.0, 5.0, trials)
    x = np.arange(1, k + 1)
    noise = 0.02 * rng.standard_normal((trials, k))
    return ends[:, None] + np.exp(-x / speeds[:, None]) + noise


def seen(losses, running, end="last", finished=8):
    now = standing([curve(each) for each in losses], end)
    at = np.arange(len(running))
    return now.features(curve(running, is_ended=False), at, finished), now.may_still_win(curve(running), at)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(["last", "best"]))
def test_an_increasing_affine_change_of_the_metric_changes_nothing(seed, factor, shift, end):
    rng = np.random.default_rng(seed)
    losses, running = study(rng), study(rng, trials=1)[0]
    features, may_win = seen(losses, running, end)
    changed, still_may_win = seen(factor * losses + shift, factor * running + shift, end)
    assert changed == pytest.approx(features, rel=1e-3, abs=1e-3)
    assert np.mean(may_win == still_may_win) > 0.9  # a tie may fall either way by rounding


@given(st.integers(0, 10**6), st.data())
def test_the_order_of_the_first_trials_does_not_matter(seed, data):
    rng = np.random.default_rng(seed)
    losses, running = study(rng, trials=4), study(rng, trials=1)[0]
    shuffled = losses[data.draw(st.permutations(range(4)))]
    assert seen(shuffled, running)[0] == pytest.approx(seen(losses, running)[0])


@given(st.integers(0, 10**6))
def test_later_trials_that_were_never_the_best_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    losses, running = study(rng, trials=5), study(rng, trials=1)[0]
    worse = losses.max() + study(rng, trials=3)
    assert seen(np.vstack([losses, worse]), running)[0] == pytest.approx(seen(losses, running)[0])


def test_what_comes_later_in_a_curve_is_not_looked_at():
    rng = np.random.default_rng(0)
    losses, running = study(rng), study(rng, trials=1)[0]
    changed = running.copy()
    changed[7:] = 5.0
    assert np.array_equal(seen(losses, changed)[0][:7], seen(losses, running)[0][:7])


def test_features_are_finite_whatever_is_reported():
    losses = study(np.random.default_rng(0))
    losses[1, 4:] = np.nan
    losses[2] = np.inf
    features, may_win = seen(losses, [np.nan, np.inf, -1e300, 1e300, 0.5])
    assert features.shape == (5, len(FEATURES))
    assert np.isfinite(features).all()
    assert may_win[2] and not may_win[3]


@pytest.mark.parametrize(
    "losses",
    [
        np.empty((0, 5)),
        np.random.default_rng(0).random((3, 5)),  # too few
        np.ones((6, 5)),  # no differences
        np.random.default_rng(0).random((6, 1)),  # nothing on the way
        np.full((6, 5), np.nan),
        np.full((6, 5), np.inf),
    ],
)
def test_too_little_says_nothing(losses):
    assert standing([curve(each) for each in losses], "last") is None


def test_a_diverged_start_says_nothing_of_what_is_rounding():
    losses = study(np.random.default_rng(0))
    usual = standing([curve(each) for each in losses], "last").scale
    losses[0] = np.geomspace(1.0, 1e13, losses.shape[1])
    assert standing([curve(each) for each in losses], "last").scale < 10 * usual


def test_a_deficit_that_was_made_good_is_not_held_against_a_curve():
    late = [1.0, 0.9, 0.8, 0.1]  # behind for long, and the best in the end
    others = [[0.5, 0.4, 0.3, 0.3], [0.6, 0.5, 0.4, 0.4], [0.7, 0.6, 0.5, 0.5]]
    running = [1.3, 1.35, 0.9, 2.0]
    _, may_win = seen([late, *others], running)
    assert may_win.tolist() == [True, True, True, False]  # it was 0.5 behind at first, and no more than that at the end
    _, may_win = seen([*others, [0.8, 0.7, 0.6, 0.6]], running)
    assert not may_win.any()


def test_gaps_and_irregular_steps_are_read_as_last_reported():
    dense = study(np.random.default_rng(0), k=12)
    sparse = [curve(each[[0, 4, 8, 11]], steps=[1, 5, 9, 12]) for each in dense]
    running = curve([0.9, 0.8], steps=[1, 9], is_ended=False)
    now = standing(sparse, "last")
    known = now.features(running, np.array([1]), 8)[0]
    at_nine = running.losses[1] - min(sparse, key=lambda each: each.losses[-1]).losses[2]
    assert known[list(FEATURES).index("gap at this time")] == pytest.approx(
        np.sign(at_nine) * np.log1p(10 * abs(at_nine) / now.scale)
    )


def test_which_report_counts_is_told_from_the_values():
    curves = [curve(each) for each in ([3, 1, 2], [5, 4, 4.5], [2, 3, 1])]
    assert end_of(np.array([2, 4.5, 1]), curves) == "last"
    assert end_of(np.array([1, 4, 1]), curves) == "best"
    assert end_of(np.array([20, 45, 10]), curves) is None
    assert end_of(np.empty(0), []) is None


def test_percent_among_fractions_is_noticed():
    rng = np.random.default_rng(0)
    accuracies = -rng.uniform(0.5, 0.9, (10, 6))
    assert not changes_its_meaning([curve(each) for each in accuracies])
    half_way = accuracies.copy()
    half_way[5:] *= 100
    assert changes_its_meaning([curve(each) for each in half_way])
    within = accuracies.copy()
    within[:, 3:] *= 100
    assert changes_its_meaning([curve(each) for each in within])


def test_a_loss_that_falls_by_far_keeps_its_meaning():
    falling = [np.geomspace(80.0, 0.5, 10) * factor for factor in np.random.default_rng(0).uniform(0.5, 1, 10)]
    assert not changes_its_meaning([curve(each) for each in falling])


def test_probes_become_rare():
    assert [number for number in range(200) if is_probe(number)] == [7, 15, 31, 63, 127]
