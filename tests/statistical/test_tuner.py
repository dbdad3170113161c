"""Is the tuner better on average, honest about its uncertainty, and safe under a history that lies?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from hpo.priors.mixture import mixture
from hpo.priors.portfolio import PastTask
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.statistics.allocation import student_interval
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.gaussian_process import GaussianProcess, Kernel, fit_kernel, sample_kernels
from hpo.tuning.evidence import Evidence, PastStudy
from hpo.tuning.past import learn
from hpo.tuning.proposals import Ground, propose

D = 4
CENTRE = np.array([0.2, 0.8, 0.3, 0.7])  # of the tasks' optima; not the middle, where a cold start begins
ENCODING = Encoding(space=SearchSpace.from_json({f"x{j}": {"type": "float", "low": 0, "high": 1} for j in range(D)}))
NUMBERS = ENCODING.categorical


def _bowl(points, centre):
    return ((points - centre) ** 2 @ np.array([4.0, 2.0, 0.5, 0.1])) + 0.1 * np.sin(9 * points).sum(1)


def _tune(centre, n, seed, past=None):
    X, ground = np.empty((0, D)), Ground(encoding=ENCODING)
    for number in range(n):
        evidence = Evidence(X=X, losses=_bowl(X, centre), pending=X[:0], tried=X, waiting=0)
        design, rng = np.random.default_rng(seed), np.random.default_rng([seed, number])
        X = np.vstack([X, propose(ground, [evidence], [past], design=design, rng=rng).point])
    return _bowl(X, centre)


def _past(centres, rng, sign=1.0, trials=40):
    runs = []
    for number, centre in enumerate(centres):
        X = rng.random((trials, D))
        runs.append((number, X, sign * _bowl(X, centre)))
    return _learned(runs)


def _learned(runs):
    studies = []
    for number, X, losses in runs:
        scale = LossScale.of(losses)
        task = PastTask(X=X, y=scale.standardise(losses), weight=1.0, scale=scale)
        studies.append(PastStudy(study_id=number, name=f"past {number}", task=task, landmarks=X[np.argsort(losses)]))
    return learn(studies, ENCODING)


@pytest.fixture(scope="module")
def best_losses():
    """The incumbent's loss, 24 tasks x 16 evaluations: by random search, cold, with a good, a thin, a reversed past."""
    results = {kind: [] for kind in ("random", "cold", "history", "thin", "reversed")}
    for seed in range(24):
        rng = np.random.default_rng(seed)
        centres = CENTRE + 0.1 * rng.standard_normal((6, D))
        target, others = centres[0], centres[1:]
        pasts = {
            "history": _past(others, rng),
            "thin": _past(others[:2], rng, trials=16),
            "reversed": _past(others, rng, sign=-1.0),
        }
        results["random"].append(np.minimum.accumulate(_bowl(rng.random((16, D)), target)))
        results["cold"].append(np.minimum.accumulate(_tune(target, 16, seed)))
        for kind, past in pasts.items():
            results[kind].append(np.minimum.accumulate(_tune(target, 16, seed, past)))
    return {kind: np.array(values) for kind, values in results.items()}


def test_the_model_beats_random_search(best_losses):
    assert student_interval(best_losses["random"][:, 15] - best_losses["cold"][:, 15])[0] > 0


def test_history_is_ahead_early_and_does_not_hurt_in_the_end(best_losses):
    assert student_interval((best_losses["cold"] - best_losses["history"])[:, :6].mean(axis=1))[0] > 0
    assert student_interval(best_losses["history"][:, 15] - best_losses["cold"][:, 15])[0] <= 0


def test_two_short_studies_cost_no_more_than_six_evaluations(best_losses):
    assert student_interval(best_losses["thin"][:, 15] - best_losses["cold"][:, 9])[0] <= 0


def test_reversed_history_is_overcome(best_losses):
    """Three points at the worst places, and a model that believes in them, cost no more than eight evaluations."""
    assert student_interval(best_losses["reversed"][:, 15] - best_losses["cold"][:, 7])[0] <= 0


