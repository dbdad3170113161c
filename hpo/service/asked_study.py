"""What does the desk know of a study that it hands out trials of, and does that study need any more?"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna import Trial
from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.running.budgets import SECONDS_SPENT, is_out_of_time, trials_left, why_nothing_works
from hpo.running.tuner import tuned_study
from hpo.studies.provenance import fingerprint
from hpo.studies.spec import StudySpec
from hpo.studies.study_file import parse_spec
from hpo.studies.trainer_settings import describe_data
from hpo.tuning.stopping import Stopper, kept_reason
from storage.families import METRIC_NAMES
from storage.history import StudySummary
from storage.optuna_storage import HistoryStorage

LONGEST_GAP_SECONDS = 60.0  # between two requests, that counts as time spent on the study: as long as a lease
NOTED_EVERY_SECONDS = 15.0
FORGIVEN = "hindsight:forgiven_failures"  # study user attribute: trials that had failed when the study last ended so


class AskedStudy:
    """A study with its tuner, its budget and its stop rule; safe for several threads.

    Its hours are those in which it was worked on: from request to request, of which gaps count as a minute at most.
    """

    def __init__(self, storage: HistoryStorage, summary: StudySummary) -> None:
        """Raises SpecError for a study that has no study file."""
        if summary.spec is None:
            raise SpecError(
                f"study {summary.name!r} was made by another program and has no study file, so nobody can ask for its "
                "trials here; create a study from a file: it will learn from that one"
            )
        self.study_id, self.name = summary.study_id, summary.name
        self.created_at = summary.created_at
        self.content: Mapping[str, Any] = summary.spec
        self.spec: StudySpec = parse_spec(summary.spec, source=f"study {summary.name!r}")
        self.space = self.spec.search_space()
        self.data_fingerprint = _data_of(self.spec)
        self._storage = storage
        self._study = tuned_study(storage, self.spec)
        storage.set_study_system_attr(self.study_id, METRIC_NAMES, self.spec.task.metrics)
        self._spent = float(self._study.user_attrs.get(SECONDS_SPENT, 0.0))
        self._worked_at = self._noted_at = time.monotonic()
        self._counting, self._deciding, self._suggesting = threading.Lock(), threading.Lock(), threading.Lock()
        self._failed: str | None = None
        self._is_stopped = False
        self._stopper = Stopper(
            self._study,
            self.spec.stop,
            budget=self.spec.budget,
            trials_left=lambda finished: trials_left(self.spec.budget, finished, max(self._spent, 1e-9)),
            metric=self.spec.task.metric,
            notice=lambda message: None,  # it is kept with the study
        )
        self.look_at_failures()

    def work_goes_on(self) -> None:
        """Count the time since the last request."""
        now = time.monotonic()
        with self._counting:
            self._spent += min(now - self._worked_at, LONGEST_GAP_SECONDS)
            self._worked_at = now
            is_due = now - self._noted_at > NOTED_EVERY_SECONDS
            if is_due:
                self._noted_at = now  # no other thread keeps it, too
        if is_due:
            self._note_spent()

    def rests(self) -> None:
        """Nobody asks about it any more: keep what has been counted."""
        if self._noted_at < self._worked_at:
            self._note_spent()

    def _note_spent(self) -> None:
        """Keep what has been counted; what another server has counted meanwhile goes on here."""
        noted = float(self._study.user_attrs.get(SECONDS_SPENT, 0.0))
        with self._counting:
            self._spent, self._noted_at = max(self._spent, noted), time.monotonic()
            spent = self._spent
        if spent > noted:
            self._study.set_user_attr(SECONDS_SPENT, spent)

    def look_at_failures(self) -> None:
        """A study whose first trials all fail hands out no more; once it may go on, the trials since then count."""
        states = [trial.state for trial in self._study.get_trials(deepcopy=False)]
        forgiven = int(self._study.user_attrs.get(FORGIVEN, 0))
        states = [state for state in states if state != TrialState.FAIL or (forgiven := forgiven - 1) < 0]
        self._failed = why_nothing_works(states, self.spec.budget)

    def forgive_failures(self) -> None:
        """The trials that have failed so far shall not keep the study from going on."""
        states = [trial.state for trial in self._study.get_trials(deepcopy=False)]
        self._study.set_user_attr(FORGIVEN, states.count(TrialState.FAIL))
        self._failed = None

    def why_over(self) -> str | None:
        """Why no trial need be started any more, as far as is known before one is asked for."""
        if is_out_of_time(self.spec.budget, self._spent):
            return f"its {self.spec.budget.hours:g} hours are spent"
        if self._failed is not None:
            self.look_at_failures()  # a late value of one may count by now
        if self._failed is None and self.spec.stop.rule != "none" and self._deciding.acquire(blocking=False):
            try:  # while one thread thinks, the others go by what was known before
                self._is_stopped = self._stopper.is_done()
            finally:
                self._deciding.release()
        if self._is_stopped:
            stopped = kept_reason(self._study.user_attrs)
            return "it was stopped" if stopped is None else stopped.reason
        return self._failed

    @property
    def has_failed(self) -> bool:
        """Whether its first trials have all failed."""
        return self._failed is not None

    def is_to_be_pruned(self, trial_id: int) -> bool:
        """Whether the trial is to stop at its last report."""
        return bool(self._study.pruner.prune(self._study, self._storage.get_trial(trial_id)))

    def suggest(self, trial_id: int) -> dict[str, Any]:
        """The parameters of a trial some of which a user has fixed; each is in the history at once."""
        with self._suggesting:
            return self.space.suggest(Trial(self._study, trial_id))

    def is_complete(self, params: Mapping[str, Any]) -> bool:
        """Whether these are all the parameters of a trial."""
        found: dict[str, Any] = {}
        for name in self.space.distributions:
            if self.space.is_active(name, found):
                if name not in params:
                    return False
                found[name] = params[name]
        return True


def _data_of(spec: StudySpec) -> str | None:
    """The fingerprint of what the file says of the data; None where a project says it, which only its workers have."""
    if spec.trainer is None or spec.trainer.cli is not None:
        return None
    data = describe_data(spec, folder=Path())
    return None if data is None else fingerprint(data)
