"""What is a configuration, or a part of one, worth in the mean of past tasks, and in a new one?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats.qmc import Sobol

from hpo.decisions.past_effects import PastEffects
from hpo.errors import NoHistoryError, SettingsError
from hpo.spaces.encoding import encode_value
from hpo.spaces.parameter_axes import Axis
from hpo.spaces.space import describe
from hpo.statistics.random_effects import FEWEST_TASKS

DESIGN = 1024  # configurations over which the parameters that are left open are spread: a power of two


@dataclass(frozen=True, kw_only=True)
class Worth:
    """How much better than the mean of the whole space; higher is better."""

    fixed: Mapping[str, Any]  # the parameters that were given
    mean: float  # over past tasks
    interval95: tuple[float, float]  # for that mean
    prediction95: tuple[float, float] | None  # for a new task; None for fewer than three past ones
    tau: float | None  # how much tasks differ, a standard deviation
    tasks: int


def worth(found: PastEffects, params: Mapping[str, Any]) -> Worth:
    """What a configuration is worth; parameters that it leaves open are spread evenly over their ranges.

    Numbers and choices may be texts, as a form sends them. Raises NoHistoryError; SettingsError for what is no
    parameter, or no value of it.
    """
    adjustment = found.adjustment
    if adjustment is None:
        raise NoHistoryError(f"no task of {found.target!r} has two different outcomes")
    cube = Sobol(len(found.axes.axes), rng=np.random.default_rng(0)).random(DESIGN)
    fixed = {}
    for name, given in params.items():
        j = found.place_of(name)
        axis = found.axes.axes[j]
        fixed[name] = value = _value(axis, given)
        coordinate = encode_value(axis.distribution, value)
        cube[:, j] = (coordinate + 0.5) / axis.choices if axis.choices else coordinate
    points, _ = found.axes.design(cube)
    estimate = adjustment.over(points)
    tasks = int(estimate.tasks[0])
    if not np.isfinite(estimate.mean[0]):
        raise NoHistoryError("too few trials tell what that is worth")
    return Worth(
        fixed=fixed,
        mean=float(estimate.mean[0]),
        interval95=_ends(estimate.interval[0]),
        prediction95=_ends(estimate.prediction[0]) if tasks >= FEWEST_TASKS else None,
        tau=float(estimate.tau[0]) if tasks >= FEWEST_TASKS else None,
        tasks=tasks,
    )


def _value(axis: Axis, given: Any) -> Any:
    distribution = axis.distribution
    if isinstance(distribution, CategoricalDistribution):
        by_text = {str(choice): choice for choice in distribution.choices}
        if str(given) not in by_text:
            raise SettingsError(f"{axis.name} = {given} is none of {', '.join(by_text)}")
        return by_text[str(given)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise SettingsError(f"{axis.name} = {given} is no number") from None
    if not distribution.low <= number <= distribution.high:
        raise SettingsError(f"{axis.name} = {given} is outside {describe(distribution)}")
    if isinstance(distribution, IntDistribution) and number != int(number):
        raise SettingsError(f"{axis.name} = {given} is no whole number")
    return int(number) if isinstance(distribution, IntDistribution) else number


def _ends(ends: Any) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])
