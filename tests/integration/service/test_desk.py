"""Trials that are trained elsewhere: handed out once, recorded once, within the budget."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import update

from hpo.errors import ServiceUnavailableError, SettingsError, SpecError, StudyOverError, StudyPausedError
from hpo.running.ahead import Foreteller, Outlook
from hpo.running.attempts import HALVED_BATCH
from hpo.running.budgets import SECONDS_SPENT
from hpo.running.tuner import tuned_study
from hpo.service import proposer
from hpo.service.asked_study import AskedStudy
from hpo.service.desk import Assignment, Begun, Desk, Held
from hpo.service.limits import Limits
from hpo.service.proposer import Proposer
from hpo.studies.study_file import parse_spec
from storage import history, launches, models, studies
from storage.database import Store
from storage.errors import StaleAttemptError, StudyNotFoundError
from storage.history import TrialRecord
from storage.integrity import verify
from storage.late_results import accept_late_result
from storage.launches import Launch
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store

NAMES = (f"study {number}" for number in itertools.count())
SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
}


@pytest.fixture(scope="module", autouse=True)
def warm_service() -> None:
    """Its processes are looked for by their command lines here: they are real ones."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path_factory.mktemp('desk')}/history.db")
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def desk(store: Store) -> Iterator[Desk]:
    made = Desk(store)
    yield made
    made.close()


def create(store: Store, **changes: Any) -> int:
    task = {"name": "churn", "metric": "loss", "direction": "minimize"}
    content = {"study": next(NAMES), "task": task, "space": SPACE, "budget": {"trials": 4}, **changes}
    spec = parse_spec(content)
    return studies.create_study(
        store,
        name=spec.study,
        directions=spec.task.directions,
        task=spec.task.name,
        metric=spec.task.metric,
        space=spec.search_space().to_json(),
        spec=spec.model_dump(mode="json", exclude_defaults=True),
    )


def ask(desk: Desk, study_id: int, worker: str = "w", **options: Any) -> Assignment:
    given = desk.ask(study_id, worker=worker, lease_seconds=options.pop("lease_seconds", 60.0), **options)
    assert given is not None
    return given


def held(given: Assignment) -> Held:
    return Held(study_id=given.study_id, trial=given.trial, attempt=given.attempt)


def trials_of(store: Store, study_id: int) -> list[TrialRecord]:
    return history.list_trials(store, study_id)


def test_a_study_is_asked_until_its_budget_is_spent(desk: Desk, store: Store) -> None:
    study_id = create(store)
    for number in range(4):
        given = ask(desk, study_id)
        assert (given.trial, given.attempt) == (number, 1)
        assert ("momentum" in given.params) == (given.params["optimizer"] == "sgd")
        assert desk.report(held(given), step=0, value=1.0) is False
        desk.tell(held(given), state="complete", values=[abs(math.log10(given.params["lr"]) + 3)], cost_seconds=2.0)
    with pytest.raises(StudyOverError, match="its 4 trials are finished"):
        ask(desk, study_id)
    trials = trials_of(store, study_id)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert all(trial.system_attrs["hindsight:receipt"]["why"] for trial in trials)
    assert len({trial.params["lr"] for trial in trials}) == 4


def test_nobody_is_given_what_another_has_and_the_budget_holds_for_many_at_once(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"trials": 12})
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(lambda name: desk.ask(study_id, worker=str(name), lease_seconds=60.0), range(16)))
    got = [each for each in given if each is not None]
    assert sorted(each.trial for each in got) == list(range(12))
    assert len({tuple(each.params.items()) for each in got}) == 12
    assert [trial.params for trial in trials_of(store, study_id)] == [
        each.params for each in sorted(got, key=lambda each: each.trial)
    ]


def test_the_same_request_is_given_the_same_trial_while_it_runs(desk: Desk, store: Store) -> None:
    study_id = create(store)
    first = ask(desk, study_id, request="r1")
    assert ask(desk, study_id, request="r1") == first
    assert ask(desk, study_id, request="r2").trial == 1
    desk.tell(held(first), state="complete", values=[1.0])
    assert ask(desk, study_id, request="r1").trial == 2


