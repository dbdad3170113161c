"""Is one study better than another, or one configuration than another? From the store to the statistics.

Studies: their incumbents after equally many trials, and at their ends, in pairs of the same task (and seed). A side may
be a pattern, `ours/*`: every study that it matches is one run of that side.
Studies without a task, as plain Optuna scripts make them, are taken as runs on one, which is said.
Configurations, `STUDY#TRIAL`: their fresh replicates, in pairs of the same seed where there are some; what a trial was
chosen by is not among them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import numpy as np

from hpo.arrays import Array
from hpo.errors import NoHistoryError, SettingsError
from hpo.settings import storage_url
from hpo.statistics.best import LossUnits
from hpo.statistics.comparison import Comparison, compare_pairs, compare_samples, holm
from hpo.studies.replicates import REPLICATE, SUFFIX, is_usable, replicates_of, value_of
from hpo.tuning.known_noise import occasion_of
from storage import history
from storage.database import Store
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.history import StudySummary
from storage.schema import open_store

COUNTS = (1, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)  # trials after which incumbents are compared
SHOWN_NAMES = 4  # of studies, in a note
SHOWN_COUNTS = 4  # of them, the last ones
ASSUMED_TASK = "the assumed task"  # of studies without one
OWN_UNIT = "task spreads"  # of differences over several tasks, each on its own scale

Kind: TypeAlias = Literal["studies", "configurations"]
Seed: TypeAlias = tuple[str, int | float | None]  # as `hpo.tuning.known_noise.occasion_of` says it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two sides came to under the same circumstances."""

    label: str
    gain: float  # of the first side, positive where it is better


@dataclass(frozen=True, kw_only=True)
class Row:
    """The first side against another, at one place."""

    first: str
    other: str
    at: str  # "after 10 trials", "at the end", "replicates"
    n: int  # pairs; of an unpaired comparison the smaller sample
    is_paired: bool
    gain: float | None  # of the first side, positive where it is better
    gain_interval95: tuple[float, float] | None
    unit: str  # of the gain: the metric, or `OWN_UNIT`
    effect: str  # which estimate the gain is
    test: str
    p: float | None
    p_holm: float | None  # corrected for all sides that the first is compared with
    superiority: float | None  # probability that the first side is better in a pair
    is_decided: bool  # whether that is enough to say which is better
    verdict: str  # in words
    needed: int | None  # pairs that would probably be enough
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """How the first of several sides compares with each of the others."""

    kind: Kind
    metric: str
    direction: str
    sides: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def compare(first: str, *others: str, storage: str | Store | None = None) -> Comparisons:
    """Compare a side with each of the others: studies by name or pattern, or trials as `STUDY#TRIAL`.

    storage: the history, or its URL. Raises SettingsError, StudyNotFoundError, TrialNotFoundError, NoHistoryError.
    """
    names = (first, *others)
    if len(names) < 2:
        raise SettingsError("one side cannot be compared; name another study, or another trial as STUDY#TRIAL")
    if len(set(names)) < len(names):
        raise SettingsError(f"{next(name for name in names if names.count(name) > 1)!r} is named twice")
    store = storage if isinstance(storage, Store) else open_store(storage_url(storage), upgrade=False)
    known = history.list_studies(store)
    by_name = {study.name: study for study in known}
    trials = {name: _trial_named(name, by_name) for name in names}
    if all(trials.values()):
        return _configurations(store, [(name, *found) for name, found in trials.items() if found is not None])
    if any(trials.values()):
        one = next(name for name, found in trials.items() if found is not None)
        raise SettingsError(f"{one!r} is a trial and not all of the others are; compare trials with trials")
    return _studies(store, {name: members_of(name, known) for name in names})


# Studies --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Course:
    """A run of a study: its incumbents."""

    study: StudySummary
    task: str  # on which it is paired with runs of another side
    incumbents: Array  # (k,) losses after each finished trial; NaN before the first success
    losses: Array  # (n,) of its complete trials

    @property
    def seed(self) -> str:
        """By which it is paired with a run of another side; empty where nobody has noted one."""
        if self.study.spec is None:
            return ""
        seeds = {"tuner": 0, "training": 0, **self.study.spec.get("seeds", {})}
        return f"{seeds['tuner']}/{seeds['training']}"


