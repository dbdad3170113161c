"""What the history promises as a storage beyond Optuna's suite: many processes, little reading, related studies."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from storage.optuna_storage import HistoryStorage


@pytest.fixture
def storage(store):
    return HistoryStorage(store)


def new_study(storage, name=None, **options):
    return optuna.create_study(
        study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(seed=0), **options
    )


def finished(value=1.0, name="x"):
    return create_trial(value=value, params={name: 0.5}, distributions={name: FloatDistribution(0, 1)})


def test_processes_see_each_others_trials(storage, in_processes):
    study = new_study(storage, "shared")
    study.add_trial(finished())
    storage.get_all_trials(study._study_id)  # so that the children inherit a filled cache and open connections

    def work(index):
        own = optuna.load_study(study_name="shared", storage=storage, sampler=optuna.samplers.RandomSampler())
        own.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
        return len(own.trials)

    in_processes(work, 3)
    trials = storage.get_all_trials(study._study_id)
    assert [trial.number for trial in trials] == list(range(16))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)


def test_processes_settle_on_one_first_distribution(storage, in_processes):
    study_id = new_study(storage)._study_id

    def work(index):
        trial_id = storage.create_new_trial(study_id)
        try:
            storage.set_trial_param(trial_id, "c", 0, CategoricalDistribution([index, "other"]))
        except ValueError:
            return "refused"
        return "first"

    assert sorted(in_processes(work, 4)) == ["first", "refused", "refused", "refused"]


def test_threads_share_a_storage(storage):
    study = new_study(storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=24, n_jobs=6)
    assert [trial.number for trial in study.trials] == list(range(24))


def test_what_another_thread_has_seen_meanwhile_is_not_unseen(storage, monkeypatch):
    study_id = new_study(storage)._study_id
    first = storage.create_new_trial(study_id)
    known, read = storage._trials, storage._trials._read

    def meanwhile(*args, **values):
        monkeypatch.setattr(known, "_read", read)
        found = read(*args, **values)
        storage.set_trial_state_values(first, TrialState.COMPLETE, [0.5])
        storage.create_new_trial(study_id)
        assert len(storage.get_all_trials(study_id)) == 2  # the other thread's look
        return found

    monkeypatch.setattr(known, "_read", meanwhile)
    found = storage.get_all_trials(study_id)  # which began before all that
    assert [(trial.number, trial.state) for trial in found] == [(0, TrialState.COMPLETE)]


def test_one_of_many_takes_a_waiting_trial(storage):
    study_id = new_study(storage)._study_id
    for _ in range(20):
        trial_id = storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
        with ThreadPoolExecutor(4) as pool:
            taken = list(
                pool.map(lambda _, t=trial_id: storage.set_trial_state_values(t, TrialState.RUNNING), range(4))
            )
        assert sorted(taken) == [False, False, False, True]


def test_finished_trials_are_read_once(storage):
    study = new_study(storage)
    for _ in range(50):
        study.add_trial(finished())
    running = study.ask()
    other = HistoryStorage(storage.store)
    first = other.get_all_trials(study._study_id, deepcopy=False)
    study.tell(running, 2.0)
    study.add_trial(finished(3.0))
    second = other.get_all_trials(study._study_id, deepcopy=False)
    assert all(a is b for a, b in zip(first[:50], second[:50], strict=True))
    assert [trial.value for trial in second[50:]] == [2.0, 3.0]
    assert first[50].state == TrialState.RUNNING  # what was handed out does not change


def test_an_old_running_trial_does_not_make_everything_read_again(storage):
    study = new_study(storage)
    forgotten = study.ask()
    for _ in range(30):
        study.add_trial(finished())
    first = storage.get_all_trials(study._study_id, deepcopy=False)
    study.add_trial(finished())
    second = storage.get_all_trials(study._study_id, deepcopy=False)
    assert len(second) == 32
    assert all(a is b for a, b in zip(first[1:], second[1:], strict=False))
    study.tell(forgotten, 1.0)
    assert storage.get_all_trials(study._study_id)[0].state == TrialState.COMPLETE


def test_a_deleted_study_is_gone_for_a_reader_that_knew_it(storage):
    study = new_study(storage)
    study.add_trial(finished())
    other = HistoryStorage(storage.store)
    (trial,) = other.get_all_trials(study._study_id)
    storage.delete_study(study._study_id)
    with pytest.raises(KeyError):
        other.get_all_trials(study._study_id)
    with pytest.raises(KeyError):
        other.get_trial(trial._trial_id)


def test_infinite_and_further_values_come_back(storage):
    study = new_study(storage, directions=["minimize", "maximize", "minimize"])
    values = [math.inf, -math.inf, 0.1]
    study.add_trial(create_trial(values=values))
    assert HistoryStorage(storage.store).get_all_trials(study._study_id)[0].values == values


def test_nan_is_never_a_value(storage):
    trial_id = storage.create_new_trial(new_study(storage)._study_id)
    with pytest.raises(ValueError, match="NaN"):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [math.nan])


def test_large_choices_and_odd_names(storage):
    choices = [f"choice {i}" for i in range(2_000)]
    trial = new_study(storage, "ö 'quoted\" \n %s {} study").ask()
    assert trial.suggest_categorical("näme; DROP TABLE trials", choices) in choices
    trial.set_user_attr("<b>", "\0")
    assert storage.get_trial(trial._trial_id).user_attrs == {"<b>": "\0"}


def test_a_distribution_is_kept_once(storage):
    study = new_study(storage)
    for _ in range(3):
        study.ask().suggest_float("x", 0, 1)
    HistoryStorage(storage.store).set_trial_param(1, "y", 0.5, FloatDistribution(0, 1))
    with storage.store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM distributions").scalar() == 1


def test_a_pickled_storage_works_on(storage):
    study = new_study(storage, "a")
    copied = pickle.loads(pickle.dumps(storage))
    copied.create_new_trial(study._study_id)
    assert len(study.trials) == 1
    copied.store.dispose()
