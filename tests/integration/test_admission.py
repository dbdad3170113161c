"""Is a study that contradicts the history refused, and one that lost nothing let in again?"""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hpo import HistoryStorage
from hpo.errors import DirectionError, SpecError
from hpo.running.admission import admit
from hpo.studies.spec import StudySpec
from hpo.studies.study_file import parse_spec
from storage import studies
from storage.errors import StudyExistsError
from storage.schema import Store

SPEC: dict[str, Any] = {
    "study": "first",
    "task": {"name": "moons", "metric": "val_loss", "direction": "minimize"},
    "trainer": {"model": "my.Net", "max_epochs": 3},
    "space": {"lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True}},
    "budget": {"trials": 4},
}


def make_spec(**changes: Any) -> StudySpec:
    return parse_spec({**SPEC, **changes})


def run(store: Store, spec: StudySpec, *states: TrialState) -> None:
    """A study as `hpo tune` leaves it, with trials that ended in these states."""
    study_id = studies.create_study(
        store,
        name=spec.study,
        directions=(spec.task.direction,),
        task=spec.task.name,
        metric=spec.task.metric,
        space=spec.search_space().to_json(),
        spec=spec.model_dump(mode="json", exclude_defaults=True),
    )
    for state in states:
        claim = studies.claim_trial(store, study_id, worker="w", lease_seconds=60, max_trials=None)
        assert claim is not None
        value = None if state == TrialState.FAIL else 0.5
        studies.finish_trial(store, claim, state=state, value=value)


def test_a_new_study_is_admitted(store: Store) -> None:
    assert admit(store, make_spec(), resume=False) is None
    assert admit(store, make_spec(), resume=True) is None


def test_a_study_with_results_goes_on_only_when_asked(store: Store) -> None:
    run(store, make_spec(), TrialState.COMPLETE, TrialState.FAIL)
    with pytest.raises(StudyExistsError, match="--resume"):
        admit(store, make_spec(), resume=False)
    existing = admit(store, make_spec(budget={"trials": 9}, seeds={"tuner": 3}), resume=True)
    assert existing is not None
    assert existing.trials == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task": {**SPEC["task"], "metric": "val_accuracy"}}, "task"),
        ({"space": {"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}}}, "space"),
        ({"trainer": {"model": "my.Net", "max_epochs": 30}}, "trainer"),
        ({"trainer": {"model": "my.OtherNet", "max_epochs": 3}}, "trainer"),
    ],
)
def test_a_resumed_study_must_be_the_same(store: Store, change: dict[str, Any], what: str) -> None:
    run(store, make_spec(), TrialState.COMPLETE)
    with pytest.raises(SpecError, match=f"another {what}"):
        admit(store, make_spec(**change), resume=True)


def test_what_changes_only_the_speed_may_change(store: Store) -> None:
    run(store, make_spec(), TrialState.COMPLETE)
    faster = {"model": "my.Net", "max_epochs": 3, "threads": 4, "devices": 2, "accelerator": "gpu", "stall_minutes": 5}
    assert admit(store, make_spec(trainer=faster), resume=True) is not None


@pytest.mark.parametrize("resume", [True, False])
def test_a_study_that_only_failed_may_be_corrected(store: Store, resume: bool) -> None:
    run(store, make_spec(), TrialState.FAIL)
    corrected = make_spec(task={**SPEC["task"], "metric": "val_error", "direction": "maximize"})
    assert admit(store, corrected, resume=resume) is None
    assert studies.delete_study_without_results(store, "first")


def test_a_study_of_another_program_is_not_taken_over(store: Store) -> None:
    study = optuna.create_study(storage=HistoryStorage(store), study_name="first", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(SpecError, match="another program"):
        admit(store, make_spec(), resume=True)


@pytest.mark.parametrize("task", ["moons", "circles"])
def test_a_direction_that_contradicts_the_task_or_the_family_is_refused(store: Store, task: str) -> None:
    run(store, make_spec(), TrialState.COMPLETE)
    opposite = {"name": task, "metric": "val_loss", "direction": "maximize"}
    with pytest.raises(DirectionError, match="'first'"):
        admit(store, make_spec(study="second", task=opposite), resume=False)
