"""Does a database that restarts, is locked, or does not answer lose or double anything?"""

import multiprocessing
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import func, select, text, update

from storage import background_jobs, launches, models, tokens
from storage.audit import Doer
from storage.errors import StaleAttemptError, StoreUnavailableError, StudyExistsError
from storage.history import list_trials
from storage.integrity import verify
from storage.models import outbox, studies, trials
from storage.optuna_storage import HistoryStorage
from storage.schema import Store, open_store
from storage.studies import (
    Claim,
    claim_trial,
    create_study,
    delete_study_without_results,
    extend_leases,
    finish_trial,
    release_trial,
    report,
    start_trial,
)
from storage.trial_rows import lock_study
from tests.lost_replies import lossy_way
from tests.postgresql import database, postgresql_server

LONG = 3600.0
UNIT = FloatDistribution(0, 1)


@pytest.fixture(scope="module")
def own_server():
    """A server that a test may restart; it forgets in a crash whatever did not wait for the disk."""
    with postgresql_server() as server:
        with Store(server.url)._own_connections().session() as connection:
            connection.execute(text("ALTER SYSTEM SET wal_writer_delay = '10s'"))
        server.restart("fast")
        yield server


@pytest.fixture
def restartable(own_server):
    with database(own_server.url) as url:
        store = open_store(url)
        yield store
        store.dispose()


@pytest.fixture
def way(postgresql_store):
    with lossy_way(postgresql_store.url) as way:
        yield way


@pytest.fixture
def far_store(way):
    """A store to which the way may lose replies."""
    store = Store(way.url)
    yield store
    store.dispose()


def claim(store, study_id, **options):
    return claim_trial(store, study_id, **{"worker": "worker", "lease_seconds": LONG, "max_trials": None, **options})


def count(store, table):
    with store.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


# Replies that are lost


def test_a_claim_whose_reply_was_lost_is_the_same_claim(far_store, way):
    study_id = create_study(far_store, name="study")
    way.lose_reply_to(b"COMMIT")
    assert claim(far_store, study_id) == Claim(trial_id=1, number=0, attempt=1)
    HistoryStorage(far_store).create_new_trial(study_id, create_trial(state=TrialState.WAITING))
    way.lose_reply_to(b"COMMIT")
    assert claim(far_store, study_id) == Claim(trial_id=2, number=1, attempt=1)
    assert way.lost == 2
    assert count(far_store, trials) == 2


def test_a_study_whose_reply_was_lost_is_created_once(far_store, way):
    way.lose_reply_to(b"COMMIT")
    assert create_study(far_store, name="study", metric="loss", mlflow_uri="sqlite:///no") == 1
    way.lose_reply_to(b"COMMIT")
    assert HistoryStorage(far_store).create_new_study([StudyDirection.MINIMIZE], "second") == 2
    assert way.lost == 2
    assert count(far_store, studies) == 2
    assert count(far_store, outbox) == 1
    with pytest.raises(StudyExistsError):
        create_study(far_store, name="study")


def test_a_study_whose_deletion_was_not_heard_of_is_deleted(far_store, way):
    create_study(far_store, name="study")
    way.lose_reply_to(b"COMMIT")
    assert delete_study_without_results(far_store, "study")
    storage = HistoryStorage(far_store)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    way.lose_reply_to(b"COMMIT")
    storage.delete_study(study_id)
    assert way.lost == 2
    with pytest.raises(KeyError):
        storage.delete_study(study_id)


def test_what_a_service_does_is_done_and_logged_once_whose_reply_was_lost(far_store, way):
    study_id = create_study(far_store, name="study")
    by = Doer(who="ann", action="study")
    calls = [
        lambda: tokens.create_token(far_store, owner="eve", role="viewer", created_by="ann", doer=by),
        lambda: tokens.revoke_token(far_store, 1, doer=by),
        lambda: background_jobs.add_job(far_store, kind="import", owner="ann", settings={}, doer=by),
        lambda: background_jobs.cancel_job(far_store, 1, doer=by),
        lambda: launches.request_launch(far_store, study_id, owner="ann", place="server", doer=by),
        lambda: launches.want(far_store, study_id, "stop", doer=by),
        lambda: launches.remove_study(far_store, study_id, doer=by),
    ]
    for done, call in enumerate(calls, 1):
        way.lose_reply_to(b"COMMIT")
        call()
        assert count(far_store, models.audit) == done
    assert way.lost == len(calls)


