"""How much of a budget is left, and is there any use in spending it?"""

from __future__ import annotations

from optuna.trial import TrialState

from hpo.running.budgets import is_out_of_time, trials_left, why_nothing_works
from hpo.studies.spec import Budget

FAIL, DONE = TrialState.FAIL, TrialState.COMPLETE


def test_what_is_left_is_the_smaller_of_trials_and_hours_at_the_pace_so_far() -> None:
    assert trials_left(Budget(trials=10), 4, 100.0) == 6
    assert trials_left(Budget(trials=10), 12, 100.0) == 0
    assert trials_left(Budget(hours=1), 4, 1800.0) == 4
    assert trials_left(Budget(trials=5, hours=1), 4, 1800.0) == 1
    assert trials_left(Budget(hours=1), 0, 0.0) == 0  # nothing is known of the pace


def test_hours_end() -> None:
    assert is_out_of_time(Budget(hours=1), 3600.0)
    assert not is_out_of_time(Budget(hours=1), 3599.0)
    assert not is_out_of_time(Budget(trials=1), 1e9)


def test_a_study_without_one_success_stops_after_five_failures_or_all_of_its_budget() -> None:
    assert why_nothing_works([FAIL] * 4, Budget(trials=30)) is None
    told = why_nothing_works([FAIL] * 5, Budget(trials=30))
    assert told == "the first 5 trials failed and none succeeded, so the study stops"
    assert why_nothing_works([FAIL] * 5 + [DONE], Budget(trials=30)) is None
    assert "the first trial failed" in (why_nothing_works([FAIL], Budget(trials=1)) or "")
    assert why_nothing_works([], Budget(hours=1)) is None
