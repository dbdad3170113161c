"""What do the replicates of a study's trials say: the same configurations, trained again on other seeds?

They are kept as trials of a study of their own, "STUDY/replicates". Its trials have no parameters of their own but
point to what they repeat: no tuner takes a few good configurations, trained again and again, for another task. A study
that is deleted takes them along; those of an earlier one that had the same name are not a study's own.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import TrialState

from hpo.errors import SettingsError
from hpo.statistics.allocation import standing, student_interval
from hpo.studies.spec import StudySpec
from hpo.studies.study_file import parse_spec
from storage import history
from storage.database import Store
from storage.errors import StudyNotFoundError
from storage.history import StudySummary, TrialRecord
from storage.late_results import LATE_RESULT_OF

SUFFIX = "/replicates"  # of the name of the study that holds the replicates of another
REPLICATE = "hindsight:replicate_of"  # trial user attribute: {"study", "created_at", "trial", "seed", "params"}
SURE = 0.95  # probability of being the best with which replicates end


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """A contender's replicates: the same configuration on seeds that chose nothing."""

    number: int
    params: Mapping[str, Any]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    failed: int
    mean: float | None
    interval95: tuple[float, float] | None  # Student's; None for fewer than two
    chosen_value: float | None  # expected, if it is published because it came out best of several
    chosen_interval95: tuple[float, float] | None
    probability_best: float  # among those that were replicated


@dataclass(frozen=True, kw_only=True)
class Replication:
    """What replicates say; they alone, nothing of the values by which their configurations were chosen."""

    study: str  # that holds them
    winner: Fresh | None
    contenders: tuple[Fresh, ...]  # the best first
    spent: int  # replicates that have ended
    separated: bool  # whether the winner is the best with a probability of `SURE`


def spec_of_replicates(study: StudySummary, most: int) -> StudySpec:
    """The study's file as it was kept, for its replicates. Raises SettingsError."""
    name = study.name
    if name.endswith(SUFFIX):
        raise SettingsError(f"{name!r} holds replicates itself: hpo best {shlex.quote(name.removesuffix(SUFFIX))}")
    if study.spec is None:
        raise SettingsError(
            f"study {name!r} was not run by `hpo tune`, so that nobody knows how to train its trials again. Train the "
            "contenders of `hpo best` yourself on several seeds each, import those runs, and `hpo best` counts them; "
            "or write a study file (`hpo init`), tune with it, and replicate that"
        )
    content = {**study.spec, "study": name + SUFFIX, "budget": {"trials": most}, "pruner": "none"}
    return parse_spec(content, source=f"the file of study {name!r}")


