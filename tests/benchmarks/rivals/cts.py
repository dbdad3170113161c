"""Which rows rank high on past tasks? Gaussian copula regression over all of them (CTS, and GCP with the new task).

Salinas, Shen and Perrone, A Quantile-based Approach for Hyperparameter Transfer Learning, ICML 2020. Each task's losses
become normal scores by their ranks, one regressor predicts their mean and spread from the configuration, and a draw
from that says what to try. The paper's regressor is a small network; here it is boosted trees, twice: for the mean and
for the squared rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hpo.arrays import Array
from hpo.replay.problem import Choice, Problem
from hpo.surrogates.acquisition import log_expected_improvement
from hpo.surrogates.gaussian_process import GaussianProcess, fit_kernel
from tests.benchmarks.rivals.remembered import Remembered, content
from tests.benchmarks.rivals.rows import RowChooser, at_trial, best_untried

REGRESSED_RUNS = 60_000  # of all past tasks together: more take long and say the same
LEAST_DEVIATION = 0.1  # of a normal score given the configuration


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What past tasks say of the rows: the normal score of each, small for good ones."""

    mean: Array  # (m,)
    deviation: Array  # (m,)


class CTS:
    """Thompson sampling from the regression on past tasks; the new task's own losses are never looked at."""

    name = "cts"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides the draws."""
        return RowChooser(next_row=partial(_thompson, problem, _scores(problem), seed))


class CTSWithUpdates:
    """The regression on past tasks as prior of a Gaussian process on the new task's normal scores (the paper's GCP).

    The process has the rest in units of the predicted deviation: (score - mean) / deviation.
    """

    name = "cts+updates"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides the first draw and where the fit of the kernel starts."""
        return RowChooser(next_row=partial(_updated, problem, _scores(problem), seed))


def _thompson(problem: Problem, scores: Scores, seed: int, rows: Sequence[int], losses: Array) -> Choice:
    rng = at_trial(problem, seed, rows)
    draw = scores.mean + scores.deviation * rng.standard_normal(len(scores.mean))
    return Choice(row=best_untried(-draw, rows))


def _updated(problem: Problem, scores: Scores, seed: int, rows: Sequence[int], losses: Array) -> Choice:
    rng, tried = at_trial(problem, seed, rows), list(rows)
    says_nothing = not scores.mean.any()  # there is no past
    if not rows:
        return (
            _thompson(problem, scores, seed, rows, losses) if says_nothing else Choice(row=int(np.argmin(scores.mean)))
        )
    X, categorical = problem.points, problem.encoding.categorical
    own = normal_scores(losses) if len(rows) > 1 else np.zeros(1)
    least = 1.0 if says_nothing else LEAST_DEVIATION
    spread = max(float(scores.mean[tried].std()), least) / float(own.std()) if own.any() else 0.0
    z = scores.mean[tried].mean() + spread * own  # a few good rows do not look like the whole task
    rest = (z - scores.mean[tried]) / scores.deviation[tried]
    process = GaussianProcess(X=X[tried], y=rest, kernel=fit_kernel([(X[tried], rest)], categorical, rng, restarts=1))
    mean, std = process.predict(X)
    mean, std = scores.mean + scores.deviation * mean, scores.deviation * std
    return Choice(row=best_untried(log_expected_improvement(mean, std, float(z.min())), rows))


def normal_scores(losses: Array) -> Array:
    r"""The losses (n,), n > 1, by their ranks as if they were normal: $\Phi^{-1}(clip(rank / n, \delta, 1 - \delta))$.

    $\delta = 1 / (4 n^{1/4} \sqrt{\pi \log n})$.
    """
    n = len(losses)
    delta = 1.0 / (4.0 * n**0.25 * np.sqrt(np.pi * np.log(n)))
    scores: Array = ndtri(np.clip((rankdata(losses) - 0.5) / n, delta, 1.0 - delta))
    return scores


_kept: Remembered[Scores] = Remembered(8)


def _scores(problem: Problem) -> Scores:
    runs = [past for past in problem.past if len(past.losses) > 1]
    if not runs:
        return Scores(mean=np.zeros(len(problem.points)), deviation=np.ones(len(problem.points)))
    key = content(problem.points, *(array for past in runs for array in (past.X, past.losses)))
    return _kept.get(key, lambda: _regressed(problem, [(past.X, normal_scores(past.losses)) for past in runs]))


def _regressed(problem: Problem, tasks: Sequence[tuple[Array, Array]]) -> Scores:
    rng = np.random.default_rng(0)
    most = max(REGRESSED_RUNS // len(tasks), 1)
    parts = [(X[chosen], z[chosen]) for X, z in tasks for chosen in [rng.permutation(len(z))[:most]]]
    X, z = np.vstack([X for X, _ in parts]), np.concatenate([z for _, z in parts])
    with threadpool_limits(1):
        trees = partial(
            HistGradientBoostingRegressor, categorical_features=problem.encoding.categorical, random_state=0
        )
        mean = trees().fit(X, z)
        rest = trees().fit(X, (z - mean.predict(X)) ** 2)
        variance = np.maximum(rest.predict(problem.points), LEAST_DEVIATION**2)
        return Scores(mean=mean.predict(problem.points), deviation=np.sqrt(variance))
