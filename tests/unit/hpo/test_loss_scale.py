"""Is the common scale of losses increasing, robust and invertible?"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpo.statistics.loss_scale import LossScale, LossScales


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
@example([0.0, 1.0, 5.881072057867238e-159])  # nothing but one loss is further than a vanishing spread away
@example([0.0, 1e-150, 3e-150, 1e3])
def test_restore_is_the_inverse_and_order_is_kept(values):
    losses = np.sort(np.array(values))
    scale = LossScale.of(losses)
    standardised = scale.standardise(losses)
    assert (np.diff(standardised) >= 0).all()
    np.testing.assert_allclose(scale.restore(standardised), losses, rtol=1e-6, atol=1e-6)


def test_units_do_not_matter():
    losses = np.random.default_rng(0).normal(size=20)
    scaled = 50 * losses + 3
    np.testing.assert_allclose(LossScale.of(losses).standardise(losses), LossScale.of(scaled).standardise(scaled))


def test_a_diverged_run_leaves_the_good_ones_apart():
    losses = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1e10])
    standardised = LossScale.of(losses).standardise(losses)
    assert standardised.max() < 3
    assert standardised[1] - standardised[0] > 0.01


def test_equal_losses_have_a_scale():
    assert LossScale.of(np.full(5, 2.0)).standardise(np.array([2.0])) == pytest.approx([0.0])


def test_log_slopes_are_the_logs_of_the_derivatives():
    losses = np.array([0.1, 0.5, 0.7, 1.0, 4.0, 50.0])
    scale = LossScale.of(losses)
    numeric = (scale.standardise(losses + 1e-6) - scale.standardise(losses - 1e-6)) / 2e-6
    assert LossScales.of([scale]).log_slopes(losses)[0] == pytest.approx(np.log(numeric).sum(), abs=1e-3)


def test_several_scales_are_each_of_them():
    samples = [np.random.default_rng(seed).normal(size=20) for seed in range(3)]
    alone = [LossScale.of(losses) for losses in samples]
    scales = LossScales.of(alone)
    expected = np.array([scale.standardise(samples[0]) for scale in alone]).T
    standardised = scales.standardise(samples[0][:, None])
    np.testing.assert_allclose(standardised, expected)
    np.testing.assert_allclose(scales.restore(standardised), np.repeat(samples[0][:, None], 3, axis=1))
    both = LossScales.together([scales, scales.at(np.array([1]))])
    np.testing.assert_array_equal(both.centres, [*scales.centres, scales.centres[1]])
