"""Where does a good value of each parameter lie? The answer of `hpo advise` as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution
from typing_extensions import TypedDict

from hpo.answers.plain import Number
from storage.distributions import fields_of

if TYPE_CHECKING:
    from hpo.decisions.range_advice import Advice, Region


class AdvisedRange(TypedDict):
    """The smallest region of one parameter that holds a good value for most tasks."""

    name: str
    distribution: Mapping[str, Any]  # all of it, as a study file has it
    range: list[Any]  # its ends, or its choices
    log: bool
    when: dict[str, list[Any]] | None  # the parameter that decides whether it matters, and its values then
    likely: list[Any]  # the ends of the region, or its choices
    is_everything: bool
    kept: Number  # share of the range
    promise: Number  # probability for a new task
    tasks: int
    hits: Number  # tasks, each left out in turn, with a good value there
    hit_rate: Number
    hit_rate_interval95: list[float] | None
    hardly_matters: bool


class JointAdvice(TypedDict):
    """The share of tasks with one good configuration inside every region."""

    hit_rate: Number
    hit_rate_interval95: list[float]


class RangeAdvice(TypedDict):
    """Where a good value of each hyperparameter lies for a new task."""

    target: str
    family: str
    metric: str | None
    direction: str
    tasks: list[str]
    own_task: str | None  # the target, where its own runs count among them
    runs: int
    left_out: list[str]  # tasks with too few finished runs
    unused: list[str]  # parameters that never varied
    together: bool  # whether the regions were widened to hold at once
    parameters: list[AdvisedRange]
    joint: JointAdvice | None


def advice_fields(advice: Advice, *, together: bool) -> RangeAdvice:
    """Where good values are likely. together: whether the regions were widened to hold at once."""
    return {
        "target": advice.target,
        "family": advice.family,
        "metric": advice.metric,
        "direction": advice.direction,
        "tasks": list(advice.tasks),
        "own_task": advice.own_task,
        "runs": advice.runs,
        "left_out": list(advice.left_out),
        "unused": list(advice.unused),
        "together": together,
        "parameters": [_region_fields(region) for region in advice.regions],
        "joint": None
        if len(advice.tasks) == 1
        else {"hit_rate": advice.joint_rate, "hit_rate_interval95": list(advice.joint_interval)},
    }


def _region_fields(region: Region) -> AdvisedRange:
    is_choice = isinstance(region.distribution, CategoricalDistribution)
    several = len(region.statistics.tasks) > 1
    return {
        "name": region.name,
        "distribution": fields_of(region.distribution),
        "range": [*region.distribution.choices] if is_choice else [region.distribution.low, region.distribution.high],  # type: ignore[attr-defined]
        "log": bool(getattr(region.distribution, "log", False)),
        "when": None if region.condition is None else {region.condition.parent: list(region.condition.values)},
        "likely": list(region.likely),
        "is_everything": region.is_everything,
        "kept": region.statistics.kept,
        "promise": region.statistics.promise,
        "tasks": len(region.statistics.tasks),
        "hits": float(region.statistics.hits.sum()),
        "hit_rate": region.statistics.hit_rate if several else None,
        "hit_rate_interval95": list(region.hit_interval) if several else None,
        "hardly_matters": region.hardly_matters,
    }
