r"""How much do tasks differ in an effect, judged by its kin as well: the other ranges of the same parameter?

Few tasks say little of the variance $\tau^2$ of their effects: the statistic Q of three tasks (see
`hpo.statistics.random_effects`) has two degrees of freedom. But where tasks differ in one range of a parameter they
differ in its others too, in proportions that a smooth curve sets: $\tau_c^2 = \lambda e_c$ for the effects c of a kin,
with one $\lambda$. At its true value each $Q_c$ is chi-squared with $f_c = t_c - 1$ degrees of freedom, $cov(Q_i, Q_j)
= 2 \sqrt{f_i f_j} r_{ij}^2$ with r the correlation of the effects, and a weighted sum of them is nearly
$a \chi^2_\nu$ (Satterthwaite, Biometrics Bulletin 1946):

    $a = \frac{\sum_{ij} w_i w_j \sqrt{f_i f_j} r_{ij}^2}{\sum_i w_i f_i}$, $\nu = \sum_i w_i f_i / a$.

The effect itself weighs 1, its kin together `KIN_FREEDOM` / f: proportions are a model's, and the more tasks there are,
the more an effect speaks for itself. Two effects that are one (a choice of two) add nothing to each other.

Notation: c effects, g values of $\lambda$, p columns of a surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array

KIN_FREEDOM = 4.0  # degrees of freedom that kin count like, at most: of 2, 4 and 6 on simulated tasks (little between)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kinship:
    """Which of c effects are kin, and how they are expected to vary over tasks."""

    sizes: tuple[int, ...]  # of the kins, which stand one after the other; their sum is c
    directions: Array  # (c, p) whose products are the expected covariances of the effects over tasks

    @cached_property
    def expected(self) -> Array:
        """The expected variance over tasks (c,), of which only the proportions within a kin count; 0: unknown."""
        expected: Array = (self.directions**2).sum(axis=1)
        return expected

    @cached_property
    def kins(self) -> tuple[slice, ...]:
        """Where each kin stands."""
        ends = np.cumsum(self.sizes).tolist()
        return tuple(slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True))

    @cached_property
    def _overlaps(self) -> tuple[Array, ...]:
        """The squared correlations within each kin, (k, k)."""
        units = self.directions / np.sqrt(np.where(self.expected > 0, self.expected, 1.0))[:, None]
        return tuple((units[kin] @ units[kin].T) ** 2 for kin in self.kins)

    def units(self, own: Array, tasks: NDArray[np.intp]) -> Array:
        """The size (c,) of each effect's variance, given what each shows itself (c,), > 0, from so many tasks (c,).

        In a kin they are in the expected proportions, about the geometric mean; those that say nothing keep their own.
        """
        sizes = own.copy()
        for kin in self.kins:
            says = (tasks[kin] > 1) & (self.expected[kin] > 0)
            if says.any():
                expected = self.expected[kin][says]
                sizes[kin] = np.where(
                    self.expected[kin] > 0,
                    self.expected[kin] * np.exp(np.log(own[kin][says] / expected).mean()),
                    own[kin],
                )
        return sizes

    def pooled(self, Q: Array, tasks: NDArray[np.intp]) -> tuple[Array, Array]:
        """Statistics (g, c) with the same values of lambda in each row, pooled; and their degrees of freedom (c,)."""
        pooled, freedom = Q.copy(), np.maximum(tasks - 1.0, 1.0)
        for kin, overlap in zip(self.kins, self._overlaps, strict=True):
            says = (tasks[kin] > 1) & (self.expected[kin] > 0)
            f = np.where(says, freedom[kin], 0.0)
            others = np.outer(says, says) & ~np.eye(len(f), dtype=bool)
            weights = others * (KIN_FREEDOM / freedom[kin] / np.maximum(others.sum(axis=1), 1))[:, None] + np.diag(says)
            covered = overlap * np.sqrt(np.outer(f, f))
            level = weights @ f
            variance = np.einsum("ci,ij,cj->c", weights, covered, weights)
            scale = np.where(says, variance / np.where(says, level, 1.0), 1.0)
            pooled[:, kin] = np.where(says, Q[:, kin] @ weights.T / scale, Q[:, kin])
            freedom[kin] = np.where(says, level / scale, freedom[kin])
        return pooled, freedom
