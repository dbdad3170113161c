r"""Which point improves most on several objectives together? Expected hypervolume improvement.

The hypervolume is what the trials so far dominate, up to a reference point; a new trial is worth what it adds:
    $EHVI(x) = E[HV(F \cup \{y(x)\}) - HV(F)]$, F the losses that no other trial beats in every objective,
averaged over draws from the models of the objectives, which are independent of each other. (Emmerich et al., Single-
and Multiobjective Evolutionary Optimization Assisted by Gaussian Random Field Metamodels, 2006; draws that are the same
at every point: Daulton et al., Differentiable Expected Hypervolume Improvement, NeurIPS 2020.)

Each objective is measured on its standardised scale, so units do not matter and a diverged trial does not stretch it.

Notation: k objectives, n observations, m points, s draws, f trials that no other beats, b boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import get_non_dominated_box_bounds
from optuna.study._multi_objective import _is_pareto_front
from scipy.stats.qmc import Sobol

from hpo.arrays import Array
from hpo.priors.mixture import Mixture
from hpo.statistics.loss_scale import LossScale

DRAWS = 32
MOST_ON_A_FRONT, FEW_ON_A_FRONT = 64, 24  # of up to three objectives, and of more
MARGIN = 1.0  # standardised: how far the reference point is beyond the worst of what no other beats (measured)
LEAST = 1e-300  # of an improvement, whose log is taken


@dataclass(frozen=True, kw_only=True, eq=False)
class Objectives:
    """What is expected of all objectives, and what has been reached."""

    models: Sequence[Mixture]  # (k,)
    losses: Array  # (n, k) raw, of the trials that are to be improved on, n >= 1
    front: Array  # (f, k) those of them that no other beats

    @property
    def history_weight(self) -> float:
        """How much the models that know the past count, on average."""
        return float(np.mean([models.history_weight for models in self.models]))

    @property
    def alone(self) -> Objectives | None:
        """The models that know this study only; None where these are all."""
        if all(models.alone is None for models in self.models):
            return None
        return Objectives(
            models=[models.alone or models for models in self.models], losses=self.losses, front=self.front
        )

    def log_expected_improvement(self, points: Array) -> Array:
        """Log of the expected hypervolume improvement, standardised, at points (m, d): shape (m,)."""
        drawn = [
            scale.standardise(models.draws(points, uniforms))
            for models, scale, uniforms in zip(self.models, self._scales, self._uniforms, strict=True)
        ]
        losses = np.stack(drawn, axis=-1)  # (s, m, k)
        lower, upper = self._boxes
        gained = np.zeros(losses.shape[:2])
        for low, high in zip(lower, upper, strict=True):
            gained += np.clip(high - np.maximum(losses, low), 0.0, None).prod(axis=-1)
        improvement: Array = np.log(np.maximum(gained.mean(axis=0), LEAST))
        return improvement

    @cached_property
    def _scales(self) -> list[LossScale]:
        return [LossScale.of(column) for column in self.losses.T]

    @cached_property
    def _boxes(self) -> tuple[Array, Array]:
        """What is not dominated yet, as boxes that do not meet: lower and upper corners, (b, k) each."""
        columns = zip(self._scales, self.front.T, strict=True)
        front = np.array([scale.standardise(column) for scale, column in columns]).T
        lower, upper = get_non_dominated_box_bounds(front, front.max(axis=0) + MARGIN)
        return np.asarray(lower), np.asarray(upper)

    @cached_property
    def _uniforms(self) -> Array:
        """The same draws for every point: (k, 2, s) for which model, and where in it."""
        sobol = Sobol(2 * len(self.models), rng=np.random.default_rng(0)).random(DRAWS)
        uniforms: Array = np.clip(sobol, 1e-9, 1.0 - 1e-9).T.reshape(len(self.models), 2, DRAWS)
        return uniforms


def on_the_front(losses: Array) -> NDArray[np.intp]:
    """The rows of the losses (n, k) that no other beats in everything, the best of each objective first.

    Of a large front only some, evenly over its order: the number of boxes grows fast with it.
    """
    front = np.flatnonzero(_is_pareto_front(losses, assume_unique_lexsorted=False))
    ends = np.unique(np.argmin(losses[front], axis=0))
    inner = np.setdiff1d(np.lexsort(losses[front].T[::-1]), ends, assume_unique=False)
    most = (MOST_ON_A_FRONT if losses.shape[1] <= 3 else FEW_ON_A_FRONT) - len(ends)
    kept = inner[np.unique(np.linspace(0, len(inner) - 1, min(most, len(inner))).astype(int))] if len(inner) else inner
    rows: NDArray[np.intp] = front[np.concatenate([ends, kept])]
    return rows