def test_a_server_that_is_started_again_goes_on_where_the_last_one_was(desk: Desk, store: Store) -> None:
    study_id = create(store)
    given = ask(desk, study_id, request="lost")
    other = Desk(store)
    try:
        assert ask(other, study_id, request="lost") == given
        other.report(held(given), step=0, value=0.5)
        other.tell(held(given), state="complete", values=[0.5])
        desk.tell(held(given), state="complete", values=[0.5])  # the answer was lost: it says so again
    finally:
        other.close()
    assert [(trial.state, trial.value) for trial in trials_of(store, study_id)] == [(TrialState.COMPLETE, 0.5)]


def test_a_trial_whose_lease_ends_is_given_to_another_with_its_parameters(desk: Desk, store: Store) -> None:
    study_id = create(store)
    lost = ask(desk, study_id, "slow", lease_seconds=0.01)
    time.sleep(0.05)
    again = ask(desk, study_id, "slow")  # the same name: a worker that was started anew
    assert (again.trial, again.attempt, again.params) == (lost.trial, 2, lost.params)
    with pytest.raises(StaleAttemptError):
        desk.report(held(lost), step=0, value=1.0)
    with pytest.raises(StaleAttemptError):
        desk.should_prune(held(lost))
    with pytest.raises(StaleAttemptError):
        desk.tell(held(lost), state="complete", values=[0.1])
    desk.report(held(again), step=0, value=0.9)
    with pytest.raises(StaleAttemptError):
        desk.tell(held(lost), state="pruned")
    assert desk.extend([held(lost), held(again)], worker="slow", lease_seconds=60.0) == [held(again)]
    assert desk.extend([held(again)], worker="somebody else", lease_seconds=60.0) == []
    (trial,) = trials_of(store, study_id)
    assert [late["value"] for late in trial.system_attrs[studies.LATE_RESULTS_ATTRIBUTE]] == [0.1, None]


def test_a_trial_that_is_given_again_has_its_lease_anew(desk: Desk, store: Store) -> None:
    study_id = create(store)
    first = ask(desk, study_id, request="slow", lease_seconds=0.01)
    time.sleep(0.05)
    assert ask(desk, study_id, request="slow").trial == first.trial  # nobody was faster
    assert ask(desk, study_id, "another").trial == 1
    desk.tell(held(first), state="complete", values=[1.0])


def test_a_lease_that_ends_while_a_proposal_is_made_is_asked_again(desk: Desk, store: Store) -> None:
    study_id = create(store)
    slow = desk.begin(study_id, worker="w", lease_seconds=0.01, request="slow")
    assert slow is not None
    time.sleep(0.05)
    other = ask(desk, study_id, "another")
    with pytest.raises(ServiceUnavailableError, match="the lease of trial 0 ended before it began"):
        desk.hand_out(slow)
    assert (other.trial, other.attempt) == (0, 2)
    assert ask(desk, study_id, request="slow").trial == 1


def test_what_is_given_back_waits_for_the_next(desk: Desk, store: Store) -> None:
    study_id = create(store)
    given = ask(desk, study_id)
    assert desk.release(held(given), reason="interrupted")
    again = ask(desk, study_id, "another")
    assert (again.trial, again.attempt, again.params) == (given.trial, 2, given.params)
    assert desk.release(held(again), reason="it died", counts=True)
    assert desk.release(held(ask(desk, study_id)), reason="it died", counts=True)
    assert not desk.release(held(ask(desk, study_id)), reason="it died", counts=True)
    assert trials_of(store, study_id)[0].state == TrialState.FAIL


def test_nothing_is_proposed_again_while_a_trial_that_has_it_waits(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"trials": 9})
    given = [ask(desk, study_id) for _ in range(3)]
    desk.release(held(given[0]), reason="interrupted")
    spec = parse_spec(history.study_of_id(store, study_id).spec or {})
    (proposed,) = Foreteller(Outlook(store), spec).propose([])
    assert proposed.params not in [dict(each.params) for each in given]


