"""How runs that people's own code has logged become tasks: each with a metric, a direction and a space.

MLflow and Lightning know names with values, and not what was tuned, nor by what it was judged. Here that is asked for
or guessed, and every guess is noted.

Which value of a curve counts: the last one that was logged, unless it can be seen that the best epoch was kept. Then
it is that of the best epoch, as for trials that run here. It can be seen where the metric `best_<metric>` is logged as
well, or where the checkpoint says which metric it monitored. All runs of a task are measured alike: what cannot be
seen in every run that has the metric does not count. `value: best` or `value: last` in a mapping file decides it.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import bindparam, select

from storage.database import Store
from storage.errors import ImportFailedError
from storage.importers.inference import (
    ABSENT,
    choose_metric,
    guess_direction,
    infer_space,
    is_technical,
    params_in,
    repair,
    split_seed,
)
from storage.importers.intake import Intake
from storage.importers.mapping import RunMapping, scaled, task_name
from storage.importers.rows import MOST_PARAMETERS
from storage.importers.runs import Curve, PastRun, PastTask
from storage.models import sources, studies, tasks
from storage.sources import SourceKind

INFINITE = 1.797e308  # some stores keep infinity as the greatest double
CANDIDATES_SHOWN = 12


@dataclass(kw_only=True, slots=True)
class LoggedRun:
    """A run as it was logged. Times are seconds since the epoch."""

    key: str  # the same at every import
    row: str  # what reports call it
    words: Mapping[str, str]  # what a task's name may be made of: experiment, run_name, folder
    params: dict[str, Any]  # before repair and mapping
    metrics: Mapping[str, float]  # the last value of each
    tags: Mapping[str, str] = field(default_factory=dict)
    stored_as: Mapping[str, str] = field(default_factory=dict)  # metrics that are called otherwise where they are
    failure: str | None = None  # why it did not finish; None: it did
    was_pruned: bool = False
    is_parent: bool = False  # of nested runs
    monitored: frozenset[str] = frozenset()  # metrics whose best epoch was kept
    started_at: float | None = None
    finished_at: float | None = None
    cost_seconds: float | None = None
    seed: int | None = None
    code_version: str | None = None
    data_fingerprint: str | None = None
    hardware: str | None = None
    user_attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user said about the runs; None: to be guessed."""

    metric: str | None
    direction: str | None
    task: str  # a template
    mapping: RunMapping


@dataclass(frozen=True, kw_only=True)
class TaskRuns:
    """The runs of one task that can be taken."""

    task: PastTask
    runs: Sequence[LoggedRun]  # with mapped parameters, oldest first
    mapping: RunMapping
    by_best: bool  # whether the best value of a curve counts, rather than the last

    def logged_metric(self, run: LoggedRun) -> str | None:
        """The name under which a run has logged the metric; None if it has not."""
        return _logged_name(run, self.task.metric, self.mapping)

    def past_run(self, run: LoggedRun, history: Curve) -> PastRun:
        """A run as it is taken. history: the logged values of the metric by step, in the order in which they came.

        Raises ValueError with the reason where the run cannot be used.
        """
        metric, factor = self.task.metric, self.mapping.factor(self.task.metric)
        logged = self.logged_metric(run)
        if logged is None and run.failure is None:
            raise ValueError(f"lacks the metric: no {metric!r}, it has {_listed(run.metrics)}")
        params = params_in(self.task.space, run.params)
        curve = [(step, scaled(_plain(value), factor)) for step, value in _by_step(history)]
        value, error = None, run.failure
        if error is None and logged is not None:
            measured = self._value(run, logged, curve, factor)
            value = measured if math.isfinite(measured) else None
            if value is None:
                error = "the metric is NaN" if math.isnan(measured) else "the metric is infinite"
        state = TrialState.COMPLETE if error is None else TrialState.FAIL
        rest = {name: repair(raw) for name, raw in run.params.items() if name not in self.task.space}
        others = {name: _jsonable(last) for name, last in run.metrics.items() if name != logged and not is_system(name)}
        attrs = run.user_attrs | {"metrics": others, "params": rest}
        return PastRun(
            key=run.key,
            params=params,
            value=value,
            state=TrialState.PRUNED if run.was_pruned and value is not None else state,
            curve=curve if len(curve) > 1 or any(step for step, _ in curve) else (),
            started_at=run.started_at,
            finished_at=run.finished_at,
            cost_seconds=run.cost_seconds,
            epochs=epochs_of(curve),
            seed=run.seed,
            code_version=_storable(run.code_version),
            data_fingerprint=_storable(run.data_fingerprint),
            hardware=_storable(run.hardware),
            error=_storable(error),
            user_attrs={name: value for name, value in attrs.items() if value not in (None, "", {}, [])},
            label=run.row,
        )

    def _value(self, run: LoggedRun, logged: str, curve: Curve, factor: float) -> float:
        last = scaled(_plain(run.metrics[logged]), factor)
        if not self.by_best:
            return last
        best = run.metrics.get(f"best_{logged}", math.nan)
        if math.isfinite(_plain(best)):
            return scaled(best, factor)
        finite = [value for _, value in curve if math.isfinite(value)] or [last]
        return min(finite) if self.task.direction == "minimize" else max(finite)


