"""What will a study reach, and what will it cost? The answer of `hpo plan` as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import TypedDict

from hpo.answers.plain import Number
from hpo.statistics.progress_bands import milestones

if TYPE_CHECKING:
    from hpo.decisions.forecast import Estimate, Forecast, Stage


class Expectation(TypedDict):
    """What is expected, and between what it lies for 95 of 100 new tasks."""

    expected: Number
    interval95: list[float] | None  # null: too few past tasks to say so


class Milestone(TypedDict):
    """What is foretold for one number of trials."""

    trials: int
    tasks: int  # that are known at that number of trials
    value: Expectation | None  # of the metric
    share_of_the_way: Expectation | None  # from a task's median trial to the best that is known of it
    held: int | None  # of these tasks, each foretold from the others
    hours: Expectation | None
    money: Expectation | None


class Calibration(TypedDict):
    """How often bands were right, for past tasks that were left out in turn."""

    hits: int
    cases: int


class Plan(TypedDict):
    """What a study will reach, how long it will take and what it will cost."""

    study: str
    task: str
    family: str
    metric: str
    direction: str
    enough: bool  # whether there is history enough to say so
    statement: str | None  # why there is not
    scale: Literal["metric", "share"]  # what is foretold: the value, or the share of the way
    past_tasks: list[str]
    replayed: int  # of them
    held: Calibration | None
    jobs: int
    price_per_hour: Number
    failed: Number  # share of the trials
    pruned: Number
    stages: list[Milestone]
    notes: list[str]


def forecast_fields(found: Forecast) -> Plan:
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


def _estimate_fields(estimate: Estimate | None) -> Expectation | None:
    if estimate is None:
        return None
    band = None if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]
    return {"expected": estimate.expected, "interval95": band}


def shown_stages(found: Forecast) -> list[Stage]:
    """Of all numbers of trials, those that tell the course."""
    return [found.stages[trials - 1] for trials in milestones(len(found.stages))]
