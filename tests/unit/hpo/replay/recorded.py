"""A small recorded family for the tests of the replay: a conditional space, and tasks whose optima are close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpo.replay.problem import PastRuns, Problem
from hpo.replay.race import Race
from hpo.replay.regimes import Problems
from hpo.replay.tables import RecordedFamily, RecordedTask, recorded_task
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from storage.families import Family, family_of

SPACE: Mapping[str, Mapping[str, Any]] = {
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "width": {"type": "int", "low": 4.0, "high": 64.0},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
}


def family(tasks: int = 5, rows: int = 40, *, direction: str = "minimize", space: Any = SPACE) -> RecordedFamily:
    """Tasks `t/0`, `t/1`, …, of so many rows each."""
    described = Family(
        family_id=1,
        name=family_of(space, "val_loss", [direction]),
        metric="val_loss",
        directions=(direction,),
        space=space,
        revision=1,
        lost_at=0,
    )
    encoding = Encoding(space=SearchSpace.from_json(space))
    runs = _runs if space is SPACE else _random_runs(len(space))
    found = [recorded_task(f"t/{number}", *runs(number, rows), encoding, rows) for number in range(tasks)]
    assert all(isinstance(task, RecordedTask) for task in found), found
    return RecordedFamily(table="table", family=described, tasks=tuple(found), skipped={})  # type: ignore[arg-type]


def _runs(number: int, rows: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(number)
    lr, width = 10 ** rng.uniform(-4, 0, rows), rng.integers(4, 65, rows).astype(float)
    optimizer = rng.integers(0, 2, rows).astype(float)
    momentum = np.where(optimizer == 0, rng.uniform(0, 0.9, rows), np.nan)
    losses = (np.log10(lr) + 2 + 0.1 * number) ** 2 + width / 64 + 0.3 * optimizer
    return np.column_stack([lr, width, optimizer, momentum]), losses


def _random_runs(parameters: int) -> Callable[[int, int], tuple[Any, Any]]:
    """Runs in a space of numbers between 0 and 1."""

    def runs(number: int, rows: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(number)
        return rng.random((rows, parameters)), rng.random(rows)

    return runs


def problem(regime: str = "full", *, of: RecordedFamily | None = None, task: int = 0, seed: int = 0) -> Problem:
    """The problem to tune one of the tasks again."""
    chosen = of or family()
    return Problems(chosen, regime).of(chosen.tasks[task], seed)


def past_of(regime: str, seed: int = 0, *, of: RecordedFamily | None = None) -> list[PastRuns]:
    """What the first task's past is under a regime."""
    return list(problem(regime, of=of, seed=seed).past)


def race(of: RecordedFamily, **changes: Any) -> Race:
    """A race on all tasks of a family."""
    given = {"methods": ["random"], "regime": "full", "budget": 6, "seeds": range(2), "rows": 40, **changes}
    return Race(tasks=[(of, task) for task in of.tasks], **given)
