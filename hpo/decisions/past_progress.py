"""How did the tuner get on with past tasks like this one? Their incumbents and their times, from the store.

Where a task was tuned by Hindsight, that is how it went; where its runs came from elsewhere, the tuner is replayed
among the task's recorded configurations, with other tasks as its history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from hpo.arrays import Array
from hpo.errors import NoHistoryError
from hpo.spaces.related_families import MIN_SIMILARITY
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import relate
from hpo.studies.spec import StudySpec
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.stopping import stopped_reason
from storage.arrays import TrialArrays, counted_values, family_arrays
from storage.database import Store
from storage.families import Family, family_of, list_families
from storage.history import StudySummary, list_studies
from storage.optuna_storage import HistoryStorage

MOST_REPLAYED = 20  # tasks: each takes some seconds
PAST_OF_A_REPLAY = 24  # tasks that a replay may learn from: its history is thinner than the real one, which costs it
ROWS = 500  # of a task, to choose from
LEAST_ROWS = 10  # distinct configurations of a task that is worth replaying

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many tasks have been replayed, and how many there are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PastTask:
    """A task as it was tuned, or as it was recorded."""

    name: str
    losses: Array  # (n,) of its finished trials in order; NaN where one failed or was pruned
    median: float  # loss of all its finished trials, pruned and failed ones too; NaN where none has a value
    states: NDArray[np.int64]  # (n,)
    seconds: Array  # (n,) that each trained; NaN where unknown
    is_ours: bool  # the tuner proposed these trials
    has_converged: bool = False  # it was stopped because nothing was left to gain
    curve: Array | None = None  # (k,) its incumbent, where it was replayed


def past_tasks(
    store: Store,
    spec: StudySpec,
    trials: int,
    tell: Progress = lambda done, of_all: None,
    *,
    before: datetime | None = None,
) -> tuple[list[PastTask], list[str]]:
    """The tasks of the study's family, and of families that nearly match, with what there is to say about them.

    trials: that are replayed where a task was not tuned by us. before: only studies that were created before then.
    """
    notes: list[str] = []
    known = (study for study in list_studies(store) if before is None or study.created_at < before)
    studies = {study.study_id: study for study in known}
    found: dict[str, PastTask] = {}
    for family, is_same in _families(store, spec):
        so_far = len(found)
        tasks = _tasks_of(store, spec, family, studies, notes)
        recorded = [task for task in tasks if not task.is_ours]
        replayed = _replayed(store, family, recorded, trials, tell)
        if len(replayed) < len(recorded):
            notes.append(
                f"{len(recorded) - len(replayed)} recorded tasks are left out: at most {MOST_REPLAYED} are replayed, "
                f"each with {LEAST_ROWS} configurations or more"
            )
        for task in [*(task for task in tasks if task.is_ours), *replayed]:
            found.setdefault(task.name, task)
        if not is_same and len(found) > so_far:
            notes.append(f"{len(found) - so_far} of the tasks are of {family.name}, whose space nearly matches")
    own = found.get(spec.task.name)
    if own is not None and np.isfinite(own.losses).any():
        best = float(np.nanmin(own.losses)) * (-1.0 if spec.task.direction == "maximize" else 1.0)
        notes.append(
            f"{spec.task.name} itself was tuned before, with a best {spec.task.metric} of {best:.4g}: the forecast is "
            "for a new task of its kind"
        )
    return list(found.values()), notes


def _families(store: Store, spec: StudySpec) -> list[tuple[Family, bool]]:
    """The study's own family first, then those whose spaces are near, the nearest first; whether it is its own."""
    space = SearchSpace.from_json(spec.search_space().to_json())
    alike = [
        family
        for family in list_families(store)
        if family.metric == spec.task.metric and family.directions == (spec.task.direction,)
    ]
    own = [family for family in alike if family.name == family_name(spec)]
    near = [
        (similarity, family)
        for family in alike
        if family not in own
        and (similarity := relate(SearchSpace.from_json(family.space), space).similarity) >= MIN_SIMILARITY
    ]
    near.sort(key=lambda pair: -pair[0])
    return [*((family, True) for family in own), *((family, False) for _, family in near)]


def family_name(spec: StudySpec) -> str:
    """Of the family that a study will belong to."""
    return family_of(spec.search_space().to_json(), spec.task.metric, [spec.task.direction])