def test_a_token_whose_reply_was_lost_is_made_once_and_opens(far_store, way):
    way.lose_reply_to(b"COMMIT")
    secret, made = tokens.create_token(far_store, owner="ann", role="viewer", created_by="a test")
    assert tokens.find_token(far_store, secret) == made
    assert count(far_store, models.tokens) == way.lost == 1


def test_a_job_whose_reply_was_lost_is_asked_for_and_begun_once(far_store, way):
    way.lose_reply_to(b"COMMIT")
    first = background_jobs.add_job(far_store, kind="import", owner="ann", settings={"path": "runs.csv"})
    again = background_jobs.add_job(far_store, kind="import", owner="ann", settings={"path": "runs.csv"})
    assert count(far_store, models.background_jobs) == 2
    begin = partial(background_jobs.begin_job, far_store, worker="server", lease_seconds=60.0)
    begun = begin()
    assert begun is not None
    way.lose_reply_to(b"COMMIT")
    other = begin(in_hand=[begun.job_id])
    assert other is not None
    assert [(job.job_id, job.attempt) for job in (begun, other)] == [(first.job_id, 1), (again.job_id, 1)]
    assert begin(in_hand=[begun.job_id, other.job_id]) is None
    assert way.lost == 2


def test_an_outcome_whose_reply_was_lost_is_recorded_once(far_store, way):
    study_id = create_study(far_store, name="study", mlflow_uri="sqlite:///no")
    claimed = claim(far_store, study_id)
    for say in (
        lambda: start_trial(far_store, claimed, params={}),
        lambda: report(far_store, claimed, step=0, value=0.5),
        lambda: finish_trial(far_store, claimed, state=TrialState.COMPLETE, value=0.25),
    ):
        way.lose_reply_to(b"COMMIT")
        say()
    assert way.lost == 3
    (trial,) = list_trials(far_store, study_id)
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.25, {0: 0.5})
    with far_store.read() as connection:
        kinds = connection.execute(select(outbox.c.kind, outbox.c.created_at)).all()
    assert Counter(kind for kind, _ in kinds)["run_finished"] == 1
    assert len({created_at for kind, created_at in kinds if kind == "metrics"}) == 1  # MLflow takes it for one


@pytest.mark.parametrize(("counts", "again"), [(False, True), (True, False)])
def test_a_release_whose_reply_was_lost_is_not_refused(far_store, way, counts, again):
    study_id = create_study(far_store, name="study")
    claimed = claim(far_store, study_id)
    way.lose_reply_to(b"COMMIT")
    assert release_trial(far_store, claimed, reason="interrupted", counts=counts, max_attempts=1) == again
    assert way.lost == 1
    with pytest.raises(StaleAttemptError):
        release_trial(far_store, claimed, reason="interrupted")


def test_a_late_result_whose_reply_was_lost_is_kept_once(far_store, way):
    study_id = create_study(far_store, name="study")
    late = claim(far_store, study_id, worker="gone", lease_seconds=-1.0)
    claim(far_store, study_id)
    way.lose_reply_to(b"COMMIT")
    with pytest.raises(StaleAttemptError):
        finish_trial(far_store, late, state=TrialState.COMPLETE, value=0.25)
    assert way.lost == 1
    ((kept,),) = [trial.system_attrs.values() for trial in list_trials(far_store, study_id)]
    assert [result["value"] for result in kept] == [0.25]


def test_trials_of_plain_optuna_are_made_started_and_finished_once(far_store, way):
    storage = HistoryStorage(far_store)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    way.lose_reply_to(b"COMMIT")
    running = storage.create_new_trial(study_id)
    way.lose_reply_to(b"COMMIT")
    waiting = storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING, user_attrs={"a": 1}))
    way.lose_reply_to(b"COMMIT")
    copied = storage.create_new_trial(study_id, create_trial(value=1.0, params={"x": 0.5}, distributions={"x": UNIT}))
    way.lose_reply_to(b"COMMIT")
    assert storage.set_trial_state_values(waiting, TrialState.RUNNING)
    assert not storage.set_trial_state_values(waiting, TrialState.RUNNING)
    way.lose_reply_to(b"COMMIT")
    assert storage.set_trial_state_values(running, TrialState.COMPLETE, [0.5])
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(running, TrialState.COMPLETE, [0.5])
    assert way.lost == 5
    assert [trial._trial_id for trial in storage.get_all_trials(study_id)] == [running, waiting, copied]


