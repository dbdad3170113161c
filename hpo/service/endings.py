"""Will anything more happen in a study, as far as the history tells?

One that the service runs has its end noted. One that programs ask for trials, or that somebody runs elsewhere, is over
when its budget is spent, it was stopped, or its first trials all failed, and no trial of it is left to end. What was
imported is past.
"""

from __future__ import annotations

from typing import Any

from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.running.budgets import SECONDS_SPENT, is_out_of_time, why_nothing_works
from hpo.studies.study_file import parse_spec
from hpo.tuning.stopping import kept_reason
from storage.database import Store
from storage.history import StudySummary
from storage.integrity import PROGRAMS
from storage.launches import OVER, Launch
from storage.optuna_storage import HistoryStorage

UNDER_WAY = (TrialState.RUNNING, TrialState.WAITING)


def why_over(store: Store, study: StudySummary, launch: Launch | None) -> str | None:
    """Why nothing more will happen in it, in words; None while something may."""
    if launch is not None:
        is_over = launch.state in OVER and not launch.trials
        return (launch.message or f"it is {launch.state}") if is_over else None
    if any(study.counts[state] for state in UNDER_WAY):
        return None
    if study.source not in PROGRAMS:
        return f"it was imported from {study.source}: nothing happens in it any more"
    return _why_spent(study, HistoryStorage(store).get_study_user_attrs(study.study_id))


def _why_spent(study: StudySummary, attributes: dict[str, Any]) -> str | None:
    stopped = kept_reason(attributes)
    if stopped is not None and not stopped.went_on(study.counts):
        return stopped.reason
    try:
        budget = None if study.spec is None else parse_spec(study.spec).budget
    except SpecError:  # of another version
        return None
    if budget is None:
        return None
    states = [state for state, count in study.counts.items() for _ in range(count)]
    if budget.trials is not None and len(states) >= budget.trials:
        return f"its {budget.trials} trials are finished"
    if is_out_of_time(budget, float(attributes.get(SECONDS_SPENT, 0.0))):
        return f"its {budget.hours:g} hours are spent"
    return why_nothing_works(states, budget)