def mark_of(study: StudySummary, number: int, seed: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's user attributes say if it repeats a trial of that study."""
    told = {"study": study.name, "created_at": study.created_at.isoformat()}
    return {REPLICATE: {**told, "trial": number, "seed": seed, "params": dict(params)}}


def check_name(store: Store, study: StudySummary) -> None:
    """Raises SettingsError where what would hold a study's replicates holds something else."""
    there, trials = _held(store, study)
    if there is None:
        return
    if not _holds_replicates(there, trials):
        raise SettingsError(f"replicates would be kept in {there.name!r}, and a study of that name is there already")
    if len(_own(store, study, trials)) < len(trials):
        raise SettingsError(
            f"{there.name!r} holds replicates of an earlier study {study.name!r}, which is deleted; delete them first: "
            f"hpo history delete {shlex.quote(there.name)}"
        )


def study_of_replicates(store: Store, study: StudySummary) -> StudySummary | None:
    """The study that holds the replicates of another, and nothing else; None where there is none."""
    there, trials = _held(store, study)
    if there is None or not _holds_replicates(there, trials) or len(_own(store, study, trials)) < len(trials):
        return None
    return there


def replicates_of(store: Store, study: StudySummary) -> list[TrialRecord]:
    """The replicates of a study's trials, running and waiting ones too; empty where there are none.

    What two processes at once have trained on the same seed is there once, and for one that failed the late value that
    counts for it, if one does.
    """
    _, trials = _held(store, study)
    known: dict[tuple[int, int], TrialRecord] = {}
    for trial in _own(store, study, trials):
        told = trial.user_attrs[REPLICATE]
        key = told["trial"], told["seed"]
        if key not in known or (LATE_RESULT_OF in trial.system_attrs and known[key].state == TrialState.FAIL):
            known[key] = trial
    return list(known.values())


def replication(study: StudySummary, replicates: Sequence[TrialRecord], rng: np.random.Generator) -> Replication | None:
    """What the replicates that have ended say; None where none has."""
    ended = [trial for trial in replicates if trial.state.is_finished()]
    if not ended:
        return None
    sign = -1.0 if study.directions[0] == "maximize" else 1.0
    groups: dict[int, list[TrialRecord]] = {}
    for trial in ended:
        groups.setdefault(int(trial.user_attrs[REPLICATE]["trial"]), []).append(trial)
    found = standing_of(groups, sign, rng)
    fresh = [_fresh(number, group, found.get(number), sign) for number, group in groups.items()]
    fresh.sort(key=lambda each: (-each.probability_best, np.inf if each.mean is None else sign * each.mean))
    winner = fresh[0] if fresh[0].mean is not None else None
    return Replication(
        study=study.name + SUFFIX,
        winner=winner,
        contenders=tuple(fresh),
        spent=len(ended),
        separated=winner is not None and winner.probability_best >= SURE,
    )


@dataclass(frozen=True, kw_only=True)
class ContenderStanding:
    """How one contender stands among those that were replicated."""

    probability: float  # of being the best
    loss: float  # expected, the choice among several allowed for
    interval: tuple[float, float] | None  # 95%


def standing_of(
    groups: Mapping[int, Sequence[TrialRecord]], sign: float, rng: np.random.Generator
) -> dict[int, ContenderStanding]:
    """By trial, how its replicates stand.

    One of which a replicate failed is not there while there is one of which none did.
    """
    sound = [number for number, group in groups.items() if group and all(is_usable(trial) for trial in group)]
    counted = sound or [number for number, group in groups.items() if any(is_usable(trial) for trial in group)]
    if not counted:
        return {}
    losses = [np.array([sign * value_of(trial) for trial in groups[number] if is_usable(trial)]) for number in counted]
    found = standing(losses, rng)
    return {
        number: ContenderStanding(
            probability=float(found.probabilities[i]),
            loss=float(found.losses[i]),
            interval=None if np.isnan(found.intervals[i]).any() else tuple(found.intervals[i].tolist()),
        )
        for i, number in enumerate(counted)
    }


def _held(store: Store, study: StudySummary) -> tuple[StudySummary | None, list[TrialRecord]]:
    """The study under whose name its replicates would be, and the trials of that."""
    try:
        there = history.get_study(store, study.name + SUFFIX)
    except StudyNotFoundError:
        return None, []
    return there, history.list_trials(store, there.study_id)


def _holds_replicates(there: StudySummary, trials: Sequence[TrialRecord]) -> bool:
    return there.spec is None and all(REPLICATE in trial.user_attrs for trial in trials)


def _own(store: Store, study: StudySummary, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that repeat trials of this very study.

    Marks once said nothing of when it was made: such a one is believed where the trial's configuration is the same.
    """
    marked = [trial for trial in trials if trial.user_attrs.get(REPLICATE, {}).get("study") == study.name]
    if all("created_at" in trial.user_attrs[REPLICATE] for trial in marked):
        params: dict[int, Mapping[str, Any]] = {}
    else:
        params = {trial.number: trial.params for trial in history.list_trials(store, study.study_id)}
    made = study.created_at.isoformat()

    def is_own(told: Mapping[str, Any]) -> bool:
        return bool(told["created_at"] == made if "created_at" in told else params.get(told["trial"]) == told["params"])

    return [trial for trial in marked if is_own(trial.user_attrs[REPLICATE])]


def _fresh(number: int, group: Sequence[TrialRecord], stands: ContenderStanding | None, sign: float) -> Fresh:
    kept = [trial for trial in group if is_usable(trial)]
    interval = None if stands is None or stands.interval is None else sorted(sign * end for end in stands.interval)
    return Fresh(
        number=number,
        params=group[0].user_attrs[REPLICATE]["params"],
        seeds=tuple(int(trial.user_attrs[REPLICATE]["seed"]) for trial in kept),
        values=tuple(value_of(trial) for trial in kept),
        failed=len(group) - len(kept),
        mean=float(np.mean([value_of(trial) for trial in kept])) if kept else None,
        interval95=student_interval(np.array([value_of(trial) for trial in kept])),
        chosen_value=None if stands is None else sign * stands.loss,
        chosen_interval95=None if interval is None else (interval[0], interval[1]),
        probability_best=0.0 if stands is None else stands.probability,
    )


def is_usable(trial: TrialRecord) -> bool:
    """Whether a trial went to its end and brought a number."""
    return trial.state == TrialState.COMPLETE and trial.value is not None and bool(np.isfinite(trial.value))


def value_of(trial: TrialRecord) -> float:
    """The value of a usable trial."""
    assert trial.value is not None
    return trial.value