def test_what_is_said_of_a_trial_may_be_said_again(far_store, way):
    storage = HistoryStorage(far_store)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    for _ in range(2):  # the second trial finds everything known
        trial_id = storage.create_new_trial(study_id)
        for name in ("x", "y"):
            way.lose_reply_to(b"UPDATE trials")
            storage.set_trial_param(trial_id, name, 0.25, UNIT)
        way.lose_reply_to(b"INSERT INTO intermediate_values")
        storage.set_trial_intermediate_value(trial_id, 3, 0.5)
        way.lose_reply_to(b"INSERT INTO trial_attributes")
        storage.set_trial_user_attr(trial_id, "a", [1])
        trial = storage.get_trial(trial_id)
        assert trial.params == {"x": 0.25, "y": 0.25}
        assert (trial.intermediate_values, trial.user_attrs) == ({3: 0.5}, {"a": [1]})
    assert way.lost == 8


def test_a_reader_asks_again(far_store, way):
    storage = HistoryStorage(far_store)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "study")
    storage.create_new_trial(study_id)
    for ask in (
        lambda: storage.get_all_trials(study_id)[0].number,
        lambda: storage.get_trial(1).number,
        lambda: storage.get_study_id_from_name("study") - 1,
        lambda: len(storage.get_study_user_attrs(study_id)),
        lambda: len(storage.get_all_studies()) - 1,
    ):
        way.lose_reply_to(b"SELECT")
        assert ask() == 0
    assert way.lost == 5


def test_what_is_not_known_to_be_held_is_reclaimed(store):
    study_id = create_study(store, name="study")
    lost = claim(store, study_id, lease_seconds=-1.0)  # its worker never heard of it
    held = claim(store, study_id, lease_seconds=-1.0, holding=[lost.trial_id])
    assert held.number == 1
    again = claim(store, study_id, holding=[held.trial_id])
    assert (again.number, again.attempt) == (lost.number, 2)
    assert claim(store, study_id).number == 2  # who does not say what it holds keeps all
    assert extend_leases(store, [held, again], worker="worker", lease_seconds=LONG) == {held.trial_id, again.trial_id}


# Servers that restart


def test_a_crash_of_the_server_takes_nothing_from_a_trial_that_goes_on(restartable, own_server):
    storage = HistoryStorage(restartable)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    for _ in range(2):  # the second trial finds everything known, and nothing of it waits for the disk
        trial_id = storage.create_new_trial(study_id)
        for name in ("x", "y", "z"):
            storage.set_trial_param(trial_id, name, 0.25, UNIT)
    storage.set_trial_intermediate_value(trial_id, 0, 0.5)
    storage.set_trial_user_attr(trial_id, "a", 1)
    own_server.restart("immediate")
    storage.set_trial_intermediate_value(trial_id, 1, 0.75)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    trial = HistoryStorage(restartable).get_trial(trial_id)
    assert trial.params == {"x": 0.25, "y": 0.25, "z": 0.25}
    assert trial.intermediate_values == {0: 0.5, 1: 0.75}
    assert (trial.user_attrs, trial.state) == ({"a": 1}, TrialState.COMPLETE)


