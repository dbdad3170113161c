"""Between what does a rate lie of which some successes were seen?"""

from __future__ import annotations

from scipy.special import betaincinv


def rate_interval(hits: float, n: float, share: float = 0.95) -> tuple[float, float]:
    """The interval for a rate of which `hits` of `n` were seen, n > 0; hits may be in part.

    Jeffreys, with the end at 0 or 1 where none or all were seen; Brown, Cai and DasGupta, Interval Estimation for a
    Binomial Proportion, Statistical Science 2001.
    """
    a, b, tail = hits + 0.5, n - hits + 0.5, (1.0 - share) / 2.0
    low = 0.0 if hits <= 0 else float(betaincinv(a, b, tail))
    high = 1.0 if hits >= n else float(betaincinv(a, b, 1.0 - tail))
    return low, high
