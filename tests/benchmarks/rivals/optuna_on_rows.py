"""What would Optuna's samplers choose, could they see the rows?

Snapping a proposal to the nearest recorded row wastes it where rows are few. Here Optuna's own models score every
untried row instead: the strong form of its samplers on a recorded table. Both start with ten random trials, as they do
by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from optuna._gp import gp, prior
from optuna._gp.acqf import logei
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import default_gamma

from hpo.arrays import Array
from hpo.replay.problem import Choice, Problem
from tests.benchmarks.rivals.rows import RowChooser, at_trial, best_untried, random_untried

STARTUP_TRIALS = 10  # the default of both samplers
STABILISING_NOISE = 1e-12  # of `optuna._gp.acqf.LogEI`


class OptunaGP:
    """GPSampler: its kernel fit and log expected improvement; inactive parameters rest, so that all are modelled."""

    name = "optuna-gp"

    def begin(self, problem: Problem, seed: int) -> GPOnRows:
        """Start on a problem; the seed decides the ten random trials."""
        return GPOnRows(problem=problem, seed=seed)


@dataclass(kw_only=True, eq=False)
class GPOnRows:
    """GPSampler on one problem. As the sampler does, it starts each fit where the one before ended."""

    problem: Problem
    seed: int
    before: gp.GPRegressor | None = field(default=None)

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """A random row, or that of the largest log expected improvement."""
        if len(rows) < STARTUP_TRIALS:
            self.before = None
            return Choice(row=random_untried(len(self.problem.points), rows, at_trial(self.problem, self.seed, rows)))
        scores = -np.asarray(losses)
        y = (scores - scores.mean()) / max(1e-10, scores.std())
        self.before = gp.fit_kernel_params(
            X=self.problem.points[list(rows)],
            Y=y,
            is_categorical=self.problem.encoding.categorical,
            log_prior=prior.default_log_prior,
            minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
            gpr_cache=self.before,
            deterministic_objective=False,
        )
        with torch.no_grad():
            mean, variance = self.before.posterior(torch.from_numpy(self.problem.points))
            score = logei(mean=mean, var=variance + STABILISING_NOISE, f0=float(y.max()))
        return Choice(row=best_untried(score.numpy(), rows))


class OptunaTPE:
    """TPESampler: multivariate over the parameters every configuration has, one by one over the others."""

    name = "optuna-tpe"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides the ten random trials."""
        return RowChooser(next_row=partial(_densest, problem, _internal(problem), seed))


def _densest(problem: Problem, internal: Mapping[str, Array], seed: int, rows: Sequence[int], losses: Array) -> Choice:
    if len(rows) < STARTUP_TRIALS:
        return Choice(row=random_untried(len(problem.points), rows, at_trial(problem, seed, rows)))
    ranked = [rows[i] for i in np.argsort(losses, kind="stable")]
    below = set(ranked[: default_gamma(len(rows))])
    good, bad = [row for row in rows if row in below], [row for row in rows if row not in below]
    searched = {name: of for name, of in problem.encoding.space.distributions.items() if not of.single()}
    common = [name for name in searched if not np.isnan(internal[name][list(rows)]).any()]
    score = np.zeros(len(problem.points))
    for names in ([common] if common else []) + [[name] for name in searched if name not in common]:
        score += _log_ratio({name: searched[name] for name in names}, internal, good, bad)
    return Choice(row=best_untried(score, rows))


def _log_ratio(
    searched: dict[str, BaseDistribution], internal: Mapping[str, Array], good: Sequence[int], bad: Sequence[int]
) -> Array:
    """Log density among good trials minus that among bad ones, at every row: shape (m,); 0 where inactive."""
    known = ~np.any([np.isnan(internal[name]) for name in searched], axis=0)
    at_rows = {name: internal[name][known] for name in searched}
    densities = []
    for rows in (good, bad):
        there = [row for row in rows if known[row]]
        estimator = _ParzenEstimator(
            {name: internal[name][there] for name in searched}, searched, TPESampler()._parzen_estimator_parameters
        )
        densities.append(estimator.log_pdf(at_rows))
    ratio = np.zeros(len(known))
    ratio[known] = densities[0] - densities[1]
    return ratio


def _internal(problem: Problem) -> dict[str, Array]:
    """Optuna's internal values of every parameter at the rows, each (m,), NaN where inactive."""

    def value(configuration: Mapping[str, Any], name: str, distribution: BaseDistribution) -> float:
        return float(distribution.to_internal_repr(configuration[name])) if name in configuration else float("nan")

    return {
        name: np.array([value(configuration, name, of) for configuration in problem.configurations])
        for name, of in problem.encoding.space.distributions.items()
    }