def test_history_counts_while_it_is_right_and_not_when_it_is_reversed():
    weights = {1.0: [], -1.0: []}
    for sign, collected in weights.items():
        for seed in range(8):
            rng = np.random.default_rng(200 + seed)
            centres = CENTRE + 0.1 * rng.standard_normal((4, D))
            past, X = _past(centres[1:], rng, sign), rng.random((12, D))
            losses = _bowl(X, centres[0])
            models = mixture(X, losses, NUMBERS, rng, history=past.history, shares=past.shares)
            collected.append(models.history_weight)
    assert np.mean(weights[1.0]) > 0.5
    assert np.mean(weights[-1.0]) < 0.1


@pytest.mark.parametrize("how", ["order", "units"])
def test_neither_the_order_of_trials_nor_the_units_of_the_metric_matter(how):
    """What is believed of a point: within a hundredth of the losses' spread, wherever rounding leads the samplers."""
    for seed in range(4):
        rng = np.random.default_rng(300 + seed)
        points, X = rng.random((6, D)), rng.random((14, D))
        past = [(points_of_task, _bowl(points_of_task, CENTRE + 0.1 * rng.standard_normal(D)))
                for points_of_task in rng.random((4, 40, D))]  # fmt: skip
        losses = _bowl(X, CENTRE)
        before = _believed(past, X, losses, points)
        if how == "order":
            rows = [rng.permutation(len(values)) for _, values in past]
            shuffled = [(A[order], values[order]) for (A, values), order in zip(past, rows, strict=True)]
            order = rng.permutation(len(X))
            after = _believed(shuffled, X[order], losses[order], points)
        else:
            scaled = _believed([(A, 250 * values - 40) for A, values in past], X, 250 * losses - 40, points)
            after = (scaled[0], (scaled[1] + 40) / 250)
        assert after[0] == pytest.approx(before[0], abs=0.01)
        np.testing.assert_allclose(after[1], before[1], atol=0.01 * np.std(losses))


def _believed(past, X, losses, points):
    """The weight of the history and the quantiles of the loss at each point."""
    history = _learned([(number, A, values) for number, (A, values) in enumerate(past)])
    models = mixture(
        X,
        losses,
        NUMBERS,
        np.random.default_rng(0),
        history=history.history,
        shares=history.shares,
    )
    return models.history_weight, np.array([models.next_loss(point).quantiles((0.05, 0.5, 0.95)) for point in points])


def test_four_portfolio_points_beat_four_random_ones():
    differences = []
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        centres = CENTRE + 0.1 * rng.standard_normal((4, D))
        chosen = np.array([pick.point for pick in _past(centres[1:], rng).picks[:4]])
        differences.append(_bowl(rng.random((4, D)), centres[0]).min() - _bowl(chosen, centres[0]).min())
    assert student_interval(np.array(differences))[0] > 0


@pytest.mark.parametrize("is_kernel_known", [True, False])
def test_intervals_cover_what_they_claim_when_the_model_holds(is_kernel_known):
    """Data drawn from the prior, 90% intervals: within 3 standard errors if the kernel is known, else 5 points more."""
    rng, covered = np.random.default_rng(0), []
    truth = Kernel(lengthscales=np.array([0.5, 0.8, 1.5, 3.0]), noise=0.02, categorical=NUMBERS)
    for _ in range(40):
        X = rng.random((45, D))
        values = np.linalg.cholesky(truth.covariance(X, X) + truth.noise * np.eye(45)) @ rng.standard_normal(45)
        kernels = [truth]
        if not is_kernel_known:
            likeliest = fit_kernel([(X[:40], values[:40])], NUMBERS, rng)
            kernels = sample_kernels(X[:40], values[:40], rng, start=likeliest)
        below = np.zeros(5)
        for kernel in kernels:
            mean, std = GaussianProcess(X=X[:40], y=values[:40], kernel=kernel).predict(X[40:])
            below += ndtr((values[40:] - mean) / np.sqrt(std**2 + kernel.noise)) / len(kernels)
        covered.append(np.mean((below > 0.05) & (below < 0.95)))
    slack = 0.0 if is_kernel_known else 0.05
    assert np.mean(covered) == pytest.approx(0.9, abs=slack + 3 * np.std(covered, ddof=1) / np.sqrt(len(covered)))


def test_students_interval_covers_95_percent():
    rng = np.random.default_rng(0)
    intervals = [student_interval(rng.normal(size=5)) for _ in range(1000)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.021)
