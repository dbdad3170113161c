"""Studies of simulated learning curves: losses of shape (trials, k), whose families differ in how a curve goes on."""

from __future__ import annotations

import numpy as np

from hpo.priors.curves import Curve

NOISE = 0.01


def fast(rng, trials=40, k=20):
    """All fall alike, to different ends."""
    return _noisy(0.1 + rng.random((trials, 1)) ** 2 + np.exp(-_x(k) / 3), rng)


def mixed(rng, trials=40, k=20):
    """Some fall faster than others, to different ends."""
    return _noisy(0.1 + rng.random((trials, 1)) ** 2 + np.exp(-_x(k) / rng.uniform(3, 8, (trials, 1))), rng)


def crossing(rng, trials=40, k=20):
    """All cross: the worse it is at first, the better it ends."""
    place = rng.random((trials, 1))
    return _noisy(0.1 + place + _x(k) / k * (1 - 2 * place), rng)


def late(rng, trials=40, k=20):
    """Half of them seem hopeless for half of the time, and end better than the others."""
    place, is_late = rng.random((trials, 1)), rng.random((trials, 1)) < 0.5
    dropping = 0.05 + 0.3 * place**2 + 1.2 * np.exp(-((_x(k) / (0.5 * k)) ** 3))
    return _noisy(np.where(is_late, dropping, 0.35 + place**2 + np.exp(-_x(k) / 3)), rng)


def ended(losses):
    return [Curve(steps=np.arange(1.0, len(row) + 1.0), losses=row, is_ended=True) for row in losses]


def _x(k):
    return np.arange(1.0, k + 1.0)[None, :]


def _noisy(losses, rng):
    return losses + NOISE * rng.standard_normal(losses.shape)
