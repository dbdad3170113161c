"""What will a study reach, and what will it cost? The answer of `hpo plan` as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.statistics.progress_bands import milestones

if TYPE_CHECKING:
    from hpo.decisions.forecast import Estimate, Forecast, Stage


def forecast_fields(found: Forecast) -> dict[str, Any]:
    """What a study will reach, and what it will take, at some numbers of trials."""
    return {
        "study": found.study,
        "task": found.task,
        "family": found.family,
        "metric": found.metric,
        "direction": found.direction,
        "enough": found.missing is None,
        "statement": found.missing,
        "scale": found.scale,
        "past_tasks": list(found.tasks),
        "replayed": found.replayed,
        "held": None if found.held is None else {"hits": found.held[0], "cases": found.held[1]},
        "jobs": found.jobs,
        "price_per_hour": found.price_per_hour,
        "failed": found.failed,
        "pruned": found.pruned,
        "stages": [
            {
                "trials": stage.trials,
                "tasks": stage.tasks,
                "value": _estimate_fields(stage.value),
                "share_of_the_way": _estimate_fields(stage.way),
                "held": stage.held,
                "hours": _estimate_fields(stage.hours),
                "money": _estimate_fields(stage.money),
            }
            for stage in shown_stages(found)
        ],
        "notes": list(found.notes),
    }


def _estimate_fields(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    band = None if estimate.low is None else [estimate.low, estimate.high]
    return {"expected": estimate.expected, "interval95": band}


def shown_stages(found: Forecast) -> list[Stage]:
    """Of all numbers of trials, those that tell the course."""
    return [found.stages[trials - 1] for trials in milestones(len(found.stages))]
