"""How the losses of one task are brought to a common scale, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpo.arrays import Array

LARGEST = 1e150  # losses beyond are the same: their squares would not be numbers


@dataclass(frozen=True, kw_only=True)
class LossScale:
    r"""An increasing map from raw to robustly standardised losses: linear among the good, logarithmic in the bad tail.

    $u = (y - c) / s$ with $c$ the median and $s$ the root mean square distance of the better half from it;
    $v = u$ for $u \le 1$ and $v = 1 + \log u$ beyond (continuous with its derivative); $z = (v - \bar v) / sd(v)$.
    A diverged run of 1e10 then weighs hardly more than a bad one, and differences among good runs keep their size.
    The knee at one spread above the median is a heuristic.
    """

    centre: float  # median raw loss
    spread: float  # raw units, > 0
    mean: float = 0.0  # of the bent values
    deviation: float = 1.0  # of the bent values, > 0

    @classmethod
    def of(cls, losses: Array) -> LossScale:
        """The scale of these losses, shape (n,), finite, n >= 1."""
        losses = np.clip(losses, -LARGEST, LARGEST)
        centre = float(np.median(losses))
        better = losses[losses <= centre]
        spread = _first_usable(float(np.sqrt(np.mean((better - centre) ** 2))), float(np.std(losses)))
        bent = _bend((losses - centre) / spread)
        deviation = _first_usable(float(np.std(bent)))
        return cls(centre=centre, spread=spread, mean=float(np.mean(bent)), deviation=deviation)

    def standardise(self, losses: Array) -> Array:
        """Raw losses to standardised ones, any shape."""
        losses = np.clip(losses, -LARGEST, LARGEST)
        standardised: Array = (_bend((losses - self.centre) / self.spread) - self.mean) / self.deviation
        return standardised

    def restore(self, standardised: Array) -> Array:
        """The inverse of `standardise`."""
        bent = np.asarray(standardised) * self.deviation + self.mean
        straight = np.where(bent <= 1.0, bent, np.exp(np.clip(bent - 1.0, 0.0, 300.0)))
        restored: Array = straight * self.spread + self.centre
        return restored

    def log_slope(self, losses: Array) -> Array:
        """Log of the derivative of `standardise`: what turns a density of standardised losses into one of raw ones."""
        u = (losses - self.centre) / self.spread
        slope: Array = -np.log(np.maximum(u, 1.0)) - np.log(self.spread * self.deviation)
        return slope

    @property
    def unit(self) -> float:
        """One standardised unit in raw units, among good losses."""
        return self.spread * self.deviation

    def straightened(self, standardised: Array) -> Array:
        """How many spreads from the median the standardised losses are."""
        return (self.restore(standardised) - self.centre) / self.spread


def _bend(u: Array) -> Array:
    bent: Array = np.where(u <= 1.0, u, 1.0 + np.log(np.maximum(u, 1.0)))
    return bent


def _first_usable(*scales: float) -> float:
    """The first scale that is finite and not vanishing; 1 where all losses are equal."""
    return next((scale for scale in scales if np.isfinite(scale) and scale > 1e-12), 1.0)
