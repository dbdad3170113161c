"""What do many Gaussian processes, each with data and a kernel of its own, say of the same points?

A past task is looked at hundreds of times in one proposal, and there are many of them: they are taken block by block,
in single precision, which is a tenth of what the smallest difference between tasks is believed to be (variance .01).

Notation: t processes, n observations of the largest (the others are filled up with rows that say nothing), m points, d
parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array, Mask
from hpo.surrogates.gaussian_process import GaussianProcess, matern

BLOCK = 1 << 18  # covariances at a time: a mebibyte stays in the processor's cache

Single = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProcessStack:
    """Some processes over the same parameters, at least one."""

    X: Single  # (t, n, d) numbers in length scales from the middle; a choice as it is
    lengthscales: Single  # (t, d)
    categorical: Mask  # (d,)
    alpha: Single  # (t, n)
    inverse_factor: Single  # (t, n, n)
    scales: Single  # (t,)
    levels: Single  # (t,)

    @classmethod
    def of(cls, processes: Sequence[GaussianProcess]) -> ProcessStack:
        """The processes in their order."""
        categorical = processes[0].kernel.categorical
        t, n = len(processes), max(len(process.y) for process in processes)
        X = np.zeros((t, n, len(categorical)), dtype=np.float32)
        alpha = np.zeros((t, n), dtype=np.float32)
        inverse_factor = np.zeros((t, n, n), dtype=np.float32)
        lengthscales = np.array([process.kernel.lengthscales for process in processes], dtype=np.float32)
        for i, process in enumerate(processes):
            size = len(process.y)
            X[i, :size] = _placed(process.X, lengthscales[i], categorical)
            alpha[i, :size] = process.alpha
            inverse_factor[i, :size, :size] = process.inverse_factor
        return cls(
            X=X,
            lengthscales=lengthscales,
            categorical=categorical,
            alpha=alpha,
            inverse_factor=inverse_factor,
            scales=np.array([process.kernel.scale for process in processes], dtype=np.float32),
            levels=np.array([process.kernel.level for process in processes], dtype=np.float32),
        )

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior means (t, m) and variances (t, m) of the noiseless losses at points (m, d)."""
        t, n = self.alpha.shape
        means, variances = np.empty((t, len(points))), np.empty((t, len(points)))
        together = max(1, BLOCK // max(len(points) * n, 1))
        for start in range(0, t, together):
            block = slice(start, start + together)
            cross = self._covariance(points, block)
            half = cross @ self.inverse_factor[block].transpose(0, 2, 1)
            means[block] = np.einsum("tmn,tn->tm", cross, self.alpha[block])
            np.square(half, out=half)
            variances[block] = (self.scales[block] + self.levels[block])[:, None] - half.sum(2)
        return means, variances

    def _covariance(self, points: Array, block: slice) -> Single:
        """Between the points and what the processes of a block were given: shape (b, m, n)."""
        A, B = _placed(points, self.lengthscales[block], self.categorical), self.X[block]
        numeric = ~self.categorical
        squared = A[..., numeric] @ (-2.0 * B[..., numeric]).transpose(0, 2, 1)
        squared += (A[..., numeric] ** 2).sum(2)[:, :, None]
        squared += (B[..., numeric] ** 2).sum(2)[:, None, :]
        for j in np.flatnonzero(self.categorical):
            differ = A[:, :, None, j] != B[:, None, :, j]
            squared += differ / self.lengthscales[block, j, None, None] ** 2
        np.maximum(squared, 0.0, out=squared)
        covariance: Single = matern(squared)
        covariance *= self.scales[block, None, None]
        covariance += self.levels[block, None, None]
        return covariance


def _placed(points: Array, lengthscales: Single, categorical: Mask) -> Single:
    """Points (m, d) in length scales (..., d) from the middle of each range, where single precision is best."""
    placed = points.astype(np.float32)
    return np.where(categorical, placed, (placed - 0.5) / lengthscales[..., None, :]).astype(np.float32)
