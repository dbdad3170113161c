"""How the losses of one task are brought to a common scale, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array

VANISHING = 1e-12  # relative to the losses: less is rounding
LARGEST = 1e150  # losses beyond are the same: their squares would not be numbers
LEAST_SPREAD = 1e-150  # so that the largest loss is still a number of spreads away
LARGEST_LOG = 700.0  # beyond the log of LARGEST / LEAST_SPREAD; its exponential is still a number


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
        centre, spread = centre_and_spread(losses)
        spread = spread or 1.0
        bent = _bend((losses - centre) / spread)
        deviation = float(np.std(bent))
        return cls(
            centre=centre,
            spread=spread,
            mean=float(np.mean(bent)),
            deviation=deviation if deviation > VANISHING else 1.0,
        )

    def standardise(self, losses: Array) -> Array:
        """Raw losses to standardised ones, any shape."""
        losses = np.clip(losses, -LARGEST, LARGEST)
        standardised: Array = (_bend((losses - self.centre) / self.spread) - self.mean) / self.deviation
        return standardised

    def restore(self, standardised: Array) -> Array:
        """The inverse of `standardise`."""
        bent = np.asarray(standardised) * self.deviation + self.mean
        restored: Array = _straighten(bent) * self.spread + self.centre
        return restored


@dataclass(frozen=True, kw_only=True, eq=False)
class LossScales:
    """Several scales at once, shape (c,): the last axis of what they are given is theirs."""

    centres: Array
    spreads: Array
    means: Array
    deviations: Array

    @classmethod
    def of(cls, scales: Sequence[LossScale]) -> LossScales:
        """The scales side by side."""
        fields = np.array([(scale.centre, scale.spread, scale.mean, scale.deviation) for scale in scales])
        centres, spreads, means, deviations = fields.reshape(-1, 4).T
        return cls(centres=centres, spreads=spreads, means=means, deviations=deviations)

    @classmethod
    def together(cls, parts: Sequence[LossScales]) -> LossScales:
        """One after the other."""
        names = ("centres", "spreads", "means", "deviations")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def at(self, columns: NDArray[np.intp]) -> LossScales:
        """Some of the scales."""
        return LossScales(
            centres=self.centres[columns],
            spreads=self.spreads[columns],
            means=self.means[columns],
            deviations=self.deviations[columns],
        )

    def standardise(self, losses: Array) -> Array:
        """As `LossScale.standardise`, shape (..., c) of (..., c) or (..., 1)."""
        losses = np.clip(losses, -LARGEST, LARGEST)
        standardised: Array = (_bend((losses - self.centres) / self.spreads) - self.means) / self.deviations
        return standardised

    def restore(self, standardised: Array) -> Array:
        """The inverse of `standardise`."""
        restored: Array = self.straightened(standardised) * self.spreads + self.centres
        return restored

    def straightened(self, standardised: Array) -> Array:
        """How many spreads from the median the standardised losses are."""
        return _straighten(np.asarray(standardised) * self.deviations + self.means)

    def log_slopes(self, losses: Array) -> Array:
        """Log of the derivative of `standardise`, summed over the losses (n,): shape (c,).

        It turns a density of standardised losses into one of raw ones.
        """
        u = (losses[:, None] - self.centres) / self.spreads
        slopes: Array = -np.log(np.maximum(u, 1.0)).sum(0) - len(losses) * np.log(self.units)
        return slopes

    @property
    def units(self) -> Array:
        """One standardised unit in raw units, among good losses."""
        return self.spreads * self.deviations


def _bend(u: Array) -> Array:
    bent: Array = np.where(u <= 1.0, u, 1.0 + np.log(np.maximum(u, 1.0)))
    return bent


def _straighten(bent: Array) -> Array:
    straight: Array = np.where(bent <= 1.0, bent, np.exp(np.clip(bent - 1.0, 0.0, LARGEST_LOG)))
    return straight


def centre_and_spread(losses: Array) -> tuple[float, float | None]:
    """The median of losses (n,), at most `LARGEST` in size, and a spread in which good ones differ by about one.

    It is the root mean square distance of the better half from the median; of all from their mean, where those are
    equal but for rounding; None where all are.
    """
    centre = float(np.median(losses))
    better = losses[losses <= centre]
    least = max(LEAST_SPREAD, VANISHING * float(np.abs(better).max()))
    spreads = float(np.sqrt(np.mean((better - centre) ** 2))), float(np.std(losses))
    return centre, next((spread for spread in spreads if spread > least), None)