def test_proposals_made_from_one_look_are_those_that_are_made_one_by_one(store: Store) -> None:
    study_id = create(store, budget={"trials": 90})
    spec = parse_spec(history.study_of_id(store, study_id).spec or {})
    study, foreteller = tuned_study(HistoryStorage(store), spec), Foreteller(Outlook(store), spec)
    study.optimize(lambda trial: abs(math.log(spec.search_space().suggest(trial)["lr"]) + 6), n_trials=6)
    together = list(foreteller.propose([], count=3))
    assert len({each.params["lr"] for each in together}) == 3
    begun: list[Any] = []
    for each in together:
        (alone,) = Foreteller(Outlook(store), spec).propose(begun)
        assert alone.params == each.params
        begun.append(each.params)


def test_nothing_is_proposed_again_whichever_trial_has_its_parameters_first(store: Store) -> None:
    study_id = create(store, budget={"trials": 9})
    spec = parse_spec(history.study_of_id(store, study_id).spec or {})
    storage, foreteller = HistoryStorage(store), Foreteller(Outlook(store), spec)
    claims = [studies.claim_trial(store, study_id, worker=name, lease_seconds=60.0, max_trials=9) for name in "abcd"]
    given: list[Any] = []
    for claim in reversed(claims):
        assert claim is not None
        proposed = next(foreteller.propose([])).params
        assert proposed not in given
        given.append(proposed)
        distributions = spec.search_space().distributions
        storage.configure_attempt(
            claim.trial_id, claim.attempt, params=proposed, distributions=distributions, system_attrs={}
        )


def test_out_of_memory_is_tried_once_more_with_half_the_batch(desk: Desk, store: Store) -> None:
    study_id = create(store)
    given = ask(desk, study_id)
    assert not given.halve_batch
    assert desk.release(held(given), reason="out of memory", halve_batch=True)
    again = ask(desk, study_id)
    assert again.halve_batch
    assert not desk.release(held(again), reason="out of memory again", halve_batch=True)
    (trial,) = trials_of(store, study_id)
    assert (trial.state, trial.error) == (TrialState.FAIL, "out of memory again")


def test_a_value_that_comes_under_another_owner_is_kept_as_late_before_it_is_refused(desk: Desk, store: Store) -> None:
    study_id = create(store)
    given = desk.ask(study_id, worker="ann/box", lease_seconds=60.0)
    assert given is not None
    for _ in range(2):  # said again it is kept once
        with pytest.raises(StaleAttemptError, match="somebody else; the value that came for it is kept"):
            desk.tell(held(given), state="complete", values=[0.25], owner="bob")
    desk.report(held(given), step=0, value=0.9, owner="ann")
    with pytest.raises(StaleAttemptError):
        desk.tell(held(given), state="pruned", owner="bob")  # hers is not his
    (trial,) = trials_of(store, study_id)
    assert trial.state == TrialState.RUNNING
    assert [late["value"] for late in trial.system_attrs[studies.LATE_RESULTS_ATTRIBUTE]] == [0.25]
    desk.tell(held(given), state="complete", values=[0.5], owner="ann")
    with pytest.raises(StaleAttemptError, match="kept as late"):
        desk.tell(held(given), state="complete", values=[0.75], owner="bob")
    (trial,) = trials_of(store, study_id)
    assert (trial.value, len(trial.system_attrs[studies.LATE_RESULTS_ATTRIBUTE])) == (0.5, 2)
    assert [finding for finding in verify(store) if finding.check == "seals"] == []


def test_an_owner_who_is_called_as_a_machine_has_no_say_over_what_that_trains_itself(desk: Desk, store: Store) -> None:
    study_id = create(store)
    claim = studies.claim_trial(store, study_id, worker="vm/12/345/0a1b2c3d", lease_seconds=60.0, max_trials=None)
    assert claim is not None
    its = Held(study_id=study_id, trial=claim.number, attempt=claim.attempt)
    with pytest.raises(StaleAttemptError, match="somebody else"):
        desk.report(its, step=0, value=0.5, owner="vm")
    desk.report(its, step=0, value=0.5)  # as operators may