def _studies(store: Store, sides: Mapping[str, Sequence[StudySummary]]) -> Comparisons:
    everyone = [study for members in sides.values() for study in members]
    metric, direction = _shared(everyone)
    sign = -1.0 if direction == "maximize" else 1.0
    courses = {name: [_course(store, study, sign) for study in members] for name, members in sides.items()}
    first, *others = sides
    notes: list[str] = []
    if _are_taken_as_one_task(sides.values()):
        notes.append(_assumption(everyone))
        courses = {name: [replace(each, task=ASSUMED_TASK) for each in members] for name, members in courses.items()}
    spreads = _task_spreads([course for members in courses.values() for course in members])
    rows: list[tuple[str, str, list[tuple[str, float, float]], str]] = []
    for other in others:
        pairs, said = _paired(courses[first], courses[other])
        notes += [f"{first} against {other}: {sentence}" for sentence in said]
        if not pairs:
            raise NoHistoryError(
                f"{first!r} and {other!r} share no task: {_tasks(courses[first])} here, {_tasks(courses[other])} "
                "there; compare studies of the same tasks"
            )
        tasks = {pair.task for pair in pairs}
        if 1 < len(tasks) < len(pairs):
            notes.append(
                f"{first} against {other}: {len(pairs)} pairs of {len(tasks)} tasks; what is said holds for these "
                "tasks, for another one less surely"
            )
        for at, place in _places(pairs):
            values = [(pair.label, *pair.at(place)) for pair in pairs]
            scaled = [
                (label, a, b) if len(tasks) == 1 else (label, a / spreads[pair.task], b / spreads[pair.task])
                for pair, (label, a, b) in zip(pairs, values, strict=True)
            ]
            rows.append((other, at, scaled, metric if len(tasks) == 1 else OWN_UNIT))
    compared = [
        (other, at, unit, pairs, compare_pairs(_column(pairs, 1), _column(pairs, 2))) for other, at, pairs, unit in rows
    ]
    if any(len(members) == 1 for members in courses.values()):
        notes.append("one study a side is one pair: what another seed would have brought is not in it")
    return Comparisons(
        kind="studies",
        metric=metric,
        direction=direction,
        sides=tuple(sides),
        rows=tuple(_rows(first, compared)),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _CoursePair:
    """Runs of two sides on one task, with one seed where both have noted it; several are averaged."""

    task: str
    label: str
    first: Sequence[_Course]
    other: Sequence[_Course]

    @property
    def shortest(self) -> int:
        """Finished trials that every run has."""
        return min(len(course.incumbents) for course in (*self.first, *self.other))

    def at(self, place: int) -> tuple[float, float]:
        """Losses of both sides after so many trials; -1: at their ends."""
        index = place - 1 if place > 0 else -1
        a = [float(course.incumbents[index]) for course in self.first]
        b = [float(course.incumbents[index]) for course in self.other]
        return float(np.mean(a)), float(np.mean(b))


def _course(store: Store, study: StudySummary, sign: float) -> _Course:
    trials = [trial for trial in history.list_trials(store, study.study_id) if trial.state.is_finished()]
    if not any(is_usable(trial) for trial in trials):
        raise NoHistoryError(f"study {study.name!r} has no complete trial, so that it has no incumbent")
    losses = np.array([sign * value_of(trial) if is_usable(trial) else np.inf for trial in trials])
    incumbents = np.minimum.accumulate(losses)
    return _Course(
        study=study,
        task=_task(study),
        incumbents=np.where(np.isfinite(incumbents), incumbents, np.nan),
        losses=losses[np.isfinite(losses)],
    )


def _paired(first: Sequence[_Course], other: Sequence[_Course]) -> tuple[list[_CoursePair], list[str]]:
    """By task, and by seed where both sides have the same ones; the runs of a task else make one pair of means."""
    pairs, said = [], []
    for task in dict.fromkeys(course.task for course in first):
        ours = [course for course in first if course.task == task]
        theirs = [course for course in other if course.task == task]
        if not theirs:
            continue
        if len(ours) == len(theirs) == 1:
            pairs.append(_CoursePair(task=task, label=task, first=ours, other=theirs))
            continue
        by_seed = [{course.seed: course for course in side if course.seed} for side in (ours, theirs)]
        shared = [seed for seed in by_seed[0] if seed in by_seed[1]]
        if shared and [len(side) for side in by_seed] == [len(ours), len(theirs)]:
            for seed in shared:
                a, b = (side[seed] for side in by_seed)
                pairs.append(_CoursePair(task=task, label=f"{task}, seeds {seed}", first=[a], other=[b]))
            alone = len(ours) + len(theirs) - 2 * len(shared)
            if alone:
                said.append(f"{alone} run{'s' if alone > 1 else ''} on {task} left out, whose seeds only one side has")
            continue
        said.append(f"{len(ours)} and {len(theirs)} runs on {task} are averaged, for their seeds do not match")
        pairs.append(_CoursePair(task=task, label=task, first=ours, other=theirs))
    tasks = dict.fromkeys(course.task for course in (*first, *other))
    lonely = [task for task in tasks if task not in {pair.task for pair in pairs}]
    if lonely and pairs:
        said.append(f"left out, on one side only: {', '.join(lonely)}")
    return pairs, said


def _places(pairs: Sequence[_CoursePair]) -> list[tuple[str, int]]:
    """After how many trials the sides are compared: counts that all have, all that all have, and their ends."""
    shortest = min(pair.shortest for pair in pairs)
    counts = [*[count for count in COUNTS if count < shortest][1 - SHOWN_COUNTS :], shortest]
    places = [(f"after {count} trial{'s' if count != 1 else ''}", count) for count in counts]
    lengths = {len(course.incumbents) for pair in pairs for course in (*pair.first, *pair.other)}
    return places if len(lengths) == 1 else [*places, ("at the end", -1)]


def _task_spreads(courses: Sequence[_Course]) -> dict[str, float]:
    """By task, how far losses lie apart among the better ones: what a difference on it is measured by."""
    spreads = {}
    for task in {course.task for course in courses}:
        losses = np.concatenate([course.losses for course in courses if course.task == task])
        units = LossUnits.of(losses)
        spreads[task] = 1.0 if units is None else units.spread
    return spreads


def members_of(name: str, known: Sequence[StudySummary]) -> list[StudySummary]:
    """The studies that a side names, replicates left out unless they are named."""
    exact = [study for study in known if study.name == name]
    found = exact or [s for s in known if fnmatchcase(s.name, name) and not s.name.endswith(SUFFIX)]
    if not found:
        raise StudyNotFoundError.named(name, [study.name for study in known])
    return found


def _task(study: StudySummary) -> str:
    return study.task or study.name


def _are_taken_as_one_task(sides: Iterable[Sequence[StudySummary]]) -> bool:
    """Whether no study has a task, and each is a side of its own or all search one space."""
    members = list(sides)
    everyone = [study for side in members for study in side]
    if any(study.task is not None for study in everyone):
        return False
    is_one_family = everyone[0].has_parameters and len({study.family for study in everyone}) == 1
    return is_one_family or all(len(side) == 1 for side in members)


def _assumption(studies: Sequence[StudySummary]) -> str:
    names = list(dict.fromkeys(study.name for study in studies))
    shown = ", ".join(names[:SHOWN_NAMES]) + (f" and {len(names) - SHOWN_NAMES} more" if names[SHOWN_NAMES:] else "")
    return f"no task is noted for {shown}: all are taken as runs on one task, and what is said holds only if they are"


def _tasks(courses: Sequence[_Course]) -> str:
    return ", ".join(dict.fromkeys(course.task for course in courses))


def _shared(studies: Sequence[StudySummary]) -> tuple[str, str]:
    """The metric and direction that all have. Raises SettingsError where two differ."""
    for study in studies:
        if len(study.directions) != 1:
            raise SettingsError(f"study {study.name!r} has {len(study.directions)} objectives: there is no one value")
        for what, mine, its in (
            ("metric", studies[0].metric, study.metric),
            ("direction", studies[0].directions[0], study.directions[0]),
        ):
            if mine != its:
                raise SettingsError(
                    f"{studies[0].name!r} and {study.name!r} cannot be compared: the {what} is {mine} here, {its} there"
                )
    return studies[0].metric or "value", studies[0].directions[0]


# Configurations -------------------------------------------------------------------------------------------------------


def _trial_named(name: str, studies: Mapping[str, StudySummary]) -> tuple[StudySummary, int] | None:
    """The study and the number of `STUDY#TRIAL`; None for what is no such name."""
    study, mark, number = name.rpartition("#")
    if name in studies or not mark or not number.isdigit():
        return None
    if study not in studies:
        raise StudyNotFoundError.named(study, studies)
    return studies[study], int(number)


def _configurations(store: Store, sides: Sequence[tuple[str, StudySummary, int]]) -> Comparisons:
    metric, direction = _shared([study for _, study, _ in sides])
    sign = -1.0 if direction == "maximize" else 1.0
    tasks = {_task(study) for _, study, _ in sides}
    notes: list[str] = []
    if len(tasks) > 1:
        if not _are_taken_as_one_task([study] for _, study, _ in sides):
            raise SettingsError(
                f"these trials are of different tasks ({', '.join(sorted(tasks))}): compare those of one"
            )
        notes.append(_assumption([study for _, study, _ in sides]))
    values = {name: _values(store, study, number, sign, notes) for name, study, number in sides}
    first, *others = values
    rng = np.random.default_rng(0)
    compared = []
    for other in others:
        shared = [seed for seed in values[first] if seed in values[other] and seed[0] == "seed"]
        if shared or min(len(values[first]), len(values[other])) < 2:
            pairs = [(f"seed {seed[1]}", values[first][seed], values[other][seed]) for seed in shared]
            result = compare_pairs(_column(pairs, 1), _column(pairs, 2))
        else:
            pairs = []
            notes.append(f"{first} and {other} have no seed in common, so that they are compared as unpaired samples")
            result = compare_samples(np.array([*values[first].values()]), np.array([*values[other].values()]), rng)
        compared.append((other, "replicates", metric, pairs, result))
    return Comparisons(
        kind="configurations",
        metric=metric,
        direction=direction,
        sides=tuple(values),
        rows=tuple(_rows(first, compared)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _values(store: Store, study: StudySummary, number: int, sign: float, notes: list[str]) -> dict[Seed, float]:
    """The losses of a trial's configuration, by seed: its replicates, else its repetitions within the study."""
    trials = history.list_trials(store, study.study_id)
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        there = f"it has 0 … {trials[-1].number}" if trials else "it has none yet"
        raise TrialNotFoundError(f"There is no trial {number} in study {study.name!r}; {there}.")
    fresh = [each for each in replicates_of(store, study) if each.user_attrs[REPLICATE]["trial"] == number]
    failed = sum(each.state.is_finished() and not is_usable(each) for each in fresh)
    if failed:
        plural = "s" if failed > 1 else ""
        notes.append(f"{failed} replicate{plural} of {study.name}#{number} failed and say nothing here")
    usable = [each for each in fresh if is_usable(each)]
    if usable:
        return {("seed", each.user_attrs[REPLICATE]["seed"]): sign * value_of(each) for each in usable}
    repeated = [each for each in trials if is_usable(each) and each.params == trial.params and each.params]
    if len(repeated) < 2:
        notes.append(
            f"{study.name}#{number} was trained once: a single value cannot be compared. "
            f"`hpo best {shlex.quote(study.name)} --against {number} --replicates 12` trains it again on other seeds"
        )
    return {occasion_of(each): sign * value_of(each) for each in repeated}


# Both -----------------------------------------------------------------------------------------------------------------


def _column(pairs: Sequence[tuple[str, float, float]], place: int) -> Array:
    return np.array([pair[place] for pair in pairs], dtype=np.float64)


def _rows(
    first: str, compared: Sequence[tuple[str, str, str, Sequence[tuple[str, float, float]], Comparison]]
) -> list[Row]:
    """What is told of each comparison, p values corrected for the sides that the first is compared with.

    Places are not corrected for: after 10 and after 20 trials is nearly the same question.
    """
    corrected: dict[str, Iterator[float]] = {}
    for place in dict.fromkeys(at for _, at, *_ in compared):
        corrected[place] = iter(holm([each[-1].p for each in compared if each[1] == place and each[-1].p is not None]))
    rows = []
    for other, at, unit, pairs, result in compared:
        p_holm = None if result.p is None else next(corrected[at])
        is_decided = result.is_enough and p_holm is not None and p_holm < 0.05
        interval = None if result.interval is None else (-result.interval[1], -result.interval[0])
        gain = None if result.effect is None else -result.effect
        rows.append(
            Row(
                first=first,
                other=other,
                at=at,
                n=result.n,
                is_paired=result.is_paired,
                gain=gain,
                gain_interval95=interval,
                unit=unit,
                effect=result.effect_name,
                test=result.test,
                p=result.p,
                p_holm=p_holm,
                superiority=result.superiority,
                is_decided=is_decided,
                verdict=_verdict(first, other, result, is_decided=is_decided),
                needed=result.needed,
                pairs=tuple(Pair(label=label, gain=b - a) for label, a, b in pairs if np.isfinite(b - a)),
            )
        )
    return rows


def _verdict(first: str, other: str, result: Comparison, *, is_decided: bool) -> str:
    if is_decided and result.effect is not None:
        return f"{first if result.effect < 0.0 else other} is better"
    what = "pair" if result.is_paired else "value a side"
    count = f"{result.n} {what if result.n == 1 else what.replace('pair', 'pairs').replace('value', 'values')}"
    if result.is_enough:
        return f"not enough to say: one of several comparisons, and too near to chance among them ({count})"
    needed = "" if result.needed is None else f", about {result.needed} would be needed"
    constant = "; neither side varies, so that nothing tells what chance does" if result.is_constant else ""
    return f"not enough to say: {count}{needed}{constant}"
