"""At-least-once execution, exactly-once completion: does the queue keep its promise?"""

import json
import multiprocessing
import os
import signal
import time
from itertools import count

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import insert, select, update

from storage.errors import StaleAttemptError, StorageError, StudyExistsError, StudyNotFoundError, TrialNotFoundError
from storage.families import METRIC_NAMES
from storage.history import get_study, list_trials
from storage.mlflow_runs import study_run_key
from storage.models import mlflow_runs, outbox, studies, tasks, trials
from storage.optuna_storage import HistoryStorage
from storage.outbox import pending
from storage.studies import (
    LATE_RESULTS_ATTRIBUTE,
    Claim,
    claim_trial,
    create_study,
    delete_study_without_results,
    extend_leases,
    finish_trial,
    reclaim_dead_workers,
    release_trial,
    report,
    set_mlflow_uri,
    start_trial,
)

LONG = 3600.0
ENDED = -1.0  # a lease that is over as soon as it is given
numbers = count()


@pytest.fixture
def study_id(store):
    return create_study(store, name="study", task="digits", metric="val_loss", mlflow_uri="sqlite:///unused.db")


def claim(store, study_id, *, worker=None, lease=LONG, max_trials=None, max_attempts=3):
    worker = worker or ("worker" if lease == LONG else f"gone {next(numbers)}")
    return claim_trial(
        store, study_id, worker=worker, lease_seconds=lease, max_trials=max_trials, max_attempts=max_attempts
    )


def complete(store, claimed, value=0.5):
    finish_trial(store, claimed, state=TrialState.COMPLETE, value=value)


def record(store, study_id, number=0):
    return list_trials(store, study_id)[number]


def messages(store):
    with store.read() as connection:
        rows = connection.execute(select(outbox).order_by(outbox.c.id)).all()
    return [(row.kind, row.attempt, json.loads(row.payload)) for row in rows]


# Studies


def test_a_study_is_created_whole(store):
    space = {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}}
    create_study(store, name="a", task="digits", metric="val_loss", space=space, spec={"trials": 5})
    study = get_study(store, "a")
    assert (study.task, study.metric, study.directions, study.space) == ("digits", "val_loss", ("minimize",), space)
    assert HistoryStorage(store).get_study_system_attrs(study.study_id) == {"hindsight:space": space}


def test_a_name_is_given_once(store, study_id):
    with pytest.raises(StudyExistsError, match="'study' exists already"):
        create_study(store, name="study")


def test_a_task_keeps_its_direction(store, study_id):
    create_study(store, name="second", task="digits", metric="val_loss")
    with pytest.raises(StorageError, match="known to minimize val_loss"):
        create_study(store, name="third", directions=["maximize"], task="digits", metric="val_loss")
    assert len(messages(store)) == 1  # nothing of the refused one is left


def test_only_followed_studies_leave_messages(store):
    claimed = claim(store, create_study(store, name="quiet"))
    complete(store, claimed)
    assert messages(store) == []


def test_a_study_may_be_followed_elsewhere(store, study_id):
    set_mlflow_uri(store, study_id, None)
    complete(store, claim(store, study_id))
    assert len(messages(store)) == 1
    assert pending(store) == pending(store, study_id) == 0
    set_mlflow_uri(store, study_id, "http://other")
    assert get_study(store, "study").mlflow_uri == "http://other"
    assert pending(store, study_id) == 1
    assert pending(store, study_id + 1) == 0
    with pytest.raises(StudyNotFoundError):
        set_mlflow_uri(store, 99, None)


def test_a_study_without_results_can_be_deleted(store, study_id):
    fail = claim(store, study_id)
    report(store, fail, step=0, value=1.0)
    finish_trial(store, fail, state=TrialState.FAIL, value=None, error="a typing error")
    held = claim(store, study_id)
    assert not delete_study_without_results(store, "study")  # somebody is at it
    release_trial(store, held, reason="interrupted")
    with store.write() as connection:
        created_at = connection.execute(select(studies.c.created_at)).scalar_one()  # exact, unlike a datetime
        keys = [study_run_key("study", created_at), "other@1.0"]
        for key in (*keys, f"{keys[0]}/0/1"):
            connection.execute(insert(mlflow_runs).values(mlflow_uri="uri", run_key=key, run_id="1"))
    assert delete_study_without_results(store, "study")
    with store.read() as connection:
        assert connection.execute(select(mlflow_runs.c.run_key)).scalars().all() == ["other@1.0"]
        for table in (studies, trials, tasks, outbox):
            assert connection.execute(select(table)).all() == []
    create_study(store, name="study", task="digits", metric="val_loss", directions=["maximize"])
    with pytest.raises(StudyNotFoundError, match="Did you mean 'study'"):
        delete_study_without_results(store, "studi")


