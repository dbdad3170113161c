"""What is the history made of that a task is tuned again with?

Everything is drawn at random but always the same: by the name of the task, and where tasks or runs are drawn (`thin`,
`few`) also by the seed, so that seeds average over draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpo.arrays import Array
from hpo.replay.problem import PastRuns, Problem
from hpo.replay.tables import RecordedFamily, RecordedTask
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import SpaceMapping, relate
from storage.arrays import TrialArrays
from storage.families import Family
from storage.summaries import TRIALS, TRIALS_OF_A_STUDY, StudySample, sample_study

REGIMES = {
    "full": "all other tasks with all their runs",
    "thin": "3 other tasks, 30 random runs each",
    "few": "10 other tasks, 30 random runs each",
    "permuted": "the values of each past task permuted: a history that says nothing",
    "reversed": "the order of each past task's values reversed: a history that misleads",
    "junk": "30% of the past tasks reversed",
    "rescaled": "each past loss times 50 plus 3",
    "shifted-space": "the past searched another space: one range cut by a third, one wider, one parameter missing",
    "none": "no past at all",
}
DRAWN = {"thin": 3, "few": 10}  # past tasks, of which each has ...
DRAWN_RUNS = 30
JUNK = 0.3  # of the past tasks
FACTOR, SHIFT = 50.0, 3.0  # of the losses on another scale
CUT = 1 / 3  # of a range
WIDENED = 0.5  # by how much of its length a range was wider
VARIANTS = 3  # of the other space; each task meets one

Change = Callable[[RecordedTask], Array]


class Problems:
    """The problems of a family under one regime; what several of them share is made once."""

    def __init__(self, family: RecordedFamily, regime: str) -> None:
        self._family = family
        self._regime = regime
        self._same_space = relate(family.space, family.space)
        self._known: dict[tuple[str, str], PastRuns | None] = {}
        self._shifts: dict[int, _Shift] = {}
        self._latest: tuple[str, int, Problem] | None = None

    @property
    def depends_on_seed(self) -> bool:
        """Whether the history is drawn anew for each seed."""
        return self._regime in DRAWN

    def of(self, task: RecordedTask, seed: int) -> Problem:
        """The problem to tune `task` again."""
        drawn_by = seed if self.depends_on_seed else 0
        if self._latest is not None and self._latest[:2] == (task.name, drawn_by):
            return self._latest[2]
        problem = Problem(
            name=task.name,
            encoding=self._family.encoding,
            configurations=self._family.params(task.internal),
            points=task.points,
            maximize=self._family.maximize,
            past=self._past(task, drawn_by),
        )
        self._latest = (task.name, drawn_by, problem)
        return problem

    def _past(self, target: RecordedTask, seed: int) -> Sequence[PastRuns]:
        others = [task for task in self._family.tasks if task.name != target.name]
        match self._regime:
            case "full":
                found = [self._shared(task, "as it is", _losses) for task in others]
            case "thin" | "few":
                found = self._drawn(
                    others, DRAWN[self._regime], np.random.default_rng([crc32(target.name.encode()), seed])
                )
            case "permuted":
                found = [self._shared(task, "permuted", _permuted) for task in others]
            case "reversed":
                found = [self._shared(task, "reversed", _reversed) for task in others]
            case "junk":
                junk = np.random.default_rng(crc32(target.name.encode())).permutation(len(others))
                bad = set(junk[: round(JUNK * len(others))].tolist())
                found = [
                    self._shared(task, "reversed", _reversed) if i in bad else self._shared(task, "as it is", _losses)
                    for i, task in enumerate(others)
                ]
            case "rescaled":
                found = [self._shared(task, "rescaled", _rescaled) for task in others]
            case "shifted-space":
                found = [self._in_other_space(task, crc32(target.name.encode()) % VARIANTS) for task in others]
            case _:
                found = []
        return tuple(past for past in found if past is not None)

    def _shared(self, task: RecordedTask, key: str, change: Change) -> PastRuns | None:
        if (task.name, key) not in self._known:
            self._known[task.name, key] = self._runs(task, change(task))
        return self._known[task.name, key]

    def _drawn(self, others: Sequence[RecordedTask], count: int, rng: np.random.Generator) -> list[PastRuns | None]:
        chosen = sorted(rng.permutation(len(others))[:count].tolist())
        return [
            self._runs(others[i], others[i].losses, rng.permutation(len(others[i].losses))[:DRAWN_RUNS]) for i in chosen
        ]

    def _runs(self, task: RecordedTask, losses: Array, rows: Any = slice(None)) -> PastRuns:
        return PastRuns(
            name=task.name,
            X=task.points[rows],
            losses=losses[rows],
            sample=self._sample(self._family.family, self._family.space, task, task.internal[rows], losses[rows]),
            mapping=self._same_space,
        )

    def _sample(
        self, family: Family, space: SearchSpace, task: RecordedTask, internal: Array, losses: Array
    ) -> StudySample:
        """What the store's summary of the family would hold of the task."""
        n = len(losses)
        names = tuple(space.distributions)
        arrays = TrialArrays(
            names=names,
            distributions=tuple(space.distributions.values()),
            study_ids=np.full(n, 1 + self._family.tasks.index(task)),
            numbers=np.arange(n),
            states=np.full(n, TrialState.COMPLETE.value),
            values=-losses if self._family.maximize else losses,
            internal=internal,
            costs=np.full(n, np.nan),
        )
        sample = sample_study(family, task.name, arrays, np.arange(n))
        assert sample is not None
        most = int(np.clip(TRIALS // len(self._family.tasks), *TRIALS_OF_A_STUDY))
        return replace(sample, values=sample.values[:most], internal=sample.internal[:most])

    def _in_other_space(self, task: RecordedTask, variant: int) -> PastRuns | None:
        key = (task.name, f"variant {variant}")
        if key not in self._known:
            if variant not in self._shifts:
                self._shifts[variant] = _Shift.of(self._family, variant)
            self._known[key] = self._translated(task, self._shifts[variant])
        return self._known[key]

    def _translated(self, task: RecordedTask, shift: _Shift) -> PastRuns | None:
        """The runs that the other space has, translated back one by one; None where fewer than two are left."""
        kept = np.flatnonzero(shift.has(task.internal))
        internal = task.internal[np.ix_(kept, shift.columns)]
        distributions = list(shift.space.distributions.items())
        said = [
            shift.mapping.translate(
                {
                    name: distribution.to_external_repr(float(value))
                    for (name, distribution), value in zip(distributions, row, strict=True)
                    if not np.isnan(value)
                }
            )
            for row in internal
        ]
        translated = [(row, params) for row, params in enumerate(said) if params is not None]
        if len(translated) < 2:
            return None
        rows = [row for row, _ in translated]
        losses = task.losses[kept]
        return PastRuns(
            name=task.name,
            X=self._family.encoding.encode([params for _, params in translated]),
            losses=losses[rows],
            sample=self._sample(shift.family, shift.space, task, internal, losses),
            mapping=shift.mapping,
        )


def _losses(task: RecordedTask) -> Array:
    return task.losses


def _permuted(task: RecordedTask) -> Array:
    return np.random.default_rng([crc32(task.name.encode()), 1]).permutation(task.losses)


def _reversed(task: RecordedTask) -> Array:
    losses: Array = task.losses.max() + task.losses.min() - task.losses
    return losses


def _rescaled(task: RecordedTask) -> Array:
    return FACTOR * task.losses + SHIFT


# Another space


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shift:
    """The space that the past searched, and how it relates to the present one."""

    family: Family
    space: SearchSpace
    mapping: SpaceMapping
    columns: NDArray[np.intp]  # of the present space, in the order of the past one
    limits: tuple[tuple[int, float, float], ...]  # present column, least and greatest value that the past had

    @classmethod
    def of(cls, family: RecordedFamily, variant: int) -> _Shift:
        """One of several other spaces of a family: what the space is too small for stays as it is."""
        rng = np.random.default_rng([crc32(family.family.name.encode()), variant])
        parents = {condition.parent for condition in family.space.conditions.values()}
        names = [str(name) for name in rng.permutation(list(family.space.distributions)) if name not in parents]
        ranges = [name for name in names if _is_range(family.space.distributions[name])]
        cut = ranges[0] if ranges else None
        wider = ranges[1] if len(ranges) > 1 else None
        others = [name for name in names if name not in (cut, wider)]
        dropped = others[0] if others else (wider if len(family.space.distributions) > 1 else None)
        fields = {name: dict(known) for name, known in family.family.space.items() if name != dropped}
        limits = []
        for name in fields:
            distribution = family.space.distributions[name]
            if name == cut:
                low, high = _cut(distribution, from_below=bool(rng.integers(2)))
                limits.append((family.encoding.names.index(name), low, high))
            elif name == wider:
                low, high = _widened(distribution)
            else:
                continue
            fields[name] |= {"low": low, "high": high}
        past = replace(family.family, space=fields)
        space = SearchSpace.from_json(fields)
        return cls(
            family=past,
            space=space,
            mapping=relate(space, family.space),
            columns=np.array([family.encoding.names.index(name) for name in space.distributions], dtype=np.intp),
            limits=tuple(limits),
        )

    def has(self, internal: Array) -> NDArray[np.bool_]:
        """Which configurations (n, d) of the present space it has, but for what it does not search."""
        inside = np.ones(len(internal), dtype=bool)
        for column, low, high in self.limits:
            values = internal[:, column]
            inside &= np.isnan(values) | ((values >= low) & (values <= high))
        return inside


def _is_range(distribution: BaseDistribution) -> bool:
    if not isinstance(distribution, FloatDistribution | IntDistribution) or distribution.single():
        return False
    return distribution.step is None or (isinstance(distribution, IntDistribution) and distribution.step == 1)


def _cut(distribution: BaseDistribution, *, from_below: bool) -> tuple[float, float]:
    low, high = _place(distribution, CUT), _place(distribution, 1.0)
    if not from_below:
        low, high = _place(distribution, 0.0), _place(distribution, 1.0 - CUT)
    return low, high


def _widened(distribution: BaseDistribution) -> tuple[float, float]:
    return _place(distribution, 0.0), _place(distribution, 1.0 + WIDENED)


def _place(distribution: BaseDistribution, share: float) -> float:
    """The value so far along a range, on its scale; 0 and 1 are its ends exactly."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if share in (0.0, 1.0):
        return high if share else low
    value = low * (high / low) ** share if distribution.log else low + share * (high - low)
    return float(round(value)) if isinstance(distribution, IntDistribution) else value
