"""Training the contenders of a study again, on seeds that chose nothing, until the best one stands out.

The first round gives each contender a few replicates, the next ones are shared out by OCBA
(`hpo.statistics.allocation`), until one is the best with probability `SURE` or the replicates are spent. Contenders
share their seeds, so that they can be compared in pairs. No replicate is pruned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.decisions.winner import Best, best
from hpo.errors import SettingsError
from hpo.running.executors import Placement
from hpo.running.plan import Plan
from hpo.running.runner import StudyRunner, Watcher
from hpo.settings import storage_url
from hpo.statistics.allocation import FIRST_ROUND, Standing, next_round, standing
from hpo.studies.provenance import git_commit
from hpo.studies.replicates import (
    REPLICATE,
    SURE,
    check_name,
    is_usable,
    mark_of,
    replicates_of,
    spec_of_replicates,
    standing_of,
)
from storage import history
from storage.database import Store
from storage.history import StudySummary, TrialRecord
from storage.schema import open_store

FEWEST_OF_THE_WINNER = 5  # replicates, so that its interval is of use; with fewer, Student's is very wide
COVERED = 0.9  # probability of being the best that the contenders have together
SEEDS = 2**32


def replicate(
    study: str,
    most: int,
    *,
    storage: str | None = None,
    mlflow: str | None = None,
    runs: str | Path | None = None,
    jobs: int = 1,
    against: int | Mapping[str, Any] | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    launch: str | None = None,
    launch_host: str | None = None,
    watcher: Watcher | None = None,
) -> Best:
    """Train contenders of a study again until `most` replicates have ended in all, or the best one stands out.

    What was trained for it before counts, so that the same call goes on after an interruption. A trial that `against`
    names is among the contenders. executor, ray_address, launch, launch_host: where they are trained, as `hpo.tune`
    takes them. Raises SettingsError for a study that `hpo tune` has not run, and whatever
    `hpo.best` and `hpo.tune` raise.
    """
    return train_replicates(
        study,
        most,
        storage=storage,
        mlflow=mlflow,
        runs=runs,
        jobs=jobs,
        against=against,
        placement=Placement(executor=executor, ray_address=ray_address, launch=launch, launch_host=launch_host),
        watcher=watcher or Watcher(),
    )


def train_replicates(
    study: str,
    most: int,
    *,
    storage: str | None,
    mlflow: str | None,
    runs: str | Path | None,
    jobs: int,
    against: int | Mapping[str, Any] | None,
    placement: Placement,
    watcher: Watcher,
    projects: Path | None = None,
    is_served: bool = False,
) -> Best:
    """As `replicate`. projects: where the code is; None: where it was. is_served: a service has made their study."""
    judged = best(study, storage, against=against)
    store = open_store(storage_url(storage), upgrade=False)
    summary = history.get_study(store, study)
    spec = spec_of_replicates(summary, most)
    folder = projects or _folder_of(summary)
    check_name(store, summary)
    before = replicates_of(store, summary)
    always = [against] if isinstance(against, int) else []
    contenders = _contenders(judged, summary, history.list_trials(store, summary.study_id), before, most, always)
    plan = Replicates(store, summary, contenders, seed=spec.seeds.training, most=most, jobs=jobs)
    if not plan.is_done(before):
        _tell_of_changed_code(summary, folder, watcher)
        StudyRunner(
            spec,
            folder=folder,
            storage=storage,
            mlflow=mlflow,
            runs=runs,
            jobs=jobs,
            placement=placement,
            watcher=watcher,
            plan=plan,
            is_served=is_served,
        ).run(resume=False)
    return best(study, storage, against=against)


class Replicates(Plan):
    """Which contender is trained next, and on which seed."""

    def __init__(
        self, store: Store, study: StudySummary, contenders: Mapping[int, Any], *, seed: int, most: int, jobs: int
    ) -> None:
        self._store, self._summary, self._contenders = store, study, dict(contenders)
        self._seed, self._most, self._jobs = seed, most, jobs
        self._sign = -1.0 if study.directions[0] == "maximize" else 1.0

    def extend(self, study: optuna.Study) -> int:
        """A round at a time: the next one when the last has ended."""
        trials = replicates_of(self._store, self._summary)
        if self.is_done(trials) or not all(trial.state.is_finished() for trial in trials):
            return len(study.get_trials(deepcopy=False))
        for number, count in self._round(trials).items():
            for seed in self._free_seeds(number, trials, count):
                told = mark_of(self._summary, number, seed, self._contenders[number])
                study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=told))
        return len(study.get_trials(deepcopy=False))

    def job(self, trial: FrozenTrial) -> tuple[dict[str, Any], int]:
        """As it was enqueued."""
        told = trial.user_attrs[REPLICATE]
        return dict(told["params"]), int(told["seed"])

    def is_done(self, trials: list[TrialRecord]) -> bool:
        """Whether the replicates are spent, or the best contender stands out and has a figure of its own."""
        if len(trials) >= self._most:
            return all(trial.state.is_finished() for trial in trials)
        groups = self._groups(trials)
        if any(len(group) < FIRST_ROUND for group in groups.values()):
            return False
        places = standing_of(groups, self._sign, np.random.default_rng(0))
        if not places:
            return False
        winner = max(places, key=lambda number: places[number].probability)
        fresh = sum(is_usable(trial) for trial in groups[winner])
        return places[winner].probability >= SURE and fresh >= FEWEST_OF_THE_WINNER

    def _round(self, trials: list[TrialRecord]) -> dict[int, int]:
        """How many more each contender gets; one that has failed gets none while another has not."""
        groups = self._groups(trials)
        sound = [number for number, group in groups.items() if all(is_usable(trial) for trial in group)] or [*groups]
        now = self._standing({number: groups[number] for number in sound})
        left = self._most - len(trials)
        missing = int(np.maximum(FIRST_ROUND - now.counts, 0).sum())
        size = min(left, missing or max(self._jobs, 2))
        return dict(zip(sound, next_round(now, size).tolist(), strict=True))

    def _standing(self, groups: Mapping[int, list[TrialRecord]]) -> Standing:
        losses = [
            np.array([self._sign * trial.value for trial in group if is_usable(trial) and trial.value is not None])
            for group in groups.values()
        ]
        return standing(losses, np.random.default_rng(0))

    def _groups(self, trials: list[TrialRecord]) -> dict[int, list[TrialRecord]]:
        """The replicates that have ended, by contender."""
        groups: dict[int, list[TrialRecord]] = {number: [] for number in self._contenders}
        for trial in trials:
            number = int(trial.user_attrs[REPLICATE]["trial"])
            if trial.state.is_finished() and number in groups:
                groups[number].append(trial)
        return groups

    def _free_seeds(self, number: int, trials: list[TrialRecord], count: int) -> list[int]:
        """The next seeds after the study's own that this contender has not had."""
        had = {
            trial.user_attrs[REPLICATE]["seed"] for trial in trials if trial.user_attrs[REPLICATE]["trial"] == number
        }
        seeds: list[int] = []
        seed = self._seed
        while len(seeds) < count:
            seed = (seed + 1) % SEEDS
            if seed not in had:
                seeds.append(seed)
        return seeds