def test_results_and_shared_tasks_are_not_deleted(store, study_id):
    other = create_study(store, name="other", task="digits", metric="val_loss")
    complete(store, claim(store, study_id))
    assert not delete_study_without_results(store, "study")
    assert delete_study_without_results(store, "other")
    assert get_study(store, "study").task == "digits"
    with pytest.raises(StudyNotFoundError):
        claim(store, other)


# Claims


def test_new_trials_until_there_are_enough(store, study_id):
    claims = [claim(store, study_id, max_trials=2) for _ in range(3)]
    assert [c and (c.number, c.attempt) for c in claims] == [(0, 1), (1, 1), None]


def test_waiting_trials_come_first_and_oldest_first(store, study_id):
    study = optuna.load_study(study_name="study", storage=HistoryStorage(store))
    for x in (1.0, 2.0):
        study.enqueue_trial({"x": x})
    assert [claim(store, study_id, max_trials=3).number for _ in range(3)] == [0, 1, 2]


def test_there_is_no_such_study(store):
    with pytest.raises(StudyNotFoundError):
        claim(store, 99)


def test_a_trial_whose_lease_ended_is_claimed_again_with_its_configuration(store, study_id):
    storage = HistoryStorage(store)
    first = claim(store, study_id, lease=ENDED)
    storage.set_trial_param(first.trial_id, "x", 0.25, optuna.distributions.FloatDistribution(0, 1))
    report(store, first, step=0, value=1.0)
    second = claim(store, study_id)
    assert (second.number, second.attempt) == (0, 2)
    trial = storage.get_trial(second.trial_id)
    assert trial.params == {"x": 0.25}
    assert trial.intermediate_values == {}
    assert trial.state == TrialState.RUNNING


def test_a_trial_is_given_up_after_its_last_attempt(store, study_id):
    for _ in range(2):
        claim(store, study_id, lease=ENDED, max_trials=1, max_attempts=2)
    assert claim(store, study_id, max_trials=1, max_attempts=2) is None
    assert record(store, study_id).state == TrialState.FAIL
    assert record(store, study_id).error == "gave up after 2 attempts: its lease ended"


def test_a_worker_keeps_what_it_held_while_the_machine_was_suspended(store, study_id):
    held = claim(store, study_id, worker="worker", lease=ENDED)
    assert claim(store, study_id, worker="worker").number == 1
    assert extend_leases(store, [held], worker="worker", lease_seconds=LONG) == {held.trial_id}
    complete(store, held)


def test_interruptions_are_no_deaths(store, study_id):
    for _ in range(5):
        assert release_trial(store, claim(store, study_id), reason="interrupted")
    assert release_trial(store, claim(store, study_id), reason="killed", counts=True)
    claim(store, study_id, lease=ENDED)
    assert not release_trial(store, claim(store, study_id), reason="killed by SIGKILL", counts=True)
    assert record(store, study_id).state == TrialState.FAIL
    assert record(store, study_id).error == "gave up after 3 attempts: killed by SIGKILL"


def test_dead_workers_count(store, study_id):
    for _ in range(3):
        claim(store, study_id)
        reclaim_dead_workers(store, study_id, lambda worker: False)
    assert record(store, study_id).error == "gave up after 3 attempts: its worker died"


def test_a_smaller_budget_leaves_what_waits(store, study_id):
    running, done, interrupted = [claim(store, study_id) for _ in range(3)]
    complete(store, done)
    release_trial(store, interrupted, reason="interrupted")
    assert claim(store, study_id, max_trials=2) is None
    assert record(store, study_id, interrupted.number).state == TrialState.WAITING
    assert claim(store, study_id, max_trials=3).number == interrupted.number
    complete(store, running)


def test_a_lease_can_be_extended_by_its_holder_only(store, study_id):
    held, lost = claim(store, study_id), claim(store, study_id, worker="worker", lease=ENDED)
    claim(store, study_id, worker="other")
    assert extend_leases(store, [held, lost], worker="worker", lease_seconds=LONG) == {held.trial_id}
    assert extend_leases(store, [held], worker="other", lease_seconds=LONG) == set()
    assert extend_leases(store, [], worker="worker", lease_seconds=LONG) == set()


def test_trials_without_a_lease_are_left_alone(store, study_id):
    optuna.load_study(study_name="study", storage=HistoryStorage(store)).ask()
    assert reclaim_dead_workers(store, study_id, lambda worker: False) == 0
    assert claim(store, study_id).number == 1


def test_a_released_trial_waits_for_the_next(store, study_id):
    first = claim(store, study_id)
    release_trial(store, first, reason="interrupted")
    assert record(store, study_id).state == TrialState.WAITING
    with pytest.raises(StaleAttemptError):
        release_trial(store, first, reason="again")
    assert claim(store, study_id).attempt == 2