def test_few_values_are_kept_of_those_that_others_tell_and_none_of_an_attempt_that_never_was(
    desk: Desk, store: Store
) -> None:
    study_id = create(store)
    given = desk.ask(study_id, worker="ann/box", lease_seconds=60.0)
    assert given is not None
    refused = []
    for owner in ("bob", "eve"):
        for value in range(5):
            with pytest.raises(StaleAttemptError) as error:
                desk.tell(held(given), state="complete", values=[float(value)], owner=owner)
            refused.append("kept as late" in str(error.value))
        with pytest.raises(StaleAttemptError):
            desk.tell(replace(held(given), attempt=2), state="complete", values=[9.0], owner=owner)
    assert refused == [True, True, True, False, False] * 2
    desk.tell(held(given), state="complete", values=[0.5], owner="ann")
    with pytest.raises(StaleAttemptError):
        desk.tell(held(given), state="complete", values=[7.0], owner="bob")
    (trial,) = trials_of(store, study_id)
    late = [(each["teller"], each["value"]) for each in trial.system_attrs[studies.LATE_RESULTS_ATTRIBUTE]]
    assert late == [(owner, float(value)) for owner in ("bob", "eve") for value in range(3)]
    assert verify(store) == []


def test_a_study_that_nobody_launched_is_asked_within_the_limits(desk: Desk, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/history.db")
    study_id, limits = create(store, budget={"trials": 9}), Limits(trials=3, trials_per_owner=2)
    bounded = Desk(store, limits=limits, proposer=Proposer(store))

    def begun(worker: str, request: str | None = None) -> Begun | None:
        return bounded.begin(study_id, worker=worker, lease_seconds=60.0, request=request)

    try:
        first, _ = begun("ann/1", "a question"), begun("ann/2")
        assert first is not None
        assert begun("ann/3") is None
        again = begun("ann/1", "a question")  # whose answer was lost
        assert again is not None and again.claim == first.claim
        assert begun("bob/1") is not None
        assert begun("bob/2") is None
        studies.release_trial(store, first.claim, reason="interrupted")
        assert begun("bob/2") is not None
    finally:
        bounded.close()
        store.dispose()


def test_a_study_that_nobody_asks_about_is_forgotten_and_its_hours_go_on(
    desk: Desk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = create(store)
    given = ask(desk, study_id)
    spent = desk._studies[study_id][1]._spent
    assert spent > 0.0
    desk.look_after()
    assert study_id in desk._studies
    monkeypatch.setattr("hpo.service.desk.FORGOTTEN_SECONDS", -1.0)
    desk.look_after()
    assert not desk._studies
    assert not desk._making
    desk.tell(held(given), state="complete", values=[1.0])
    assert desk._studies[study_id][1]._spent >= spent


def test_the_hours_of_a_study_never_go_back_whichever_server_forgets_it(store: Store) -> None:
    study = history.study_of_id(store, create(store))
    first, second = (AskedStudy(HistoryStorage(store), study) for _ in range(2))

    def in_the_history() -> float:
        return float(HistoryStorage(store).get_study_user_attrs(study.study_id)[SECONDS_SPENT])

    def work(server: AskedStudy, *, seconds: float) -> None:
        server._spent += seconds
        server.work_goes_on()
        server.rests()

    for server in (first, second):  # an hour each, one after the other
        work(server, seconds=1.0)
        work(server, seconds=3600.0)
    noted = in_the_history()
    assert noted >= 7200.0
    first.rests()
    assert in_the_history() == noted
    work(first, seconds=1.0)
    assert in_the_history() >= noted


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_a_failure_with_its_reason(desk: Desk, store: Store, value: float) -> None:
    study_id = create(store)
    desk.tell(held(ask(desk, study_id)), state="complete", values=[value])
    (trial,) = trials_of(store, study_id)
    assert (trial.state, trial.error) == (TrialState.FAIL, f"nan: loss is {value}, which is no finite number")


def test_values_that_do_not_go_with_the_study_are_refused_and_the_trial_goes_on(desk: Desk, store: Store) -> None:
    task = {"name": "churn", "metric": "loss", "direction": "minimize"}
    against = [{"metric": "size", "direction": "minimize"}]
    study_id = create(store, task={**task, "against": against})
    given = ask(desk, study_id)
    with pytest.raises(SettingsError, match="wants values of loss, size, in this order, and 1 were told"):
        desk.tell(held(given), state="complete", values=[1.0])
    desk.tell(held(given), state="complete", values=[1.0, 2.0])
    assert trials_of(store, study_id)[0].values == (1.0, 2.0)


def test_a_trial_that_is_behind_is_pruned_and_its_value_is_its_last_report(desk: Desk, store: Store) -> None:
    study_id = create(store, pruner={"name": "median", "startup_trials": 1}, budget={"trials": 3})
    good, bad = ask(desk, study_id), ask(desk, study_id)
    assert not desk.report(held(good), step=0, value=0.1)
    desk.tell(held(good), state="complete", values=[0.1])
    assert desk.report(held(bad), step=0, value=9.0)
    assert desk.should_prune(held(bad))
    desk.tell(held(bad), state="pruned")
    assert [(trial.state.name, trial.value) for trial in trials_of(store, study_id)] == [
        ("COMPLETE", 0.1),
        ("PRUNED", 9.0),
    ]


def test_a_study_whose_first_trials_all_fail_hands_out_no_more(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"trials": 30})
    for _ in range(5):
        given = ask(desk, study_id)
        desk.tell(held(given), state="fail", error="the sensor is unplugged")
    with pytest.raises(StudyOverError, match="the first 5 trials failed and none succeeded"):
        ask(desk, study_id)
    with pytest.raises(StaleAttemptError):
        desk.tell(held(given), state="complete", values=[0.5])
    accept_late_result(store, study_id, given.trial)  # by another process
    assert ask(desk, study_id).trial == 6


def test_a_stop_rule_ends_it_and_says_why(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"trials": 60}, stop="auto")
    given = [ask(desk, study_id) for _ in range(12)]
    for number, each in enumerate(given):
        desk.tell(held(each), state="complete", values=[float(max(0, 9 - number))])
    with pytest.raises(StudyOverError, match="is the end of its scale"):
        ask(desk, study_id)


