"""What will the next loss at a point be? An average of normal distributions, each on a scale of its own.

Notation: k parts, t past tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from hpo.arrays import Array
from hpo.statistics.loss_scale import LossScales

PRECISION = 1e-6  # of a quantile, in standardised units
SURELY = 5.0  # standard deviations


@dataclass(frozen=True, kw_only=True, eq=False)
class NextLoss:
    """The distribution of the next raw loss at one point."""

    weights: Array  # (k,) sum to one
    means: Array  # (k,) standardised
    deviations: Array  # (k,) of the loss without noise, standardised
    noises: Array  # (k,) variances
    scales: LossScales  # (k,)
    credit: Array  # (t,) every past task's share in what is expected: sums to the history's weight

    def quantiles(self, levels: Sequence[float], *, noise: bool = True) -> list[float]:
        """Of the next raw loss, or, without noise, of what it would be on average."""
        width = self._width(noise)
        ends = self.scales.restore(np.array([self.means - SURELY * width, self.means + SURELY * width]))
        least = PRECISION * float(self.scales.units.min())
        return [
            _bisect(lambda loss: self._below(loss, width), level, float(ends.min()), float(ends.max()), least)
            for level in levels
        ]

    def probability_below(self, loss: float) -> float:
        """That the next raw loss is smaller, noise included."""
        return self._below(loss, self._width(noise=True))

    def _width(self, noise: bool) -> Array:
        return np.hypot(self.deviations, np.sqrt(self.noises)) if noise else self.deviations

    def _below(self, loss: float, width: Array) -> float:
        return float(self.weights @ ndtr((self.scales.standardise(np.array([loss])) - self.means) / width))


def _bisect(below: Callable[[float], float], level: float, low: float, high: float, least: float) -> float:
    """Where a distribution function reaches a level, to within `least`, however far apart the ends are."""
    while high - low > least:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (low, middle) if below(middle) >= level else (middle, high)
    return 0.5 * (low + high)