def test_dead_workers_are_found_at_once(store, study_id):
    dead, _alive = claim(store, study_id, worker="dead"), claim(store, study_id, worker="alive")
    assert reclaim_dead_workers(store, study_id, lambda worker: worker == "alive") == 1
    assert claim(store, study_id) == Claim(trial_id=dead.trial_id, number=0, attempt=2)


def test_trials_of_several_dead_workers_are_taken_in_their_order(store, study_id):
    """As everybody takes them who takes more than one, so that nobody waits in a circle."""
    held = [claim(store, study_id, worker=worker) for worker in ("b", "a", "c", "b", "a")]
    assert reclaim_dead_workers(store, study_id, lambda worker: worker == "c") == 4
    with store.read() as connection:
        told = select(outbox.c.trial_id).where(outbox.c.kind == "run_finished").order_by(outbox.c.id)
        assert connection.execute(told).scalars().all() == [held[n].trial_id for n in (0, 1, 3, 4)]


# Outcomes


def test_an_outcome_is_recorded_with_what_it_cost(store, study_id):
    claimed = claim(store, study_id)
    start_trial(store, claimed, params={"x": 1}, seed=2**32 + 1, code_version="abc", hardware="cpu")
    report(store, claimed, step=3, value=0.25, metrics={"val_loss": 0.25})
    finish_trial(
        store,
        claimed,
        state=TrialState.COMPLETE,
        value=0.25,
        cost_seconds=1.5,
        epochs=4,
        peak_memory_bytes=2**40,
        checkpoint="best.ckpt",
    )
    trial = record(store, study_id)
    assert (trial.state, trial.value, trial.seed, trial.epochs) == (TrialState.COMPLETE, 0.25, 2**32 + 1, 4)
    assert (trial.cost_seconds, trial.peak_memory_bytes, trial.checkpoint) == (1.5, 2**40, "best.ckpt")
    assert trial.intermediate_values == {3: 0.25}
    assert [kind for kind, _, _ in messages(store)] == ["study_started", "run_started", "metrics", "run_finished"]


def test_several_objectives_and_what_else_was_measured_are_recorded(store):
    study_id = create_study(store, name="front", directions=["maximize", "minimize"], mlflow_uri="sqlite:///no.db")
    HistoryStorage(store).set_study_system_attr(study_id, METRIC_NAMES, ["accuracy", "size_bytes"])
    claimed = claim(store, study_id)
    for _ in range(2):  # said twice
        finish_trial(
            store,
            claimed,
            state=TrialState.COMPLETE,
            value=0.9,
            more_values=(4096.0,),
            measured={"size_bytes": 4096.0, "latency_ms": 0.25},
            notes=["as if it were noon"],
        )
    found = record(store, study_id)
    assert found.values == (0.9, 4096.0)
    assert found.user_attrs == {"size_bytes": 4096.0, "latency_ms": 0.25}
    assert found.system_attrs["hindsight:notes"] == ["as if it were noon"]
    assert get_study(store, "front").objectives == ("accuracy", "size_bytes")
    with store.read() as connection:
        payload = connection.execute(select(outbox.c.payload).where(outbox.c.kind == "run_finished")).scalar_one()
    assert json.loads(payload)["measured"] == {"size_bytes": 4096.0, "latency_ms": 0.25}


def test_a_step_without_the_metric_is_told_to_mlflow_alone(store, study_id):
    claimed = claim(store, study_id, lease=0.2)
    report(store, claimed, step=0, value=None, metrics={"train_loss": 0.5})
    assert record(store, study_id).intermediate_values == {}
    assert messages(store)[-1][0] == "metrics"
    time.sleep(0.3)
    claim(store, study_id)
    with pytest.raises(StaleAttemptError):
        report(store, claimed, step=1, value=None, metrics={"train_loss": 0.4})


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_complete_trial_has_a_value(store, study_id, value):
    claimed = claim(store, study_id)
    with pytest.raises(ValueError, match="value"):
        complete(store, claimed, value)
    assert record(store, study_id).state == TrialState.RUNNING


def test_an_error_may_hold_anything(store, study_id):
    claimed = claim(store, study_id)
    finish_trial(store, claimed, state=TrialState.FAIL, value=None, error="\0 <b>ä</b> '; DROP TABLE trials")
    assert record(store, study_id).error == " <b>ä</b> '; DROP TABLE trials"


def test_saying_the_same_again_changes_nothing(store, study_id):
    claimed = claim(store, study_id)
    for _ in range(2):
        complete(store, claimed, 0.5)
    assert [kind for kind, _, _ in messages(store)].count("run_finished") == 1


