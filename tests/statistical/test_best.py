"""Is the winner worth what is said, are replicates spent well, and do comparisons claim too much?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.statistics.comparison import compare_pairs, hodges_lehmann
from tests.benchmarks.decisions.best import judged, replicated
from tests.noisy_studies import tuned_by_tpe

FUNCTIONS = ("bowl", "branin", "cliff", "drawn")


@pytest.fixture(scope="module")
def studies():
    """Sixty trials each, of Optuna's TPE: 4 functions, both kinds of noise."""
    return [
        judged(name, tuned_by_tpe(name, heavy=heavy, n=60, seed=seed), heavy=heavy, seed=seed)
        for name in FUNCTIONS
        for heavy in (False, True)
        for seed in range(3)
    ]


def _error(values) -> float:
    return float(np.std(values) / np.sqrt(len(values)))


def test_the_reported_value_is_not_too_good(studies):
    optimism = [study.optimism for study in studies]
    assert np.mean(optimism) <= 0.1 + 3 * _error(optimism)
    raw = [study.raw_optimism for study in studies]
    assert np.mean(raw) > 1.5  # what it would be without


def test_intervals_of_the_winner_hold_and_are_not_wide(studies):
    covered = [study.covered for study in studies]
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / len(covered))
    ratios = [study.width / study.oracle_width for study in studies]
    assert np.mean(ratios) <= 1.25 + 3 * _error(ratios)


def test_probabilities_of_being_the_best_come_true(studies):
    said = np.concatenate([study.probabilities for study in studies])
    hit = np.concatenate([study.is_best for study in studies])
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 1.0)):
        inside = (said >= low) & (said < high)
        expected, seen = said[inside].mean(), hit[inside].mean()
        assert abs(seen - expected) <= 3 * np.sqrt(expected * (1 - expected) / inside.sum()) + 0.01
    ours, raw = (np.array([getattr(study, name) for study in studies]) for name in ("brier", "raw_brier"))
    assert (ours - raw).mean() < -2 * _error(ours - raw)


def test_replicates_find_the_best_at_least_as_often_as_equal_shares():
    runs = [replicated(5, 20, heavy=False, seed=seed) for seed in range(60)]
    gain = np.array([run.correct - float(run.equal_correct) for run in runs])
    assert gain.mean() >= -2 * _error(gain)
    optimism = [run.chosen_optimism for run in runs]
    assert abs(np.mean(optimism)) <= 3 * _error(optimism)
    assert np.mean([run.chosen_covered for run in runs]) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / len(runs))


@pytest.mark.parametrize("n", [5, 6, 9, 14, 30])
@pytest.mark.parametrize("heavy", [False, True])
def test_where_nothing_differs_little_is_claimed(n, heavy):
    rng = np.random.default_rng([n, heavy])
    draws = rng.standard_t(3, size=(600, n)) if heavy else rng.standard_normal((600, n))
    claims = [compare_pairs(d, np.zeros(n)).is_enough for d in draws]
    assert np.mean(claims) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(claims))


def test_the_interval_of_differences_holds():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(800):
        _, interval = hodges_lehmann(0.7 + rng.standard_t(3, size=10))
        assert interval is not None
        inside.append(interval[0] <= 0.7 <= interval[1])
    assert np.mean(inside) == pytest.approx(0.95, abs=3 * np.sqrt(0.05 * 0.95 / 800) + 0.005)  # it can be .951 only
