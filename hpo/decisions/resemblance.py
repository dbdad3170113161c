"""Which past tasks resemble which, by what their own runs say of the hyperparameters?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpo.decisions.past_effects import PastEffects
from hpo.errors import NoHistoryError
from hpo.statistics.task_map import task_map

FEWEST_TASKS = 3  # for a map
NEAREST = 3  # tasks that are named beside each


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another task, and how it resembles one."""

    task: str
    correlation: float  # of their response surfaces over the search space


@dataclass(frozen=True, kw_only=True)
class PlacedTask:
    """A task on the map."""

    task: str
    x: float
    y: float
    trials: int
    told: float  # 0 … 1: how much of what tasks differ by its own runs tell; the rest is taken from all tasks
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class Resemblance:
    """The map of a family's tasks."""

    tasks: tuple[PlacedTask, ...]
    kept: float  # share of the squares of the distances that two axes show
    least: float  # the correlation of the two tasks that resemble each other least
    looked_at: int  # of how many tasks, the latest
    flat: tuple[str, ...]  # tasks whose outcome depends on nothing


def resemblance(found: PastEffects) -> Resemblance:
    """The map of the tasks of a family. Raises NoHistoryError for fewer than three that say something."""
    adjustment = found.adjustment
    if adjustment is None or len(adjustment.looked_at) < FEWEST_TASKS:
        there = 0 if adjustment is None else len(adjustment.looked_at)
        raise NoHistoryError(
            f"a map takes {FEWEST_TASKS} tasks with two different outcomes; {found.target!r} has {there}"
        )
    surfaces, told = adjustment.of_tasks()
    mapped = task_map(surfaces)
    names = [found.tasks[task] for task in adjustment.looked_at]
    trials = np.bincount(found.runs.tasks, minlength=len(found.tasks))
    placed = []
    for place, task in enumerate(mapped.tasks):
        likest = np.argsort(-mapped.correlations[place], kind="stable")
        nearest = [other for other in likest if other != place][:NEAREST]
        placed.append(
            PlacedTask(
                task=names[task],
                x=float(mapped.places[place, 0]),
                y=float(mapped.places[place, 1]),
                trials=int(trials[adjustment.looked_at[task]]),
                told=float(told[task]),
                nearest=tuple(
                    Neighbour(task=names[mapped.tasks[other]], correlation=float(mapped.correlations[place, other]))
                    for other in nearest
                ),
            )
        )
    shown = set(mapped.tasks.tolist())
    return Resemblance(
        tasks=tuple(placed),
        kept=mapped.kept,
        least=float(mapped.correlations.min()),
        looked_at=len(names),
        flat=tuple(name for place, name in enumerate(names) if place not in shown),
    )