def test_a_late_result_is_refused_and_kept(store, study_id):
    late = claim(store, study_id, lease=ENDED)
    current = claim(store, study_id)
    with pytest.raises(StaleAttemptError, match="attempt 2"):
        complete(store, late, 0.1)
    with pytest.raises(StaleAttemptError):
        report(store, late, step=0, value=0.1)
    with pytest.raises(StaleAttemptError):
        start_trial(store, late, params={})
    complete(store, current, 0.2)
    with pytest.raises(StaleAttemptError):
        complete(store, late, 0.1)
    trial = HistoryStorage(store).get_trial(current.trial_id)
    assert trial.value == 0.2
    assert [(r["attempt"], r["value"]) for r in trial.system_attrs[LATE_RESULTS_ATTRIBUTE]] == [(1, 0.1)]


def test_a_requeued_attempt_is_killed_in_mlflow(store, study_id):
    claim(store, study_id, lease=ENDED)
    release_trial(store, claim(store, study_id), reason="interrupted")
    ended = [(attempt, payload["status"], payload["error"]) for _, attempt, payload in messages(store)[1:]]
    assert ended == [(1, "KILLED", "its lease ended"), (2, "KILLED", "interrupted")]


def test_there_is_no_such_trial(store, study_id):
    with pytest.raises(TrialNotFoundError):
        complete(store, Claim(trial_id=99, number=0, attempt=1))


# Many processes


def test_no_queued_trial_is_given_twice(store, study_id, in_processes):
    study = optuna.load_study(study_name="study", storage=HistoryStorage(store))
    for x in range(200):
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": x}}))

    def work(index):
        numbers = []
        while (claimed := claim(store, study_id, worker=str(index), max_trials=200)) is not None:
            complete(store, claimed, float(claimed.number))
            numbers.append(claimed.number)
        return numbers

    taken = in_processes(work, 4)
    assert sorted(number for numbers in taken for number in numbers) == list(range(200))
    done = list_trials(store, study_id)
    assert [(trial.value, trial.attempt) for trial in done] == [(float(number), 1) for number in range(200)]


def test_plain_optuna_and_claims_share_a_queue(store, study_id, in_processes):
    study = optuna.load_study(study_name="study", storage=HistoryStorage(store))
    for x in range(60):
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": x}}))

    def work(index):
        numbers = []
        if index % 2:
            while (claimed := claim(store, study_id, max_trials=60)) is not None:
                numbers.append(claimed.number)
            return numbers
        own = optuna.load_study(study_name="study", storage=HistoryStorage(store))
        while (trial_id := own._pop_waiting_trial_id()) is not None:
            numbers.append(own._storage.get_trial_number_from_id(trial_id))
        return numbers

    taken = in_processes(work, 4)
    assert sorted(number for numbers in taken for number in numbers) == list(range(60))


def test_numbers_have_no_gaps_and_no_doubles(store, study_id, in_processes):
    storage = HistoryStorage(store)
    in_processes(lambda _: [storage.create_new_trial(study_id) for _ in range(25)], 4)
    assert [trial.number for trial in storage.get_all_trials(study_id)] == list(range(100))


def test_the_trial_of_a_killed_worker_is_done_by_another(store, study_id):
    context = multiprocessing.get_context("fork")
    claimed = context.Event()

    def work():
        report(store, claim(store, study_id, lease=0.3), step=0, value=1.0)
        claimed.set()
        time.sleep(60)

    worker = context.Process(target=work)
    worker.start()
    claimed.wait(30)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    deadline = time.monotonic() + 30
    while (again := claim(store, study_id, max_trials=1)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    complete(store, again, 0.75)
    assert again.attempt == 2
    assert record(store, study_id).value == 0.75


def test_killed_in_the_middle_of_writing_loses_and_doubles_nothing(store, study_id):
    """Warm workers are killed at random moments; the rest is done after them."""
    context = multiprocessing.get_context("fork")

    def work(index):
        own = {"worker": str(index), "lease": 0.2, "max_trials": 60, "max_attempts": 99}
        while (claimed := claim(store, study_id, **own)) is not None:
            start_trial(store, claimed, params={})
            complete(store, claimed, float(claimed.number))

    for index in range(10):
        worker = context.Process(target=work, args=(index,))
        worker.start()
        time.sleep(0.03 + 0.02 * index)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    with store.write() as connection:  # whatever was held is over now
        connection.execute(update(trials).where(trials.c.lease_until.is_not(None)).values(lease_until=0.0))
    work(99)
    done = list_trials(store, study_id)
    assert [trial.value for trial in done] == [float(number) for number in range(60)]
    finished = [
        (attempt, p["value"]) for kind, attempt, p in messages(store) if kind == "run_finished" and "value" in p
    ]
    assert sorted(value for _, value in finished) == [float(number) for number in range(60)]