def _tasks_of(
    store: Store, spec: StudySpec, family: Family, studies: Mapping[int, StudySummary], notes: list[str]
) -> list[PastTask]:
    arrays = family_arrays(store, family.name)
    members: dict[str, list[int]] = defaultdict(list)
    for study_id in arrays.by_study:
        if study_id in studies:  # else it is not meant, or has come in this moment
            members[studies[study_id].task or studies[study_id].name].append(study_id)
    epochs: set[int] = set()
    tasks = [_task(store, name, ids, arrays, studies, spec, epochs) for name, ids in members.items()]
    if epochs:
        longest = ", ".join(map(str, sorted(epochs)))
        notes.append(
            f"past trials trained for up to {longest} epochs, these for up to {spec.training.max_epochs}: hours are "
            "scaled, values are those of the past"
        )
    return tasks


def _task(  # noqa: PLR0917
    store: Store,
    name: str,
    ids: Sequence[int],
    arrays: TrialArrays,
    studies: Mapping[int, StudySummary],
    spec: StudySpec,
    epochs: set[int],
) -> PastTask:
    """The longest study that the tuner ran, as it went; or else all runs of the task together."""
    ours = [study_id for study_id in ids if _is_ours(store, studies[study_id])]
    chosen = [max(ours, key=lambda study_id: len(arrays.by_study[study_id]))] if ours else ids
    rows = np.concatenate([arrays.by_study[study_id] for study_id in chosen])
    factor = 1.0
    past_epochs = ((studies[chosen[0]].spec or {}).get("trainer") or {}).get("max_epochs")
    our_epochs = None if spec.trainer is None else spec.trainer.max_epochs
    if isinstance(past_epochs, int) and our_epochs is not None and past_epochs != our_epochs:
        epochs.add(past_epochs)
        factor = our_epochs / past_epochs
    sign = -1.0 if spec.task.direction == "maximize" else 1.0
    states, values = arrays.states[rows], arrays.values[rows]
    is_success = (states == TrialState.COMPLETE.value) & np.isfinite(values)
    return PastTask(
        name=name,
        losses=np.where(is_success, sign * values, np.nan),
        median=float(np.median(sign * counted_values(states, values, maximize=sign < 0))),
        states=states,
        seconds=factor * arrays.costs[rows],
        is_ours=bool(ours),
        has_converged=bool(ours) and _has_converged(store, studies[chosen[0]]),
    )


def _has_converged(store: Store, study: StudySummary) -> bool:
    """Whether it ended because nothing was left to gain, not because what was left was too dear."""
    stopped = stopped_reason(store, study.study_id)
    return stopped is not None and stopped.rule != "cost" and not stopped.went_on(study.counts)


def _is_ours(store: Store, study: StudySummary) -> bool:
    """Whether the tuner proposed most of its trials."""
    if study.source == "hindsight":
        return study.spec is not None
    if study.source != "optuna":
        return False
    trials = HistoryStorage(store).get_all_trials(study.study_id, deepcopy=False)
    return 2 * sum(RECEIPT in trial.system_attrs for trial in trials) > len(trials)


def _replayed(store: Store, family: Family, tasks: Sequence[PastTask], trials: int, tell: Progress) -> list[PastTask]:
    """Those of the tasks on which the tuner could be replayed, with their curves."""
    if not tasks:
        return []
    from hpo.replay.methods import load_method  # noqa: PLC0415 - slow, and seldom needed
    from hpo.replay.race import MethodFailedError, replay  # noqa: PLC0415 - as above
    from hpo.replay.regimes import Problems  # noqa: PLC0415 - as above
    from hpo.replay.tables import read_source  # noqa: PLC0415 - as above

    try:
        recorded = next(iter(read_source(store.url, family=family.name, rows=ROWS, say=lambda note: None)))
    except NoHistoryError:
        return []
    known = {task.name: task for task in tasks}
    candidates = [task for task in recorded.tasks if task.name in known and len(task.losses) >= LEAST_ROWS]
    rng = np.random.default_rng(0)
    chosen = sorted(rng.permutation(len(candidates))[:MOST_REPLAYED].tolist())
    problems, method, found = Problems(recorded, "full"), load_method("history"), []
    for done, place in enumerate(chosen):
        tell(done, len(chosen))
        task = candidates[place]
        problem = problems.of(task, 0)
        past = [problem.past[row] for row in sorted(rng.permutation(len(problem.past))[:PAST_OF_A_REPLAY].tolist())]
        try:
            rows, _, _ = replay(method, replace(problem, past=past), task, seed=0, budget=min(trials, len(task.losses)))
        except MethodFailedError:  # this task says nothing then; the others do
            continue
        found.append(replace(known[task.name], curve=np.minimum.accumulate(task.losses[rows])))
    tell(len(chosen), len(chosen))
    return found