def sort_into_tasks(
    store: Store, intake: Intake, runs: Iterable[LoggedRun], wishes: Wishes, *, source: str
) -> list[TaskRuns]:
    """The runs by task. What cannot be used is rejected or skipped at once.

    Raises ImportFailedError where no metric or direction can be told for a task; it names the candidates.
    """
    groups: defaultdict[str, list[LoggedRun]] = defaultdict(list)
    for run in runs:
        name = _prepare(run, intake, wishes)
        if name is not None:
            groups[name].append(run)
    choices = {name: _choice(store, (name, f"{source}/{name}"), members, wishes) for name, members in groups.items()}
    _complain(choices)
    found = []
    for name, members in groups.items():
        choice = choices[name]
        if choice.metric is None or choice.direction is None:
            for run in members:
                intake.reject(run.row, f"logged no metric: it has {_listed(run.metrics)}")
            continue
        found.append(_task_runs(intake, f"{source}/{name}", members, choice, wishes))
    return found


def _prepare(run: LoggedRun, intake: Intake, wishes: Wishes) -> str | None:
    """Map the parameters of a run in place; the name of its task, or None if it is not taken."""
    try:
        if not run.params:
            intake.skip(run.row, "has no parameters" if run.failure is None else "failed before it had parameters")
            return None
        if len(run.params) > MOST_PARAMETERS:
            count = f"{len(run.params):,}, at most {MOST_PARAMETERS:,} are one configuration"
            raise ValueError(f"too many parameters: {count}")
        params = wishes.mapping.params(run.params)
        name = task_name(wishes.task, run.words, params=run.params | params, tags=run.tags)
        seed, run.params = split_seed(params)
        run.seed = seed if run.seed is None else run.seed
        _check_names((name, *run.params))
    except ValueError as error:
        intake.reject(run.row, str(error))
        return None
    return name


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str) or _storable(name) != name:
            raise ValueError(f"a name that no database keeps: {name!r}")


# The metric


@dataclass(frozen=True, kw_only=True)
class _Choice:
    task: str
    metric: str | None
    direction: str | None
    counts: Counter[str]  # in how many of the runs each metric is
    runs: int
    is_guess: bool


def _choice(store: Store, names: tuple[str, str], runs: Sequence[LoggedRun], wishes: Wishes) -> _Choice:
    task, study = names
    finished = [run for run in runs if run.failure is None] or runs
    rename = wishes.mapping.metric_name
    counts = Counter(name for run in finished for name in {rename(logged) for logged in run.metrics})
    with store.read() as connection:
        before = connection.execute(_METRIC_BEFORE, {"name": study}).first()
    metric, direction, is_guess = wishes.metric, wishes.direction, False
    if metric is None:
        metric = before.metric if before else choose_metric(counts)
        is_guess = not before and metric is not None
    if direction is None and metric is not None:
        direction = before.direction if before and before.metric == metric else guess_direction(metric)
    return _Choice(task=task, metric=metric, direction=direction, counts=counts, runs=len(finished), is_guess=is_guess)


def _complain(choices: Mapping[str, _Choice]) -> None:
    """Raise ImportFailedError for all tasks about which the user has to say something."""
    unclear, undirected = [], []
    for task, choice in choices.items():
        by_count = sorted(choice.counts.items(), key=lambda item: (-item[1], item[0]))
        candidates = [name for name, _ in by_count if not is_technical(name)]
        if choice.metric is None and candidates:
            shown = [f"{name} (in {choice.counts[name]} of {choice.runs})" for name in candidates[:CANDIDATES_SHOWN]]
            more = f" and {len(candidates) - len(shown)} more" if len(candidates) > len(shown) else ""
            unclear.append(f"{task}: {', '.join(shown)}{more}")
        elif choice.metric is not None and choice.direction is None:
            undirected.append(f"{task}: {choice.metric}")
    problems = []
    if unclear:
        problems.append(
            "Which metric were the runs judged by? Give --metric NAME (and --direction), or `metric:` in a mapping"
            " file, or import these tasks one by one:\n  " + "\n  ".join(unclear)
        )
    if undirected:
        problems.append(
            "Is more or less of the metric better? Give --direction minimize or --direction maximize, or `direction:`"
            " in a mapping file:\n  " + "\n  ".join(undirected)
        )
    if problems:
        raise ImportFailedError("\n".join(problems))


