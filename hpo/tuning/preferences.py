"""What counts beside the loss: where the user hopes for good values, what is allowed, and what it costs.

Each is a term of the log acquisition: (m,) at points (m, d).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from scipy.special import log_ndtr, logsumexp

from hpo.arrays import Array
from hpo.priors.costs import CostModel
from hpo.spaces.encoding import Encoding, encode_value
from hpo.surrogates.gaussian_process import GaussianProcess, fit_kernel, sample_kernels
from hpo.tuning.evidence import Evidence

Term: TypeAlias = Callable[[Array], Array]

HOPE = 4.0  # trials: what a hope counts for against the study's own, beta in piBO
HOPED_SHARE = 0.9  # of good values, in what is called likely
UNLIKELY_CHOICE = np.log((1.0 - HOPED_SHARE) / HOPED_SHARE)
SHORTEST = 1e-3  # interval, in units of the range
EDGE = 1.645  # standard deviations from the middle of a likely interval to its ends, for 90% within
KERNELS = 4  # of each constraint


def log_hope(encoding: Encoding, trials: int) -> Term | None:
    r"""The log density of the user's hopes (`likely`), fading as $\beta / n$ with the number of trials; None without.

    Hvarfner et al., piBO: Augmenting Acquisition Functions with User Beliefs, ICLR 2022, eq. 6. A hope in an interval
    is normal around its middle, 90% of it within; in some choices, 90% of it is theirs.
    """
    hopes = [
        (j, encoding.space.distributions[name], encoding.space.likely[name])
        for j, name in enumerate(encoding.names)
        if name in encoding.space.likely
    ]
    if not hopes:
        return None

    def term(points: Array) -> Array:
        hope, active = np.zeros(len(points)), encoding.active(points)
        for j, distribution, likely in hopes:
            if isinstance(distribution, CategoricalDistribution):
                hoped = np.isin(points[:, j], [encode_value(distribution, choice) for choice in likely])
                log_density = np.where(hoped, 0.0, UNLIKELY_CHOICE)
            else:
                low, high = _ends(distribution, likely)
                deviation = max(high - low, SHORTEST) / (2.0 * EDGE)
                log_density = -0.5 * ((points[:, j] - 0.5 * (low + high)) / deviation) ** 2
            hope += np.where(active[:, j], log_density, 0.0)
        return HOPE / max(trials, 1) * hope

    return term


def where_hoped(encoding: Encoding, cube: Array) -> Array:
    """Quantiles (m, d) of the whole space, squeezed into what is likely."""
    squeezed = cube.copy()
    for j, name in enumerate(encoding.names):
        likely = encoding.space.likely.get(name)
        if likely is None:
            continue
        distribution = encoding.space.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            places = np.array([encode_value(distribution, choice) for choice in likely])
            chosen = places[np.minimum((cube[:, j] * len(places)).astype(int), len(places) - 1)]
            squeezed[:, j] = (chosen + 0.5) / len(distribution.choices)
        else:
            low, high = _ends(distribution, likely)
            squeezed[:, j] = low + cube[:, j] * (high - low)
    return squeezed


def log_feasibility(evidence: Evidence, encoding: Encoding, rng: np.random.Generator) -> Term | None:
    """Log probability that all constraints hold (each value at most 0); None where there are none.

    Gardner et al., Bayesian Optimization with Inequality Constraints, ICML 2014. Every constraint has a Gaussian
    process around 0, so that nothing is known to hold far from all trials.
    """
    values = evidence.constraints
    if values is None:
        return None
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        return None
    X, values = evidence.X[known], values[known]
    processes = []
    for y in (values / np.maximum(np.sqrt(np.mean(values**2, axis=0)), 1e-12)).T:
        likeliest = fit_kernel([(X, y)], encoding.categorical, rng, restarts=1)
        kernels = sample_kernels(X, y, rng, start=likeliest, count=KERNELS)
        processes.append([GaussianProcess(X=X, y=y, kernel=kernel) for kernel in kernels])

    def term(points: Array) -> Array:
        total = np.zeros(len(points))
        for sampled in processes:
            predictions = [process.predict(points) for process in sampled]
            total += logsumexp([log_ndtr(-mean / std) for mean, std in predictions], axis=0) - np.log(len(sampled))
        return total

    return term


def log_thrift(costs: CostModel | None) -> Term | None:
    """Minus the log of what a trial is expected to cost, so that gain per cost is what counts; None if unknown.

    Snoek et al., Practical Bayesian Optimization of Machine Learning Algorithms, NeurIPS 2012, section 3.2.
    """
    return None if costs is None else lambda points: -costs.mean_log(points)


def _ends(distribution: BaseDistribution, likely: tuple[float, ...]) -> tuple[float, float]:
    low, high = (encode_value(distribution, end) for end in likely)
    return low, high
