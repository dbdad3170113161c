"""Where does a good value of each parameter lie? The answer of `hpo advise` as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from storage.distributions import fields_of

if TYPE_CHECKING:
    from hpo.decisions.range_advice import Advice, Region


def advice_fields(advice: Advice, *, together: bool) -> dict[str, Any]:
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


def _region_fields(region: Region) -> dict[str, Any]:
    is_choice = isinstance(region.distribution, CategoricalDistribution)
    several = len(region.statistics.tasks) > 1
    return {
        "name": region.name,
        "distribution": fields_of(region.distribution),
        "range": region.distribution.choices if is_choice else [region.distribution.low, region.distribution.high],  # type: ignore[attr-defined]
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