def test_hours_are_those_in_which_somebody_works(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"hours": 0.2 / 3600})
    given = ask(desk, study_id)
    time.sleep(0.3)
    desk.tell(held(given), state="complete", values=[1.0])
    with pytest.raises(StudyOverError, match="hours are spent"):
        ask(desk, study_id)


def test_what_a_user_enqueued_is_handed_out_first(desk: Desk, store: Store) -> None:
    import optuna

    study_id = create(store)
    name = history.study_of_id(store, study_id).name
    optuna.load_study(study_name=name, storage=HistoryStorage(store)).enqueue_trial({"lr": 0.01, "optimizer": "adam"})
    assert ask(desk, study_id).params == {"lr": 0.01, "optimizer": "adam"}


def test_a_study_that_is_paused_or_stopped_says_so(desk: Desk, store: Store) -> None:
    study_id = create(store)
    launches.request_launch(store, study_id, owner="ann", place="workers")
    given = ask(desk, study_id)
    launches.want(store, study_id, "pause")
    with pytest.raises(StudyPausedError, match="paused"):
        ask(desk, study_id)
    desk.tell(held(given), state="complete", values=[1.0])  # what runs may come to its end
    launches.want(store, study_id, "run")
    assert ask(desk, study_id).trial == 1
    launches.want(store, study_id, "stop")
    with pytest.raises(StudyOverError, match="it was stopped"):
        ask(desk, study_id)


def launch_for_workers(desk: Desk, store: Store, *, priority: int = 0, **changes: Any) -> int:
    study_id = create(store, trainer={"function": "code.train"}, **changes)
    launches.request_launch(store, study_id, owner="ann", place="workers", priority=priority)
    return study_id


def work(desk: Desk, request: str | None = None) -> Assignment | None:
    begun = desk.work(worker="w", devices=1, lease_seconds=60.0, request=request)
    return None if begun is None else desk.hand_out(begun)


def launched(store: Store, study_id: int) -> Launch:
    found = launches.find_launch(store, study_id)
    assert found is not None
    return found


