"""Which point is worth the next evaluation?"""

from __future__ import annotations

import numpy as np
from scipy.special import erfcx, ndtr

from hpo.arrays import Array

HALF_LOG_TWO_PI = 0.5 * np.log(2.0 * np.pi)
HALF_LOG_HALF_PI = 0.5 * np.log(0.5 * np.pi)


def log_expected_improvement(mean: Array, std: Array, incumbent: float) -> Array:
    r"""Log expected improvement below `incumbent`, stable far in the tail.

    $\log EI = \log \sigma + \log h(z)$, $h(z) = \varphi(z) + z \Phi(z)$, $z = (\text{incumbent} - \mu) / \sigma$.
    mean, std: shape (m,), std > 0. Returns shape (m,).
    Ament et al., Unexpected Improvements to Expected Improvement, NeurIPS 2023, eq. 9.
    """
    score: Array = np.log(std) + _log_h((incumbent - mean) / std)
    return score


def _log_h(z: Array) -> Array:
    near, far = np.maximum(z, -1.0), np.clip(z, -1e6, -1.0)
    direct = np.log(np.exp(-0.5 * near**2 - HALF_LOG_TWO_PI) + near * ndtr(near))
    # h(z) = phi(z) (1 - |z| sqrt(pi / 2) erfcx(|z| / sqrt 2)); the bracket tends to 1 / z^2
    mills = np.log(-far * erfcx(-far / np.sqrt(2.0))) + HALF_LOG_HALF_PI
    bracket = np.where(far > -1e4, np.log(-np.expm1(np.minimum(mills, -1e-300))), -2.0 * np.log(-far))
    tail = -0.5 * far**2 - HALF_LOG_TWO_PI + bracket
    log_h: Array = np.where(z > -1.0, direct, tail)
    return log_h
