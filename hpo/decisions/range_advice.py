"""Where may a good value of each hyperparameter be for a new task? From the store to the statistics and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.arrays import Array, best_and_some
from hpo.errors import NoHistoryError, SettingsError
from hpo.spaces.encoding import Encoding, decode_value
from hpo.spaces.space import Condition, SearchSpace
from hpo.statistics.range_advice import ParameterAdvice, TaskRuns, range_advice
from hpo.statistics.rates import rate_interval
from storage.arrays import TrialArrays, counted_values, family_arrays
from storage.database import Store
from storage.families import list_families
from storage.history import StudySummary, list_studies

MOST_TASKS = 256  # the latest
MOST_RUNS = 384  # of a task: the better half and a random one
LEAST_RUNS = 3  # of a task, to say anything
DIGITS = 3  # significant, of the ends of an interval; rounded outwards
INDIFFERENT = 0.9  # share of a range that is good for a task, from which on the parameter hardly matters (heuristic)


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """What is advised for one parameter."""

    name: str
    distribution: BaseDistribution  # the whole range
    condition: Condition | None  # under which it matters
    likely: tuple[Any, ...]  # (low, high), or choices
    statistics: ParameterAdvice
    axis: tuple[Any, ...]  # the values that were compared

    @property
    def is_everything(self) -> bool:
        """Whether nothing could be left out."""
        return bool(self.statistics.inside.all())

    @property
    def hardly_matters(self) -> bool:
        """Whether nearly every value is good for nearly every task."""
        return self.statistics.indifference >= INDIFFERENT

    @property
    def hit_interval(self) -> tuple[float, float]:
        """The 95% interval for the rate at which new tasks are hit."""
        return rate_interval(float(self.statistics.hits.sum()), len(self.statistics.hits))


@dataclass(frozen=True, kw_only=True, eq=False)
class Advice:
    """What the past tasks of a family advise for a new one."""

    target: str
    family: str
    metric: str | None
    direction: str
    tasks: tuple[str, ...]
    own_task: str | None  # the task that was asked about, if its runs are among them
    runs: int
    left_out: tuple[str, ...]  # tasks that say too little
    regions: tuple[Region, ...]
    unused: tuple[str, ...]  # parameters that no run has used, or that have one value only
    joint_hits: Array  # (t,)

    @property
    def joint_rate(self) -> float:
        """The share of tasks with a good configuration inside all regions at once, each left out of its own advice."""
        return float(self.joint_hits.mean())

    @property
    def joint_interval(self) -> tuple[float, float]:
        """The 95% interval for that share among new tasks."""
        return rate_interval(float(self.joint_hits.sum()), len(self.joint_hits))


def advise(store: Store, target: str, *, together: bool = False, seed: int = 0) -> Advice:
    """The advice of a family for a new task; of a task: that of its family, where it counts as one task like others.

    together: regions so large that good configurations lie inside all of them at once.
    Raises NoHistoryError, and SettingsError for a family with several objectives.
    """
    studies = list_studies(store)
    family, own_task = _family_of(studies, target)
    members = {study.study_id: study for study in studies if study.family == family}
    first = next(iter(members.values()))
    if len(first.directions) != 1:
        raise SettingsError(f"{family!r} has {len(first.directions)} objectives; ranges are advised for one")
    found = next(known for known in list_families(store) if known.name == family)
    space = SearchSpace.from_json(found.space)
    encoding = Encoding(space=space)
    arrays = family_arrays(store, family)
    rows = _rows_by_task(arrays, members)
    maximize = first.directions[0] == "maximize"
    looks = {task: _runs(task, arrays, of, encoding, maximize=maximize) for task, of in rows.items()}
    tasks = [look for look in looks.values() if look is not None]
    if not tasks:
        raise NoHistoryError(f"{target!r} has no task with {LEAST_RUNS} finished runs yet")
    found_advice = range_advice(tasks, encoding, seed=seed, together=together)
    regions = [_region(space, of) for of in found_advice.parameters]
    return Advice(
        target=target,
        family=family,
        metric=first.metric,
        direction=first.directions[0],
        tasks=found_advice.tasks,
        own_task=own_task if own_task in found_advice.tasks else None,
        runs=sum(len(rows[task.name]) for task in tasks),
        left_out=tuple(task for task, look in looks.items() if look is None),
        regions=tuple(regions),
        unused=tuple(name for name in encoding.names if name not in {region.name for region in regions}),
        joint_hits=found_advice.joint_hits,
    )


def _family_of(studies: Sequence[StudySummary], target: str) -> tuple[str, str | None]:
    """The family that is meant, and the task if one was named: its family with most trials."""
    if any(study.family == target for study in studies):
        return target, None
    own = [study for study in studies if study.task == target]
    if not own:
        known = dict.fromkeys(name for study in studies for name in (study.family, study.task) if name)
        names = "\n".join(f"  {name}" for name in known) or "  (the history is empty)"
        raise NoHistoryError(f"there is no task or family {target!r} in the history; there are:\n{names}")
    trials: defaultdict[str, int] = defaultdict(int)
    for study in own:
        trials[study.family] += study.trials
    return max(trials, key=lambda family: trials[family]), target


def _rows_by_task(arrays: TrialArrays, members: dict[int, StudySummary]) -> dict[str, NDArray[np.intp]]:
    """The rows of the latest tasks, studies of one task taken together."""
    rows: dict[str, list[NDArray[np.intp]]] = {}
    for study_id, of in arrays.by_study.items():
        study = members.get(study_id)
        if study is not None:  # else it has come in this moment
            rows.setdefault(study.task or study.name, []).append(of)
    return {task: np.concatenate(rows[task]) for task in list(rows)[-MOST_TASKS:]}


def _runs(
    task: str, arrays: TrialArrays, rows: NDArray[np.intp], encoding: Encoding, *, maximize: bool
) -> TaskRuns | None:
    values = counted_values(arrays.states[rows], arrays.values[rows], maximize=maximize)
    if len(rows) < LEAST_RUNS or np.isnan(values).all():
        return None
    losses = -values if maximize else values
    order = best_and_some(losses, MOST_RUNS, np.random.default_rng(0))
    raw = encoding.raw([arrays.params(row) for row in rows[order]])
    uses = np.asarray(~np.isnan(raw).all(axis=0))
    return TaskRuns(name=task, X=encoding.canonical(raw), losses=losses[order], uses=uses)


# Back to values


def _region(space: SearchSpace, advice: ParameterAdvice) -> Region:
    distribution = space.distributions[advice.name]
    return Region(
        name=advice.name,
        distribution=distribution,
        condition=space.conditions.get(advice.name),
        likely=_likely(distribution, advice),
        statistics=advice,
        axis=tuple(decode_value(distribution, coordinate) for coordinate in advice.values),
    )


def _likely(distribution: BaseDistribution, advice: ParameterAdvice) -> tuple[Any, ...]:
    chosen = advice.values[advice.inside]
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices[int(place)] for place in chosen)
    low, high = chosen.min(), chosen.max()
    if isinstance(distribution, IntDistribution):
        return decode_value(distribution, low), decode_value(distribution, high)
    if low == high:  # one value would do; an interval is as wide as the values are apart
        half = 0.5 / (len(advice.values) - 1)
        low, high = max(low - half, 0.0), min(high + half, 1.0)
    ends = decode_value(distribution, low), decode_value(distribution, high)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is not None:
        return ends
    return max(_rounded(ends[0], -1), distribution.low), min(_rounded(ends[1], 1), distribution.high)


def _rounded(value: float, towards: int) -> float:
    """The value to a few significant digits, not inwards."""
    if value == 0.0:
        return 0.0
    unit = 10.0 ** (np.floor(np.log10(abs(value))) - DIGITS + 1)
    steps = value / unit
    nearest = np.round(steps) if abs(steps - np.round(steps)) < 1e-6 else (np.floor if towards < 0 else np.ceil)(steps)
    return float(f"{nearest * unit:.{DIGITS}g}")
