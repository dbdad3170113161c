"""Is the tuner better on average, honest about its uncertainty, and safe under a history that lies?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from hpo.encoding import Encoding
from hpo.gaussian_process import GaussianProcess, Kernel, sample_kernels
from hpo.priors.history import History
from hpo.priors.mixture import mixture
from hpo.priors.portfolio import PastTask, fit_shared_kernel, portfolio
from hpo.search import maximise
from hpo.space import SearchSpace
from hpo.statistics.effects import t_interval
from hpo.statistics.loss_scale import LossScale

D = 4
ENCODING = Encoding(space=SearchSpace.from_json({f"x{j}": {"type": "float", "low": 0, "high": 1} for j in range(D)}))
NUMBERS = ENCODING.categorical


def _bowl(points, centre):
    return ((points - centre) ** 2 @ np.array([4.0, 2.0, 0.5, 0.1])) + 0.1 * np.sin(9 * points).sum(1)


def _tune(start, centre, n, rng, history=None):
    X = start
    while len(X) < n:
        losses = _bowl(X, centre)
        models = mixture(X, losses, NUMBERS, rng, pending=X[:0], history=history)
        anchors = X[np.argsort(losses)[:5]]
        X = np.vstack([X, maximise(models.log_expected_improvement, ENCODING, X, anchors, rng)])
    return _bowl(X, centre)


def _history(centres, rng, sign=1.0, trials=40):
    tasks = []
    for centre in centres:
        X = rng.random((trials, D))
        losses = sign * _bowl(X, centre)
        scale = LossScale.of(losses)
        tasks.append(PastTask(X=X, y=scale.standardise(losses), weight=1.0, scale=scale))
    return History(tasks=tasks, kernel=fit_shared_kernel(tasks, NUMBERS, rng))


def _portfolio_of(history, rng):
    landmarks = np.vstack([task.X for task in history.tasks])
    return np.array([pick.point for pick in portfolio(history.tasks, landmarks, history.kernel, 4, rng)])


@pytest.fixture(scope="module")
def best_losses():
    """The incumbent's loss, 12 tasks x 16 evaluations: by random search, cold, with a thin and a reversed history."""
    results = {kind: [] for kind in ("random", "cold", "history", "reversed")}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        centres = 0.35 + 0.1 * rng.standard_normal((6, D))
        target, others = centres[0], centres[1:]
        histories = {
            "history": _history(others[:2], rng, trials=16),
            "reversed": _history(others, rng, sign=-1.0),
        }
        results["random"].append(np.minimum.accumulate(_bowl(rng.random((16, D)), target)))
        results["cold"].append(np.minimum.accumulate(_tune(rng.random((4, D)), target, 16, rng)))
        for kind, history in histories.items():
            losses = _tune(_portfolio_of(history, rng), target, 16, rng, history)
            results[kind].append(np.minimum.accumulate(losses))
    return {kind: np.array(values) for kind, values in results.items()}


def test_the_model_beats_random_search(best_losses):
    assert t_interval(best_losses["random"][:, 15] - best_losses["cold"][:, 15])[0] > 0


def test_two_short_studies_are_ahead_early_and_do_not_hurt_in_the_end(best_losses):
    assert t_interval(best_losses["cold"][:, 5] - best_losses["history"][:, 5])[0] > 0
    assert t_interval(best_losses["history"][:, 15] - best_losses["cold"][:, 15])[0] <= 0


def test_reversed_history_is_overcome(best_losses):
    """Four points at the worst places, and a model that believes in them, cost no more than eight evaluations."""
    assert t_interval(best_losses["reversed"][:, 15] - best_losses["cold"][:, 7])[0] <= 0


def test_history_counts_while_it_is_right_and_not_when_it_is_reversed():
    weights = {1.0: [], -1.0: []}
    for sign, collected in weights.items():
        for seed in range(8):
            rng = np.random.default_rng(200 + seed)
            centres = 0.35 + 0.1 * rng.standard_normal((4, D))
            history, X = _history(centres[1:], rng, sign), rng.random((12, D))
            models = mixture(X, _bowl(X, centres[0]), NUMBERS, rng, pending=X[:0], history=history)
            collected.append(models.history_weight)
    assert np.mean(weights[1.0]) > 0.5
    assert np.mean(weights[-1.0]) < 0.1


def test_four_portfolio_points_beat_four_random_ones():
    differences = []
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        centres = 0.35 + 0.1 * rng.standard_normal((4, D))
        chosen = _portfolio_of(_history(centres[1:], rng), rng)
        differences.append(_bowl(rng.random((4, D)), centres[0]).min() - _bowl(chosen, centres[0]).min())
    assert t_interval(np.array(differences))[0] > 0


@pytest.mark.parametrize("is_kernel_known", [True, False])
def test_intervals_cover_what_they_claim_when_the_model_holds(is_kernel_known):
    """Data drawn from the prior, 90% intervals: within 3 standard errors if the kernel is known, else 5 points more."""
    rng, covered = np.random.default_rng(0), []
    truth = Kernel(lengthscales=np.array([0.5, 0.8, 1.5, 3.0]), noise=0.02, categorical=NUMBERS)
    for _ in range(40):
        X = rng.random((45, D))
        values = np.linalg.cholesky(truth.covariance(X, X) + truth.noise * np.eye(45)) @ rng.standard_normal(45)
        kernels = [truth] if is_kernel_known else sample_kernels(X[:40], values[:40], NUMBERS, rng)
        below = np.zeros(5)
        for kernel in kernels:
            mean, std = GaussianProcess(X=X[:40], y=values[:40], kernel=kernel).predict(X[40:])
            below += ndtr((values[40:] - mean) / np.sqrt(std**2 + kernel.noise)) / len(kernels)
        covered.append(np.mean((below > 0.05) & (below < 0.95)))
    slack = 0.0 if is_kernel_known else 0.05
    assert np.mean(covered) == pytest.approx(0.9, abs=slack + 3 * np.std(covered, ddof=1) / np.sqrt(len(covered)))


def test_students_interval_covers_95_percent():
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(size=5)) for _ in range(1000)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.021)
