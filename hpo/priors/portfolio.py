"""Which few configurations cover what a new task may be like?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.arrays import Array, Mask, keys
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.gaussian_process import GaussianProcess, Kernel, cholesky, fit_kernel

DRAWS = 64  # imagined tasks, over all past ones
DEVIATION = 0.25  # prior standard deviation between a past task and the next one like it, in standardised losses
NEARLY = 0.97  # of the largest gain is as good, where it costs less (measured: .9 costs more where costs mislead)
KERNEL_TASKS, KERNEL_TRIALS = 8, 48  # what the shared kernel is fitted on


@dataclass(frozen=True, kw_only=True, eq=False)
class PastTask:
    """The trials of one finished study, in the points of the current space."""

    X: Array  # (n, d)
    y: Array  # (n,) standardised losses
    weight: float  # how much the task counts, > 0
    scale: LossScale  # of its raw losses
    kernel: Kernel | None = None  # its own, where it has trials enough for one; else what all tasks share

    def process(self, shared: Kernel) -> GaussianProcess:
        """What the task says of every point."""
        return GaussianProcess(X=self.X, y=self.y, kernel=self.kernel or shared)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pick:
    """One entry of a portfolio."""

    point: Array  # (d,)
    credit: Array  # (t,) how much of its gain comes from each past task; sums to 1


def portfolio(  # noqa: PLR0917
    tasks: Sequence[PastTask],
    landmarks: Array,
    kernel: Kernel,
    count: int,
    rng: np.random.Generator,
    costs: Array | None = None,
) -> list[Pick]:
    """At most `count` of the `landmarks` (m, d), in order, such that a task like a past one soon meets a good one.

    Each past task is imagined several times (`imagine`), and the list covers all imagined tasks: so even one past task
    gives several good points that differ. costs: (m,) of the landmarks, > 0: soon is then meant in these.
    """
    repeats = max(1, round(DRAWS / len(tasks)))
    losses = np.vstack([imagine(task, landmarks, kernel, repeats, rng) for task in tasks])
    weights = np.repeat([task.weight for task in tasks], repeats)
    picked, gains = greedy_cover(normalised_regret(losses), weights, count, costs)
    credits = gains.reshape(len(picked), len(tasks), repeats).sum(axis=2)
    credits = (credits + 1e-12) / (credits + 1e-12).sum(axis=1, keepdims=True)
    return [Pick(point=landmarks[index], credit=credit) for index, credit in zip(picked, credits, strict=True)]


def greedy_cover(regret: Array, weights: Array, count: int, costs: Array | None = None) -> tuple[list[int], Array]:
    r"""Pick columns of `regret` (t, m) one by one, each the best addition to those before.

    $c_t = 1$; repeat $x^* = \arg\min_x \sum_t w_t \min(c_t, N[t, x])$, $c_t \leftarrow \min(c_t, N[t, x^*])$.
    weights: (t,). Returns the picked columns and what each gained in every row, shape (picked, t).
    At least (1 - 1/e) of what the best set of that size gains (Nemhauser et al. 1978; Wistuba et al.,
    Sequential Model-Free Hyperparameter Tuning, ICDM 2015). With costs (m,): of those that gain nearly as much, the one
    of the largest gain per cost. By gain per cost alone, cheap points of little worth come first (measured).
    """
    covered = np.ones(len(regret))
    picked: list[int] = []
    gains: list[Array] = []
    for _ in range(min(count, regret.shape[1])):
        gain = weights @ covered - weights @ np.minimum(covered[:, None], regret)
        gain[picked] = -np.inf
        if costs is not None:
            gain = np.where(gain >= NEARLY * gain.max(), gain / costs, -np.inf)
        picked.append(int(np.argmax(gain)))
        gains.append(weights * (covered - np.minimum(covered, regret[:, picked[-1]])))
        covered = np.minimum(covered, regret[:, picked[-1]])
    return picked, np.array(gains)


def normalised_regret(losses: Array) -> Array:
    """Per row of losses (t, m): 0 for the best column, 1 for the median one and all that are worse."""
    best = losses.min(axis=1, keepdims=True)
    span = np.median(losses, axis=1, keepdims=True) - best
    regret: Array = np.clip((losses - best) / np.maximum(span, 1e-12), 0.0, 1.0)
    return regret


def imagine(task: PastTask, landmarks: Array, kernel: Kernel, repeats: int, rng: np.random.Generator) -> Array:
    """Losses at the landmarks of `repeats` new tasks like a past one: shape (repeats, m).

    What the past task measured, elsewhere its posterior mean, plus draws of its uncertainty and of how far related
    tasks deviate; the first one is the past task itself.
    """
    process = task.process(kernel)
    measured = dict(zip(keys(task.X), task.y, strict=True))
    expected = process.mean(landmarks)
    mean = np.array([measured.get(key, loss) for key, loss in zip(keys(landmarks), expected, strict=True)])
    if repeats == 1:
        return mean[None, :]
    _, covariance = process.joint(landmarks)
    factor = cholesky(covariance + DEVIATION**2 * kernel.covariance(landmarks, landmarks))
    noise = rng.standard_normal((repeats, len(landmarks)))
    noise[0] = 0.0
    losses: Array = mean + noise @ factor.T
    return losses


def fit_shared_kernel(tasks: Sequence[PastTask], categorical: Mask, rng: np.random.Generator) -> Kernel:
    """One kernel for all past tasks, from a sample of them and of their trials."""
    chosen = rng.permutation(len(tasks))[:KERNEL_TASKS]
    sample = [(task.X[rows], task.y[rows]) for task in (tasks[i] for i in chosen) for rows in [_some(len(task.y), rng)]]
    return fit_kernel(sample, categorical, rng, restarts=1)


def _some(n: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return rng.permutation(n)[:KERNEL_TRIALS]