def test_workers_outlive_a_server_that_crashes_and_restarts(restartable, own_server):
    study_id = create_study(restartable, name="claimed", mlflow_uri="sqlite:///no")
    optuna_id = HistoryStorage(restartable).create_new_study([StudyDirection.MINIMIZE])
    context = multiprocessing.get_context("fork")
    problems, is_enough = context.SimpleQueue(), context.Event()

    def work(index, one_trial):
        store, done = Store(restartable.url), 0
        try:
            storage = HistoryStorage(store)
            while not is_enough.is_set() or not done:
                one_trial(store, storage, f"worker {index}")
                done += 1
            problems.put(None)
        except BaseException as error:
            problems.put(repr(error))

    def claimed(store, storage, worker):
        own = claim(store, study_id, worker=worker)
        start_trial(store, own, params={})
        for step in range(3):
            report(store, own, step=step, value=own.number + step)
        finish_trial(store, own, state=TrialState.COMPLETE, value=float(own.number))

    def asked(store, storage, worker):
        trial_id = storage.create_new_trial(optuna_id)
        for name in ("x", "y", "z"):
            storage.set_trial_param(trial_id, name, 0.25, UNIT)
        for step in range(3):
            storage.set_trial_intermediate_value(trial_id, step, step)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])

    workers = [context.Process(target=work, args=(i, one)) for i, one in enumerate([claimed, claimed, asked, asked])]
    for worker in workers:
        worker.start()
    for mode in ("immediate", "fast", "immediate"):
        time.sleep(0.7)
        own_server.restart(mode)
    time.sleep(0.7)
    is_enough.set()
    assert [problems.get() for _ in workers] == [None] * len(workers)
    for worker in workers:
        worker.join()
    done = list_trials(restartable, study_id)
    assert [trial.number for trial in done] == list(range(len(done)))
    for trial in done:
        assert (trial.state, trial.value, trial.attempt) == (TrialState.COMPLETE, float(trial.number), 1)
        assert trial.intermediate_values == {step: trial.number + step for step in range(3)}
    for trial in HistoryStorage(restartable).get_all_trials(optuna_id):
        assert (trial.state, trial.params) == (TrialState.COMPLETE, {"x": 0.25, "y": 0.25, "z": 0.25})
        assert trial.intermediate_values == {0: 0.0, 1: 1.0, 2: 2.0}


def test_a_server_that_stays_away_is_given_up(restartable, own_server):
    store = Store(restartable.url, patience_seconds=0.5)
    study_id = create_study(store, name="study")
    claimed = claim(store, study_id)
    own_server.stop()
    try:
        with pytest.raises(StoreUnavailableError, match="cannot be used"):
            finish_trial(store, claimed, state=TrialState.COMPLETE, value=0.5)
    finally:
        own_server.start()
    finish_trial(store, claimed, state=TrialState.COMPLETE, value=0.5)
    assert [trial.value for trial in list_trials(store, study_id)] == [0.5]
    store.dispose()


# Files that are locked


def test_a_locked_file_is_waited_for(sqlite_store):
    entered, leave = threading.Event(), threading.Event()
    other = Store(sqlite_store.url)

    def hold():
        with other.write():
            entered.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    with pytest.raises(StoreUnavailableError, match="locked"):
        create_study(Store(sqlite_store.url, patience_seconds=0.1), name="impatient")
    threading.Timer(0.2, leave.set).start()
    assert create_study(sqlite_store, name="patient") == 1
    holder.join()
    other.dispose()


def test_who_writes_again_and_again_stands_behind_who_waits(sqlite_store):
    context = multiprocessing.get_context("fork")
    written, is_enough = context.Value("i", 0), context.Event()

    def write_without_end():
        store = Store(sqlite_store.url)
        while not is_enough.is_set():
            with store.write(durable=False) as connection:
                connection.execute(update(studies).values(quarantine=None))
                time.sleep(0.05)
            written.value += 1

    busy = context.Process(target=write_without_end)
    busy.start()
    while not written.value:
        time.sleep(0.01)
    passed = []
    for number in range(5):
        before = written.value
        create_study(sqlite_store, name=str(number))
        passed.append(written.value - before)
    is_enough.set()
    busy.join()
    assert max(passed) <= 3


# Studies that are busy


@contextmanager
def busy(study_id, store, *, seconds):
    """Somebody holds the study for so long, as many who claim its trials do together."""
    is_held, is_enough = threading.Event(), threading.Event()

    def hold():
        with store.write() as connection:
            lock_study(connection, study_id)
            is_held.set()
            is_enough.wait(seconds)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    try:
        yield
    finally:
        is_enough.set()
        holder.join()


