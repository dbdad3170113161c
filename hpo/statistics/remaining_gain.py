r"""How much can still be gained in the trials that are left? By what was predicted of trials, and what came of it.

Before each trial the tuner says between what its loss will lie. So for every gain g it has claimed a probability
$c_i(g)$ that trial i beats the incumbent of its time by more, and afterwards it is known whether it did. Such successes
come less often than claimed, for a tuner tries what looks best, and so what it overrates (Smith and Winkler, The
Optimizer's Curse, Management Science 2006). Let them be a Poisson process that runs at a share $\kappa$ of what is
claimed, $\kappa \sim Gamma(a, b)$: after s successes in claims that add up to C,

    $\kappa \sim Gamma(a + s, b + C)$,
    $P(\text{gain left} > g) = 1 - (\frac{b + C}{b + C + n \log(1 + r / n) \bar c(g)})^{a + s}$,

with n trials so far, r left, and $\bar c$ the mean of the latest claims: claims fall like 1 / n (measured: after 6, 10,
14 and 22 of 30 trials, those to come add up to .48, .59, .64 and .88 of r times the latest; this says .40, .55, .71 and
.85). The expected gain is the integral over g; the quantile is where the probability falls to 5%.

Notation: c trials with a prediction, g gains. Losses: smaller is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from hpo.arrays import Array

GUIDED = (0.5, 6.0)  # a, b where history guides: of claims without noise, on 20 recorded tasks
COLD = (1.0, 3.0)  # where there is none, or it misleads: of claims with noise, on 134; more of them comes true
LEAST_GUIDANCE = 0.5  # weight of history in the latest predictions; a misleading one has less (measured), a good one .6
YOUNG = 8  # trials of a study whose claims do not count: they came true by two thirds, and say nothing of later ones
LATEST = 2  # claims that stand for those to come: one made with history and one without
LEFT = 0.05  # probability that more is left than the quantile
INTERVAL = 0.9  # of the predictions
GRID = 200  # gains that are looked at
CERTAIN = 1e-3  # of the doubt with noise: less is none
FARTHEST = 6.0  # standard deviations below what is predicted, beyond which nothing is claimed


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What was predicted of trials, in their order, and how they came out."""

    numbers: Array  # (c,) how many trials of the study went before
    predicted: Array  # (c,) median of the loss
    low: Array  # (c,) the 5% quantile of the loss, < predicted; noise left out where history guides
    incumbents: Array  # (c,) the least loss before
    losses: Array  # (c,) as they came out, infinite where a trial was cut short for it
    history: Array  # (c,) how much history counted in the prediction, 0 to 1

    def claims(self, gains: Array) -> Array:
        """The probability that each trial gains more, shape (c, g)."""
        deviations = (self.predicted - self.low) / -ndtri((1.0 - INTERVAL) / 2.0)
        goals = self.incumbents[:, None] - gains
        claimed: Array = ndtr((goals - self.predicted[:, None]) / deviations[:, None])
        return claimed

    def successes(self, gains: Array) -> Array:
        """Which trials did gain more, shape (c, g), as 0 and 1."""
        return ((self.incumbents - self.losses)[:, None] > gains).astype(np.float64)

    def until(self, number: int) -> Record:
        """As it was when so many trials had been proposed."""
        rows = self.numbers < number
        return Record(
            numbers=self.numbers[rows],
            predicted=self.predicted[rows],
            low=self.low[rows],
            incumbents=self.incumbents[rows],
            losses=self.losses[rows],
            history=self.history[rows],
        )


def best_case_below(predicted: float, low: float, best_case: float) -> float:
    """The 5% quantile without noise, a little below what is predicted even where nothing is doubted.

    low: the same with noise, below what is predicted.
    """
    return predicted - max(predicted - best_case, CERTAIN * (predicted - low))


@dataclass(frozen=True, kw_only=True)
class RemainingGain:
    """What may still be gained."""

    expected: float
    quantile: float  # that it exceeds with probability `LEFT`
    next_trial: float  # expected of one more trial


def remaining_gain(record: Record, trials: int) -> RemainingGain | None:
    """What so many more trials may gain; None where too little was predicted to say."""
    if len(record.predicted) < LATEST:
        return None
    gains = _gains(record)
    left = probability_left(record, trials, gains)
    return RemainingGain(
        expected=float(np.trapezoid(left, gains)),
        quantile=float(np.interp(-LEFT, -left, gains)),
        next_trial=float(np.trapezoid(probability_left(record, 1, gains), gains)),
    )


def probability_left(record: Record, trials: int, gains: Array) -> Array:
    """The probability that so many more trials gain more than each of the gains, ascending: (g,), never rising."""
    claims, mature = record.claims(gains), record.numbers >= YOUNG
    successes, claimed = GUIDED if record.history[-LATEST:].mean() >= LEAST_GUIDANCE else COLD
    shape = successes + record.successes(gains)[mature].sum(axis=0)
    rate = claimed + claims[mature].sum(axis=0)
    so_far = record.numbers[-1] + 1.0
    coming = so_far * np.log1p(trials / so_far) * claims[-LATEST:].mean(axis=0)
    return np.minimum.accumulate(1.0 - (rate / (rate + coming)) ** shape)


def _gains(record: Record) -> Array:
    """Gains from nothing to more than can be hoped for, closest together where they are small."""
    latest = slice(-LATEST, None)
    incumbents, predicted, low = record.incumbents[latest], record.predicted[latest], record.low[latest]
    most = float((incumbents - predicted + FARTHEST * (predicted - low)).max())
    largest = max(most, float((record.predicted - record.low).max()) * np.finfo(float).eps)
    return largest * np.linspace(0.0, 1.0, GRID) ** 2