def test_work_is_given_of_the_studies_that_workers_train_and_these_end(desk: Desk, store: Store) -> None:
    trainer = {"function": "code.train"}
    study_id, big = create(store, budget={"trials": 1}, trainer=trainer), create(store, trainer=trainer)
    launches.request_launch(store, big, owner="ann", place="workers", devices=4, priority=9)
    launches.request_launch(store, study_id, owner="ann", place="workers")
    begun = desk.work(worker="w", devices=1, lease_seconds=60.0)
    assert begun is not None
    given = desk.hand_out(begun)
    assert (given.study_id, given.content["space"].keys()) == (study_id, SPACE.keys())
    assert desk.work(worker="w", devices=1, lease_seconds=60.0) is None
    desk.tell(held(given), state="complete", values=[1.0])
    launch = launches.find_launch(store, study_id)
    assert launch is not None
    assert (launch.state, launch.message) == ("done", "its 1 trials are finished")
    launches.want(store, big, "stop")


def test_a_study_that_no_trainer_is_named_for_is_for_programs_that_ask_for_its_trials(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"trials": 1})
    launches.request_launch(store, study_id, owner="ann", place="workers", priority=9)
    assert work(desk) is None
    desk.tell(held(ask(desk, study_id)), state="complete", values=[1.0])
    assert launched(store, study_id).state == "done"