_METRIC_BEFORE = (
    select(tasks.c.metric, tasks.c.direction)
    .join_from(studies, tasks, studies.c.task_id == tasks.c.id)
    .where(studies.c.name == bindparam("name"))
)


# The task


def _task_runs(intake: Intake, study: str, runs: list[LoggedRun], choice: _Choice, wishes: Wishes) -> TaskRuns:
    name, metric, mapping = choice.task, choice.metric or "", wishes.mapping
    if choice.is_guess:
        others = [other for other in choice.counts if other != metric and not is_technical(other)]
        instead = f"; there are also {_listed(others)}" if others else ""
        count = f"in {choice.counts[metric]} of {choice.runs} runs"
        intake.note(f"{name}: the metric is {metric}, {choice.direction} ({count}{instead})")
    by_best = mapping.value == "best" if mapping.value else _keeps_best(runs, metric, mapping)
    intake.note(f"{name}: a run's value is the {'best' if by_best else 'last'} {metric} that it logged")
    used = [run for run in runs if run.failure is not None or _logged_name(run, metric, mapping) is not None]
    space, notes = infer_space(_columns(name, used, intake), intake.known_space(study), declared=mapping.space)
    for note in notes:
        intake.note(f"{name}: {note}")
    started = [run.started_at for run in used if run.started_at is not None]
    task = PastTask(
        name=name,
        study=study,
        metric=metric,
        direction=choice.direction or "",
        space=space,
        created_at=min(started, default=None),
        user_attrs={"value": "best" if by_best else "last"},
    )
    runs.sort(key=lambda run: run.started_at or run.finished_at or math.inf)
    return TaskRuns(task=task, runs=runs, mapping=mapping, by_best=by_best)


def _keeps_best(runs: Iterable[LoggedRun], metric: str, mapping: RunMapping) -> bool:
    """Whether each run with the metric shows that its best epoch was kept."""
    shows = [
        f"best_{logged}" in run.metrics or logged in run.monitored
        for run in runs
        if run.failure is None and (logged := _logged_name(run, metric, mapping)) is not None
    ]
    return bool(shows) and all(shows)


def _columns(task: str, runs: Sequence[LoggedRun], intake: Intake) -> dict[str, list[Any]]:
    counts = Counter(name for run in runs for name in run.params)
    if len(counts) > MOST_PARAMETERS:
        intake.note(f"{task}: of {len(counts):,} parameters only the {MOST_PARAMETERS:,} most frequent are looked at")
    names = sorted(name for name, _ in counts.most_common(MOST_PARAMETERS))
    return {name: [run.params.get(name, ABSENT) for run in runs] for name in names}


# Values


def epochs_of(curve: Curve) -> int | None:
    """How many epochs a curve covers: its points, if they come at regular steps."""
    steps = [step for step, _ in curve]
    gaps = {later - earlier for earlier, later in pairwise(steps)}
    return len(steps) if len(gaps) == 1 or (len(steps) == 1 and steps[0] in (0, 1)) else None


def is_system(metric: str) -> bool:
    """Whether it is one of MLflow's system metrics."""
    return metric.startswith("system/")


def _by_step(history: Curve) -> list[tuple[int, float]]:
    """One value for each step, the last one; values that were all logged at one step are counted instead."""
    steps = {step for step, _ in history}
    if len(steps) == 1 and len(history) > 1:
        return [(index, value) for index, (_, value) in enumerate(history)]
    return sorted(dict(history).items())


def _plain(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= INFINITE else value


def _logged_name(run: LoggedRun, metric: str, mapping: RunMapping) -> str | None:
    return next((name for name in mapping.old_names(metric) if name in run.metrics), None)


def _jsonable(value: float) -> float | str:
    value = _plain(value)
    return value if math.isfinite(value) else str(value)


def _storable(text: str | None) -> str | None:
    """Text as every database keeps it: without NUL and halves of characters."""
    return None if text is None else text.replace("\0", "").encode("utf-8", "replace").decode()


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "none"


# The source


def source_name(store: Store, kind: SourceKind, short: str, location: str) -> str:
    """What a source is called whose user gave it no name: its kind and place, with a few digits where that is taken."""
    name = f"{kind}:{short}"
    with store.read() as connection:
        known = connection.execute(select(sources.c.location).where(sources.c.name == name)).scalar()
    return name if known in (None, location) else f"{name}-{hashlib.sha256(location.encode()).hexdigest()[:6]}"
