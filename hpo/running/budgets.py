"""How much of a study's budget is left, and is there any use in spending it?"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import TrialState

from hpo.studies.spec import Budget, Task

MAX_FAILURES_AT_FIRST = 5  # failed trials after which a study without one success stops (heuristic)
SECONDS_SPENT = "hindsight:seconds_spent"  # study user attribute: how long it has been worked on


def is_out_of_time(budget: Budget, seconds_spent: float) -> bool:
    """Whether its hours are spent."""
    return budget.hours is not None and seconds_spent >= budget.hours * 3600


def trials_left(budget: Budget, finished: int, seconds_spent: float) -> int:
    """That it allows after so many; its hours as at the pace so far."""
    bounds = []
    if budget.trials is not None:
        bounds.append(budget.trials - finished)
    if budget.hours is not None and finished:
        bounds.append(int((budget.hours * 3600 / seconds_spent - 1.0) * finished))
    return max(0, min(bounds)) if bounds else 0


def why_nothing_works(states: Sequence[TrialState], budget: Budget) -> str | None:
    """That the first trials have all failed, in words; None while there is hope."""
    failed = states.count(TrialState.FAIL)
    succeeded = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
    if succeeded or failed < min(MAX_FAILURES_AT_FIRST, budget.trials or MAX_FAILURES_AT_FIRST):
        return None
    first = "the first trial" if failed == 1 else f"the first {failed} trials"
    return f"{first} failed and none succeeded, so the study stops"


def why_not_measured(task: Task, reason: str) -> str:
    """That a metric was never logged, which no other configuration will mend, with the key that names the metric."""
    is_further = any(reason.startswith(f"{name} ") for name in task.metrics[1:])
    return f"task.{'against' if is_further else 'metric'}: {reason}"
