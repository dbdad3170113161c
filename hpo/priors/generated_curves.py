"""What learning curves are like where no past says it: studies drawn from families of curves.

Power laws, exponentials and sigmoids, whose asymptotes, speeds and noise differ between the trials of a study and more
so between studies; some overfit, some diverge, and in some studies trials are of different lengths. After Adriaensen et
al., Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks, NeurIPS 2023, and Domhan et al.,
IJCAI 2015; the ranges are heuristic.
"""

from __future__ import annotations

import numpy as np

from hpo.arrays import Array

LENGTHS = (10, 20, 50)  # reports of the longest curve
SHARES = (0.25, 0.5, 0.75, 1.0)  # of it, where trials differ in length


def generated_losses(trials: int, rng: np.random.Generator) -> list[Array]:
    """The curves of one study, each of shape (k,) with a k of its own."""
    longest = int(rng.choice(LENGTHS))
    shares = rng.choice(SHARES, trials) if rng.random() < 0.25 else np.ones(trials)
    lengths = np.ceil(shares * longest).astype(int)
    x = 1.0 + np.arange(longest)[None, :] / shares[:, None]  # a schedule as long as the trial
    asymptotes = np.exp(rng.uniform(-2.5, 0.5)) * rng.gamma(rng.uniform(0.5, 4.0), 1.0, trials)
    losses = asymptotes[:, None] + (_starts(asymptotes, rng) - asymptotes)[:, None] * _shapes(x, longest, rng)
    spread = float(np.std(asymptotes))
    if rng.random() < 0.5:
        rises = rng.gamma(0.5, 0.1 * spread, trials) * (rng.random(trials) < rng.random())
        losses = losses + rises[:, None] * (x / longest) ** 2
    height = (losses - losses.min()) / np.ptp(losses)
    noise = np.exp(rng.uniform(-7.0, -1.0)) * spread * (1.0 + rng.uniform(0.0, 3.0) * height)
    losses = losses + noise * rng.standard_normal(losses.shape)
    diverged = rng.random(trials) < rng.choice([0.0, 0.0, 0.05, 0.15])
    losses = np.where(diverged[:, None], losses[:, :1], losses)
    return [curve[:length] for curve, length in zip(losses, lengths, strict=True)]


def _starts(asymptotes: Array, rng: np.random.Generator) -> Array:
    """Where curves begin: above their own asymptote, or about the same for all."""
    if rng.random() < 0.5:
        return np.asarray(asymptotes + np.exp(rng.normal(rng.uniform(-1.0, 1.5), 0.3, len(asymptotes))))
    common = np.exp(rng.normal(rng.uniform(0.0, 1.5), 0.1, len(asymptotes)))
    return np.maximum(common, asymptotes)


def _shapes(x: Array, longest: int, rng: np.random.Generator) -> Array:
    """From 1 towards 0, shape (trials, k)."""
    trials = len(x)
    kinds = rng.choice(3, p=rng.dirichlet([1.0, 1.0, 1.0]), size=trials)[:, None]
    power = np.exp(rng.normal(rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.7), trials))[:, None]
    pace = np.exp(rng.normal(np.log(longest) + rng.uniform(-4.0, -0.5), rng.uniform(0.2, 1.0), trials))[:, None]
    turn = np.exp(rng.normal(np.log(longest) + rng.uniform(-3.0, -0.3), 0.5, trials))[:, None]
    power_law = (1.0 + (x - 1.0) / pace) ** -power
    exponential = np.exp(-(((x - 1.0) / pace) ** rng.uniform(0.5, 1.0)))
    sigmoid = 1.0 / (1.0 + (x / turn) ** (1.0 + power))
    return np.where(kinds == 0, power_law, np.where(kinds == 1, exponential, sigmoid))
