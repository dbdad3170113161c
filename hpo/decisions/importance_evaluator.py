"""The importance of hyperparameters for any Optuna study, in Optuna's own words.

optuna.importance.get_param_importances(study, evaluator=HistoryImportanceEvaluator())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from optuna.importance import BaseImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from scipy.stats.qmc import Sobol

from hpo.spaces.inferred_conditions import inferred_conditions
from hpo.spaces.parameter_axes import Axes
from hpo.statistics.effects import Runs, on_task_scales
from hpo.statistics.importance import importance

if TYPE_CHECKING:
    from optuna.study import Study

DESIGN = 4096  # quasi-random points of the space: a power of two


class HistoryImportanceEvaluator(BaseImportanceEvaluator):
    """Shares of the outcome's variance, as `hpo stats --importance` has them; conditional parameters included.

    seed: of the trees; the same seed gives the same answer.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed

    def evaluate(
        self,
        study: Study,
        params: list[str] | None = None,
        *,
        target: Callable[[FrozenTrial], float] | None = None,
    ) -> dict[str, float]:
        """The share of each parameter's main effect, the largest first; 0 for all where too few trials say so.

        Raises ValueError for a parameter that no complete trial has, and for several objectives without a target.
        """
        if target is None and len(study.directions) > 1:
            raise ValueError("a study with several objectives needs a target: which value is it about?")
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        axes = Axes.of(
            [trial.distributions for trial in trials],
            inferred_conditions(
                [trial.params for trial in trials],
                {name: of for trial in trials for name, of in trial.distributions.items()},
            ),
        )
        names = [axis.name for axis in axes.axes]
        for name in params or []:
            if name not in names:
                raise ValueError(f"no complete trial has a parameter {name!r}; there are: {', '.join(names)}")
        found = None
        if names:
            outcomes = [target(trial) if target else trial.values[0] for trial in trials]
            points, _ = axes.design(Sobol(len(names), rng=np.random.default_rng(1)).random(DESIGN))
            found = importance(_runs(axes, trials, outcomes), points, np.random.default_rng(self._seed))
        shares = np.zeros(len(names)) if found is None else found.shares
        wanted = {
            name: float(share) for name, share in zip(names, shares, strict=True) if params is None or name in params
        }
        return dict(sorted(wanted.items(), key=lambda item: -item[1]))


def _runs(axes: Axes, trials: list[FrozenTrial], outcomes: list[float]) -> Runs:
    rows = [
        axes.values(
            list(trial.distributions),
            list(trial.distributions.values()),
            np.array(
                [[of.to_internal_repr(trial.params[name]) for name, of in trial.distributions.items()]], dtype=float
            ),
        )
        for trial in trials
    ]
    values, tasks = np.concatenate(rows), np.zeros(len(trials), dtype=np.intp)
    return Runs(
        tasks=tasks,
        outcomes=on_task_scales(tasks, np.array(outcomes, dtype=np.float64), higher_is_better=False),
        ranges=axes.ranges(values),
        points=axes.coordinates(values),
        sizes=tuple(len(axis.labels) for axis in axes.axes),
        choices=tuple(axis.choices for axis in axes.axes),
    )
