"""What would Syne Tune's transfer learning choose, could it see the rows?

Its own code fits the regressor (boosted trees on the quantiles of past tasks) and its residual deviation; the Thompson
draw is taken over the untried rows rather than over 100,000 random configurations. Needs
`pip install syne-tune huggingface_hub`, which the development environment does not bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import numpy as np
import pandas as pd

from hpo.arrays import Array
from hpo.replay.problem import Choice, Problem
from hpo.spaces.encoding import Encoding
from tests.benchmarks.rivals.remembered import Remembered, content
from tests.benchmarks.rivals.rows import RowChooser, at_trial, best_untried, random_untried

MOST_SAMPLES = 100_000  # Syne Tune's default

_kept: Remembered[tuple[Array, float]] = Remembered(8)


class SyneTuneCTS:
    """Syne Tune's `QuantileBasedSurrogateSearcher`, choosing among the rows."""

    name = "syne-tune-cts"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides the draws."""
        runs = [array for past in problem.past for array in (past.X, past.losses)]
        fitted = _kept.get(content(problem.points, *runs), partial(_fitted, problem)) if runs else None
        return RowChooser(next_row=partial(_thompson, problem, fitted, seed))


def _thompson(
    problem: Problem, fitted: tuple[Array, float] | None, seed: int, rows: Sequence[int], losses: Array
) -> Choice:
    rng = at_trial(problem, seed, rows)
    if fitted is None:
        return Choice(row=random_untried(len(problem.points), rows, rng))
    mean, deviation = fitted
    return Choice(row=best_untried(-rng.normal(mean, deviation), rows))


def _fitted(problem: Problem) -> tuple[Array, float]:
    """The mean normal score of each row (m,), and the residual deviation."""
    import xgboost
    from syne_tune.config_space import choice, uniform
    from syne_tune.optimizer.schedulers.transfer_learning.quantile_based.quantile_based_searcher import fit_model
    from syne_tune.optimizer.schedulers.transfer_learning.transfer_learning_task_evaluation import (
        TransferLearningTaskEvaluations,
    )

    encoding = problem.encoding
    space = {
        name: choice([str(float(i)) for i in range(-1, 1 + int(problem.points[:, j].max()))])
        if encoding.categorical[j]
        else uniform(0.0, 1.0)
        for j, name in enumerate(encoding.names)
    }
    past = {
        str(number): TransferLearningTaskEvaluations(
            configuration_space=space,
            hyperparameters=_frame(encoding, runs.X),
            objectives_names=["loss"],
            objectives_evaluations=runs.losses.reshape(-1, 1, 1, 1),
        )
        for number, runs in enumerate(problem.past)
    }
    with redirect_stdout(StringIO()):  # it prints how long it took
        model, _, deviation = fit_model(
            config_space=space,
            transfer_learning_evaluations=past,
            normalization="gaussian",
            max_fit_samples=MOST_SAMPLES,
            random_state=np.random.RandomState(0),
            model=xgboost.XGBRegressor(random_state=0, n_jobs=1),
        )
    return np.asarray(model.predict(_frame(encoding, problem.points)), dtype=np.float64).ravel(), float(deviation)


def _frame(encoding: Encoding, points: Array) -> pd.DataFrame:
    """Points (n, d) as Syne Tune takes them: choices as words."""
    columns = {
        name: [str(value) for value in points[:, j]] if encoding.categorical[j] else points[:, j]
        for j, name in enumerate(encoding.names)
    }
    return pd.DataFrame(columns)