def test_who_holds_a_trial_stands_in_line_for_its_study(postgresql_store):
    """However long the line is: what counts as patience is for a database that is away."""
    store = Store(postgresql_store.url, patience_seconds=0.2)
    storage = HistoryStorage(store)
    study_id = create_study(store, name="study")
    first, second, third = (claim(store, study_id) for _ in range(3))
    for call in (
        lambda: storage.set_trial_param(first.trial_id, "x", 0.5, UNIT),
        lambda: finish_trial(store, first, state=TrialState.COMPLETE, value=0.5),
        lambda: storage.set_trial_param(second.trial_id, "y", 0.5, UNIT),  # now it is of no family again
        lambda: release_trial(store, second, reason="its process died", counts=True, max_attempts=1),
        lambda: storage.set_trial_param(third.trial_id, "z", 0.5, UNIT),
        lambda: storage.set_trial_state_values(third.trial_id, TrialState.COMPLETE, [0.25]),
    ):
        with busy(study_id, postgresql_store, seconds=0.6):
            call()
    assert [trial.state.name for trial in list_trials(store, study_id)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert verify(store) == []
    store.dispose()


def test_an_outcome_without_parameters_waits_for_nobody(postgresql_store):
    study_id = create_study(postgresql_store, name="study")
    claimed = claim(postgresql_store, study_id)
    with busy(study_id, postgresql_store, seconds=60.0):
        finish_trial(postgresql_store, claimed, state=TrialState.COMPLETE, value=0.5)
        assert [trial.value for trial in list_trials(postgresql_store, study_id)] == [0.5]


# Fast ways that must not be taken


def test_two_programs_configure_one_trial(store):
    first, second = HistoryStorage(store), HistoryStorage(Store(store.url))
    study_id = first.create_new_study([StudyDirection.MINIMIZE])
    for _ in range(2):  # the second trial finds everything known
        trial_id = first.create_new_trial(study_id)
        first.set_trial_param(trial_id, "x", 0.1, UNIT)
        second.set_trial_param(trial_id, "y", 0.2, UNIT)
        first.set_trial_param(trial_id, "z", 3, IntDistribution(0, 5))
        second.set_trial_param(trial_id, "x", 0.4, UNIT)
        first.set_trial_param(trial_id, "w", 0.5, UNIT)
        assert first.get_trial(trial_id).params == {"x": 0.4, "y": 0.2, "z": 3, "w": 0.5}
    second.store.dispose()


def test_what_another_program_has_finished_is_not_changed(store):
    first, second = HistoryStorage(store), HistoryStorage(Store(store.url))
    study_id = first.create_new_study([StudyDirection.MINIMIZE])
    first.set_trial_param(first.create_new_trial(study_id), "x", 0.1, UNIT)
    trial_id = first.create_new_trial(study_id)
    second.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    for change in (
        lambda: first.set_trial_param(trial_id, "x", 0.1, UNIT),
        lambda: first.set_trial_intermediate_value(trial_id, 0, 0.5),
        lambda: first.set_trial_user_attr(trial_id, "a", 1),
        lambda: first.set_trial_state_values(trial_id, TrialState.FAIL),
    ):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            change()
    trial = second.get_trial(trial_id)
    assert (trial.params, trial.intermediate_values, trial.user_attrs, trial.value) == ({}, {}, {}, 1.0)
    second.store.dispose()


def test_nobody_waits_in_a_circle(postgresql_store, in_processes):
    """Claims, outcomes, new parameters and deletions at the same time: no deadlock that PostgreSQL had to end."""
    store = postgresql_store
    study_id = create_study(store, name="claimed")

    def work(index):
        own = Store(store.url)
        optuna_storage = HistoryStorage(own)
        for turn in range(25):
            claimed = claim(own, study_id, worker=str(index), lease_seconds=0.0 if turn % 3 else LONG)
            try:
                optuna_storage.set_trial_param(claimed.trial_id, f"x{turn // 5}", 0.5, UNIT)
                if turn % 4:
                    finish_trial(own, claimed, state=TrialState.COMPLETE, value=0.5)
                else:
                    extend_leases(own, [claimed], worker=str(index), lease_seconds=LONG)
            except (StaleAttemptError, optuna.exceptions.UpdateFinishedTrialError):
                pass  # its lease was over
            name = f"short {index} {turn}"
            short = optuna_storage.create_new_study([StudyDirection.MINIMIZE], name)
            trial_id = optuna_storage.create_new_trial(short)
            optuna_storage.set_trial_param(trial_id, "x0", 0.5, UNIT)
            optuna_storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
            optuna_storage.delete_study(short)
        own.dispose()

    def deadlocks():
        with store.write() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            return connection.execute(text(query)).scalar_one()

    before = deadlocks()
    in_processes(work, 4)
    assert deadlocks() == before
