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

BLOCK = 1 << 18  # covariances at a time: a mebibyte stays in the processor's cache, and is asked for once

Single = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProcessStack:
    """Some processes over the same parameters, at least one."""

    X: Single  # (t, n, d) numbers in length scales from the middle; a choice as it is
    lengthscales: Single  # (t, d)
    categorical: Mask  # (d,)
    alpha: Single  # (t, n)
    inverse_factor: Single  # (t, n, n) transposed
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
            inverse_factor[i, :size, :size] = process.inverse_factor.T
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
        (t, n), m = self.alpha.shape, len(points)
        means, variances = np.empty((t, m)), np.empty((t, m))
        together = min(t, max(1, BLOCK // max(m * n, 1)))
        room = np.empty((2, together, m, n), dtype=np.float32)
        for start in range(0, t, together):
            block = slice(start, min(start + together, t))
            squared, cross = room[:, : block.stop - start]
            self._covariance(points, block, squared, cross)
            half = np.matmul(cross, self.inverse_factor[block], out=squared)
            means[block] = np.einsum("tmn,tn->tm", cross, self.alpha[block])
            explained = np.einsum("tmn,tmn->tm", half, half)
            variances[block] = (self.scales[block] + self.levels[block])[:, None] - explained
        return means, variances

    def _covariance(self, points: Array, block: slice, squared: Single, covariance: Single) -> None:
        """Between the points and what the processes of a block were given, written to an array (b, m, n).

        The other array is used up.
        """
        A, B = _placed(points, self.lengthscales[block], self.categorical), self.X[block]
        numeric = ~self.categorical
        a, b = A[..., numeric], B[..., numeric]
        one_a, one_b = np.ones((*a.shape[:2], 1), dtype=np.float32), np.ones((*b.shape[:2], 1), dtype=np.float32)
        left = np.concatenate([a, (a**2).sum(2, keepdims=True), one_a], axis=2)
        right = np.concatenate([-2.0 * b, one_b, (b**2).sum(2, keepdims=True)], axis=2)
        np.matmul(left, right.transpose(0, 2, 1), out=squared)
        for j in np.flatnonzero(self.categorical):
            differ = A[:, :, None, j] != B[:, None, :, j]
            squared += differ / self.lengthscales[block, j, None, None] ** 2
        np.maximum(squared, 0.0, out=squared)
        matern(squared, covariance)
        covariance *= self.scales[block, None, None]
        covariance += self.levels[block, None, None]


def _placed(points: Array, lengthscales: Single, categorical: Mask) -> Single:
    """Points (m, d) in length scales (..., d) from the middle of each range, where single precision is best."""
    placed = points.astype(np.float32)
    return np.where(categorical, placed, (placed - 0.5) / lengthscales[..., None, :]).astype(np.float32)
