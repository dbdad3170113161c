"""What was each hyperparameter worth in the past runs of a task or a family? From the store to the statistics."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from scipy.stats.qmc import Sobol

from hpo.arrays import Array
from hpo.errors import NoHistoryError, SettingsError
from hpo.spaces.inferred_conditions import inferred_conditions
from hpo.spaces.parameter_axes import Axes
from hpo.spaces.space import Condition, SearchSpace
from hpo.statistics.effects import (
    Adjustment,
    Counts,
    Estimates,
    Runs,
    all_pairs,
    best_of,
    on_task_scales,
    pair_counts,
    range_counts,
)
from storage import history
from storage.database import Store
from storage.overview import kinds_of
from storage.query_language import ALWAYS, parse
from storage.target_arrays import FamilyTrials, target_revisions, target_trials

if TYPE_CHECKING:
    from hpo.statistics.importance import Importance

DESIGN = 4096  # quasi-random points of the space: a power of two
SEEN = 500  # trials from which conditions are inferred where a space declares none
REMEMBERED = 8  # answers that are kept, by the state of the history they were given for

# A pruned trial counts with the value it had when it was stopped. Left out, the ranges that pruning spares would look
# no better than those it empties.


@dataclass(frozen=True, kw_only=True, eq=False)
class PastEffects:
    """The finished runs of a task or a family, and what is to be said of its hyperparameters."""

    target: str
    axes: Axes
    tasks: tuple[str, ...]  # t
    runs: Runs
    raw_units: bool
    higher_is_better: bool  # of the outcomes as they are in `runs`: always, but for raw units

    @cached_property
    def went_along(self) -> tuple[Counts, Estimates]:
        """What is in each range of each parameter, and how it came out there."""
        return range_counts(self.runs)

    @cached_property
    def adjustment(self) -> Adjustment | None:
        """The surface behind all that is adjusted; None where no task has two different outcomes."""
        cube = Sobol(len(self.axes.axes), rng=np.random.default_rng(0)).random(DESIGN)
        points, ranges = self.axes.design(cube)
        return Adjustment.of(self.runs, points, ranges)

    @cached_property
    def adjusted(self) -> Estimates | None:
        """As `went_along`, adjusted for where the other parameters were."""
        return None if self.adjustment is None else self.adjustment.of_ranges()

    @cached_property
    def best(self) -> Array | None:
        """How probable it is that a range is its parameter's best."""
        if self.adjusted is None:
            return None
        sign = 1.0 if self.higher_is_better else -1.0
        return best_of(self.adjusted, self.runs.sizes, np.random.default_rng(0), sign=sign)

    @cached_property
    def importance(self) -> Importance | None:
        """Which parameters the outcome depends on; None where too few runs say so."""
        from hpo.statistics.importance import importance  # noqa: PLC0415 - scikit-learn is slow to import

        cube = Sobol(len(self.axes.axes), rng=np.random.default_rng(1)).random(DESIGN)
        points, _ = self.axes.design(cube)
        return importance(self.runs, points, np.random.default_rng(0))

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of parameters that are ever active together."""
        active = self.runs.ranges >= 0
        together = active.T.astype(np.float64) @ active.astype(np.float64)
        return [(i, j) for i, j in all_pairs(len(self.axes.axes)) if together[i, j] > 0]

    def pair_effects(self, pairs: Sequence[tuple[int, int]]) -> tuple[Counts, Estimates, Estimates | None]:
        """What is in each cell of some pairs, how it came out there, and the same adjusted."""
        counts, went_along = pair_counts(self.runs, pairs)
        return counts, went_along, None if self.adjustment is None else self.adjustment.of_pairs(pairs)

    def place_of(self, parameter: str) -> int:
        """The axis of that name. Raises SettingsError."""
        names = [axis.name for axis in self.axes.axes]
        if parameter not in names:
            raise SettingsError(f"{self.target!r} has no parameter {parameter!r}; it has: {', '.join(names)}")
        return names.index(parameter)


_known: OrderedDict[tuple[Any, ...], PastEffects] = OrderedDict()


def past_effects(store: Store, target: str, *, where: str = "", raw_units: bool = False) -> PastEffects:
    """The runs of a task or a family, studies of one task taken together, as of now.

    where: only those that meet a condition (`storage.query_language`). raw_units: outcomes as they were recorded, of
    one task. A repeated question is answered from memory as long as nothing has changed.
    Raises NoHistoryError, QueryError, and SettingsError for several tasks in raw units.
    """
    condition = parse(where)
    key = store.url, target, str(condition), raw_units, target_revisions(store, target)
    if key in _known:
        _known.move_to_end(key)
        return _known[key]
    found = target_trials(store, target, condition)
    if not found:
        raise _nothing(store, target, is_filtered=condition != ALWAYS and bool(key[-1]))
    answer = _effects(target, found, raw_units=raw_units)
    _known[key] = answer
    if len(_known) > REMEMBERED:
        _known.popitem(last=False)
    return answer


def _nothing(store: Store, target: str, *, is_filtered: bool) -> NoHistoryError:
    if is_filtered:
        return NoHistoryError(f"no finished trial of {target!r} meets the condition")
    studies = history.list_studies(store)
    members = [study for study in studies if target in (study.family, study.task)]
    finished = [study for study in members if any(n for state, n in study.counts.items() if state.is_finished())]
    if finished and not any(study.has_parameters for study in finished):
        return NoHistoryError(f"none of the finished trials of {target!r} has a parameter")
    if members or {"family", "task"} & set(kinds_of(store, target)):
        return NoHistoryError(f"{target!r} has no finished trial yet")
    known = dict.fromkeys(name for study in studies for name in (study.task, study.family) if name)
    names = "\n".join(f"  {name}" for name in known) or "  (the history is empty)"
    return NoHistoryError(f"there is no task or family {target!r} in the history; there are:\n{names}")


def _effects(target: str, found: Sequence[FamilyTrials], *, raw_units: bool) -> PastEffects:
    spaces = [SearchSpace.from_json(each.family.space) for each in found]
    axes = Axes.of([space.distributions for space in spaces], _conditions(found, spaces))
    names, tasks = _tasks(found)
    values = _joined(
        [axes.values(each.arrays.names, each.arrays.distributions, each.arrays.internal) for each in found]
    )
    states = np.concatenate([each.arrays.states for each in found])
    outcomes = np.concatenate([each.arrays.values for each in found])
    outcomes = np.where(np.isfinite(outcomes) & (states != TrialState.FAIL.value), outcomes, np.nan)
    maximize = np.concatenate(
        [np.full(len(each.arrays), each.family.directions[0] == "maximize", dtype=bool) for each in found]
    )
    if (np.diff(tasks) < 0).any():
        order = np.argsort(tasks, kind="stable")
        tasks, values, outcomes, maximize = tasks[order], values[order], outcomes[order], maximize[order]
    if raw_units and len(names) > 1:
        raise SettingsError(
            f"--raw-units is for one task: {target!r} has {len(names)}, whose outcomes are on different scales; "
            f"name one, as in: hpo stats {names[-1]!r} --raw-units"
        )
    scaled = outcomes if raw_units else on_task_scales(tasks, outcomes, higher_is_better=maximize)
    return PastEffects(
        target=target,
        axes=axes,
        tasks=tuple(names),
        runs=Runs(
            tasks=tasks,
            outcomes=scaled,
            ranges=axes.ranges(values),
            points=_Coordinates(axes=axes, values=values),
            sizes=tuple(len(axis.labels) for axis in axes.axes),
            choices=tuple(axis.choices for axis in axes.axes),
        ),
        raw_units=raw_units,
        higher_is_better=bool(maximize[0]) if raw_units else True,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Coordinates:
    """The coordinates of runs, worked out for those that are asked for: of a million, few are."""

    axes: Axes
    values: Array  # (n, d) internal

    def __getitem__(self, rows: NDArray[np.intp]) -> Array:
        return self.axes.coordinates(self.values[rows])


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _tasks(found: Sequence[FamilyTrials]) -> tuple[list[str], NDArray[np.intp]]:
    """The tasks of all families, and the task of each trial; with another metric or direction it is another task."""
    kinds: dict[tuple[str, str | None, str], int] = {}
    parts = []
    for each in found:
        names, places = each.tasks
        of = [(name, each.family.metric, each.family.directions[0]) for name in names]
        for kind in of:
            kinds.setdefault(kind, len(kinds))
        parts.append(np.array([kinds[kind] for kind in of], dtype=np.intp)[places])
    several = len({kind[1:] for kind in kinds}) > 1
    labels = [f"{name} ({metric or 'value'}, {direction})" if several else name for name, metric, direction in kinds]
    return labels, np.concatenate(parts)


def _conditions(found: Sequence[FamilyTrials], spaces: Sequence[SearchSpace]) -> Mapping[str, Condition]:
    """When parameters matter: as declared, else as the trials of the latest family show."""
    declared = {name: condition for space in spaces for name, condition in space.conditions.items()}
    if declared:
        return declared
    arrays = found[-1].arrays
    rows = np.unique(np.linspace(0, len(arrays) - 1, min(len(arrays), SEEN)).astype(int)).tolist()
    distributions: dict[str, BaseDistribution] = dict(zip(arrays.names, arrays.distributions, strict=True))
    return inferred_conditions([arrays.params(row) for row in rows], distributions)