def _contenders(  # noqa: PLR0917
    judged: Best,
    study: StudySummary,
    trials: list[TrialRecord],
    before: list[TrialRecord],
    most: int,
    always: list[int],
) -> dict[int, Mapping[str, Any]]:
    """Trials by number with their configurations: those replicated before, and who is likely to be the best."""
    params = {trial.number: trial.params for trial in trials}
    chosen = dict.fromkeys([*(int(trial.user_attrs[REPLICATE]["trial"]) for trial in before), *always])
    room = max(1, most // 3 if most >= 3 * FIRST_ROUND else most // FIRST_ROUND)
    for number in _likely_best(judged, study, trials):
        if len(chosen) >= room:
            break
        chosen[number] = None
    return {number: params[number] for number in chosen if number in params}


def _likely_best(judged: Best, study: StudySummary, trials: list[TrialRecord]) -> list[int]:
    """The winner, and the others until together they are the best with probability `COVERED`.

    Where the trials are too few to be judged, those of the best values.
    """
    if judged.winner is None:
        sign = -1.0 if study.directions[0] == "maximize" else 1.0
        usable = [trial for trial in trials if is_usable(trial) and trial.params]
        if not usable:
            raise SettingsError(f"study {study.name!r} has no complete trial yet: there is nothing to replicate")
        return [trial.number for trial in sorted(usable, key=lambda trial: sign * (trial.value or 0.0))]
    others = [each for each in judged.contenders if each.number != judged.winner.number]
    chosen, covered = [judged.winner.number], judged.winner.probability_best
    for each in others:
        if covered >= COVERED:
            break
        chosen.append(each.number)
        covered += each.probability_best
    return chosen


def _folder_of(study: StudySummary) -> Path:
    """Where its code is."""
    known = (study.provenance or {}).get("folder")
    return Path(known) if known is not None and Path(known).is_dir() else Path.cwd()


def _tell_of_changed_code(study: StudySummary, folder: Path, watcher: Watcher) -> None:
    before, now = (study.provenance or {}).get("code_version"), git_commit(folder)
    if before is not None and now is not None and before != now:
        watcher.notice(
            f"the code is at {now[:12]} now and was at {before[:12]} when {study.name!r} was tuned: a difference "
            "between its values and those of the replicates may come from that"
        )