def test_a_study_that_cannot_be_read_and_one_that_nothing_is_proposed_for_hold_up_no_other(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(store)
    broken, unproposed, good = (launch_for_workers(desk, store, priority=priority) for priority in (9, 8, 7))
    with store.write() as connection:
        connection.execute(update(models.studies).where(models.studies.c.id == broken).values(spec='{"study": "s"}'))
    monkeypatch.setattr(proposer, "COMMAND", ["false"])
    try:
        with pytest.raises(ServiceUnavailableError, match="was lost"):
            work(desk, request="r")
        assert "is not given to workers" in caplog.text
        assert trials_of(store, unproposed)[0].state == TrialState.WAITING
        monkeypatch.undo()
        given = work(desk, request="r")
        assert given is not None and given.study_id == good
    finally:
        desk.close()
        for study_id in (broken, unproposed, good):
            launches.want(store, study_id, "stop")


def test_a_request_for_work_that_is_repeated_is_given_the_same_trial_whichever_study_is_first_by_then(
    desk: Desk, store: Store
) -> None:
    first = launch_for_workers(desk, store)
    given = work(desk, request="r")
    other = launch_for_workers(desk, store, priority=9)
    again = work(desk, request="r")
    assert given is not None and given == again and given.study_id == first
    for study_id in (first, other):
        launches.want(store, study_id, "stop")


def test_a_trial_that_makes_the_study_hopeless_ends_it(desk: Desk, store: Store) -> None:
    study_id = launch_for_workers(desk, store)
    given, other = work(desk), work(desk)
    assert given is not None and other is not None
    why = "task.metric: loss was never logged"
    desk.tell(held(given), state="fail", error="missing_metric: loss was never logged", study_error=why)
    assert (launched(store, study_id).state, launched(store, study_id).message) == ("failed", why)
    with pytest.raises(StudyOverError, match="loss was never logged"):
        ask(desk, study_id)
    launches.want(store, study_id, "run")  # somebody has mended it
    assert work(desk) is not None
    launches.want(store, study_id, "stop")


def test_a_study_that_has_failed_goes_on_when_somebody_has_mended_it(desk: Desk, store: Store) -> None:
    study_id = launch_for_workers(desk, store, budget={"trials": 30})
    for _ in range(5):
        desk.tell(held(ask(desk, study_id)), state="fail", error="the sensor is unplugged")
    assert launched(store, study_id).state == "failed"
    launches.want(store, study_id, "run")
    for _ in range(5):
        assert launched(store, study_id).state == "running"
        desk.tell(held(ask(desk, study_id)), state="fail", error="it is unplugged again")
    assert launched(store, study_id).state == "failed"


def test_a_study_ends_whose_last_trial_is_given_up_or_whose_last_worker_is_gone(desk: Desk, store: Store) -> None:
    study_id = launch_for_workers(desk, store, budget={"trials": 1})
    for _ in range(3):
        desk.release(held(ask(desk, study_id)), reason="it was killed", counts=True)
    assert launched(store, study_id).state == "failed"
    hours = launch_for_workers(desk, store, budget={"hours": 0.1 / 3600})
    ask(desk, hours, lease_seconds=0.1)
    time.sleep(0.2)
    desk._study(hours).work_goes_on()
    desk.look_after()
    assert (launched(store, hours).state, trials_of(store, hours)[0].state) == ("done", TrialState.WAITING)


def test_to_say_again_that_a_trial_ran_out_of_memory_changes_nothing(desk: Desk, store: Store) -> None:
    study_id = create(store)
    given = ask(desk, study_id)
    HistoryStorage(store).set_trial_system_attr(  # as the first time, but that the server died before it was given back
        HistoryStorage(store).get_trial_id_from_study_id_trial_number(study_id, given.trial),
        HALVED_BATCH,
        given.attempt,
    )
    assert desk.release(held(given), reason="out_of_memory", halve_batch=True)
    again = ask(desk, study_id)
    assert again.halve_batch
    assert not desk.release(held(again), reason="out_of_memory", halve_batch=True)


def test_what_is_unknown_is_told_so(desk: Desk, store: Store) -> None:
    with pytest.raises(StudyNotFoundError):
        desk.ask(10**6, worker="w", lease_seconds=60.0)
    foreign = studies.create_study(store, name=next(NAMES))
    with pytest.raises(SpecError, match="has no study file"):
        desk.ask(foreign, worker="w", lease_seconds=60.0)


def test_the_process_that_proposes_may_be_killed(desk: Desk, store: Store) -> None:
    study_id = create(store, budget={"trials": 8})
    ask(desk, study_id)
    for child in processes_that_propose():
        os.kill(child, signal.SIGKILL)
    assert ask(desk, study_id).trial == 1


def test_proposals_are_ready_where_many_trials_run_and_know_all_but_a_tenth_as_many_results(
    desk: Desk, store: Store
) -> None:
    study_id = create(store, budget={"trials": 60})
    given = [ask(desk, study_id, str(number)) for number in range(22)]
    study = desk._proposer._studies[study_id]
    deadline = time.monotonic() + 10.0
    while len(study.ready) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    ready = [each.proposed.params for each in study.ready]
    assert len(ready) == 2
    started = time.monotonic()
    assert ask(desk, study_id).params == ready[0]
    assert time.monotonic() - started < 0.5
    for each in given[:4]:
        desk.tell(held(each), state="complete", values=[1.0 + each.trial])
    assert all(study.results - each.results <= study.may_lack for each in study.ready)


def test_a_proposal_that_came_too_late_is_there_for_the_next_who_asks(store: Store) -> None:
    study_id = create(store)
    content = history.study_of_id(store, study_id).spec or {}
    made = Proposer(store)
    try:
        made.take(study_id, content, running=1).cancel()
        deadline = time.monotonic() + 30.0
        while not (ready := [each.proposed for each in made._studies[study_id].ready]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [made.take(study_id, content, running=1).result(timeout=0)] == ready
    finally:
        made.close()


def test_it_closes_at_once_whoever_waits_and_whatever_is_being_proposed(store: Store) -> None:
    study_id = create(store)
    content = history.study_of_id(store, study_id).spec or {}
    before, made = processes_that_propose(), Proposer(store)
    gone, waiting = (made.take(study_id, content, running=1) for _ in range(2))
    gone.cancel()
    while not processes_that_propose() - before:
        time.sleep(0.01)
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < 1.0  # it takes longer to be there
    with pytest.raises(ServiceUnavailableError, match="ending"):
        waiting.result(timeout=0)
    assert processes_that_propose() <= before


def processes_that_propose() -> set[int]:
    """Those that this process has started, by whichever thread: a thread's children are another's when it ends."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends while we look
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"proposal_process" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def test_no_thread_is_left_when_it_closes(store: Store) -> None:
    other = Desk(store)
    ask(other, create(store))
    other.close()
    assert not set(threading.enumerate()).intersection(other._proposer._threads)
