"""Does `hpo.best` judge the studies of a real history, whoever made them?"""

import json
import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

import hpo
from hpo.errors import SettingsError
from hpo.statistics.best import FEWEST_TRIALS
from hpo.studies.replicates import check_name, mark_of
from hpo.tuning.known_noise import known_noise
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.history import get_study
from storage.optuna_storage import HistoryStorage

LR = {"lr": FloatDistribution(1e-4, 1.0, log=True)}
CONDITIONAL = {
    "optimizer": CategoricalDistribution(("sgd", "adam")),
    **LR,
    "momentum": FloatDistribution(0.0, 0.99),
}


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


def _loss(params):
    base = (math.log10(params["lr"]) + 2) ** 2
    return base + (0.5 * (params["momentum"] - 0.9) ** 2 if "momentum" in params else 0.3)


def _params(rng, conditional):
    lr = float(10 ** rng.uniform(-4, 0))
    if not conditional:
        return {"lr": lr}
    if rng.random() < 0.5:
        return {"optimizer": "adam", "lr": lr}
    return {"optimizer": "sgd", "lr": lr, "momentum": float(rng.uniform(0, 0.99))}


def _trial(params, value, state=TrialState.COMPLETE, **options):
    distributions = {name: CONDITIONAL[name] for name in params}
    value = value if state == TrialState.COMPLETE else None
    return create_trial(params=params, distributions=distributions, value=value, state=state, **options)


def _study(storage, name, *, n=24, sign=1, conditional=False, seed=0, noise=0.1):
    direction = "minimize" if sign > 0 else "maximize"
    study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    rng = np.random.default_rng(seed)
    for _ in range(n):
        params = _params(rng, conditional)
        study.add_trial(_trial(params, sign * (_loss(params) + noise * rng.standard_normal())))
    return study


@pytest.fixture
def storage(sqlite_store):
    return HistoryStorage(sqlite_store)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_winner_is_worth_what_it_says(storage, conditional):
    study = _study(storage, "noisy", conditional=conditional)
    found = hpo.best(study)
    assert found.used == 24 and found.not_enough is None
    low, high = found.winner.interval95
    assert low < _loss(found.winner.params) < high
    assert low < found.winner.value < high
    assert found.winner.probability_best <= sum(each.probability_best for each in found.contenders) <= 1
    assert found.winner in found.contenders
    assert found.noise_interval95[0] < 0.1 < found.noise_interval95[1]
    json.dumps(found.to_json())


def test_maximising_is_minimising_upside_down(storage):
    down, up = (hpo.best(_study(storage, f"sign {sign}", sign=sign)) for sign in (1, -1))
    assert up.winner.number == down.winner.number and up.raw_best[0] == down.raw_best[0]
    assert up.winner.value == pytest.approx(-down.winner.value)
    assert up.winner.interval95 == pytest.approx((-down.winner.interval95[1], -down.winner.interval95[0]))
    assert up.noise == pytest.approx(down.noise)


def test_pruned_and_failed_trials_are_counted_and_left_out(storage):
    study = _study(storage, "mixed", n=20)
    alone = hpo.best(study)
    study.add_trial(_trial({"lr": 0.01}, None, TrialState.PRUNED, intermediate_values={0: -50.0}))
    study.add_trial(_trial({"lr": 0.02}, None, TrialState.FAIL))
    study.add_trial(_trial({"lr": 0.5}, math.inf))
    found = hpo.best(study)
    assert (found.used, found.pruned, found.failed) == (20, 1, 1)
    assert found.winner.number == alone.winner.number
    assert found.winner.value == pytest.approx(alone.winner.value)


def test_against_what_was_enqueued_a_trial_and_a_configuration(storage):
    study = optuna.create_study(study_name="against", storage=storage)
    study.enqueue_trial({"lr": 0.5})
    rng = np.random.default_rng(0)
    for _ in range(24):
        trial = study.ask()
        params = {"lr": trial.suggest_float("lr", 1e-4, 1.0, log=True)}
        study.tell(trial, _loss(params) + 0.1 * rng.standard_normal())
    first = hpo.best(study).against
    assert first.number == 0 and "enqueued" in first.what
    assert first.probability_beaten > 0.95 and first.gain_interval95[0] < first.gain < first.gain_interval95[1]
    given = hpo.best(study, against={"lr": 0.9}).against
    assert given.number is None and given.probability_beaten > 0.95 and given.gain > 0
    winner = hpo.best(study).winner
    itself = hpo.best(study, against=winner.number).against
    assert itself.is_winner and itself.gain == 0 and itself.probability_beaten == 0


def test_what_is_wrong_is_said(storage, sqlite_store):
    study = _study(storage, "plain", conditional=True)
    for against, words in (
        ({"lr": 0.1}, "optimizer is missing"),
        ({"optimizer": "sgd", "lr": 0.1}, "momentum is missing"),
        ({"optimizer": "adam", "lr": 0.1, "depth": 3}, "no parameter 'depth'"),
        ({"optimizer": "rmsprop", "lr": 0.1}, "one of sgd, adam"),
        ({"optimizer": "adam", "lr": "high"}, "lr = 'high' cannot be"),
        ({"optimizer": "adam", "lr": math.nan}, "lr = nan cannot be"),
        ({"optimizer": "adam", "lr": -0.1}, r"lr = -0.1 cannot be; it is 0.0001 … 1 \(log\)"),
    ):
        with pytest.raises(SettingsError, match=words):
            hpo.best(study, against=against)
    with pytest.raises(TrialNotFoundError, match="it has 0 … 23"):
        hpo.best(study, against=99)
    with pytest.raises(StudyNotFoundError):
        hpo.best("plane", sqlite_store)
    both = optuna.create_study(study_name="both", storage=storage, directions=["minimize", "maximize"])
    with pytest.raises(SettingsError, match="2 objectives"):
        hpo.best(both)
    with pytest.raises(SettingsError, match=r"hpo\.HistoryStorage"):
        hpo.best(optuna.create_study())


def test_too_little_is_not_judged_and_says_so(storage, sqlite_store):
    optuna.create_study(study_name="empty", storage=storage)
    assert "0 complete trials" in hpo.best("empty", sqlite_store).not_enough
    few = hpo.best(_study(storage, "few", n=FEWEST_TRIALS - 1))
    assert few.winner is None and few.noise is None and few.raw_best is not None
    assert f"{FEWEST_TRIALS} could" in few.not_enough
    flat = optuna.create_study(study_name="flat", storage=storage)
    for lr in np.geomspace(1e-4, 1, 15):
        flat.add_trial(_trial({"lr": float(lr)}, 0.5))
    assert "came out the same" in hpo.best(flat).not_enough
    failed = optuna.create_study(study_name="failed", storage=storage)
    for lr in np.geomspace(1e-4, 1, 15):
        failed.add_trial(_trial({"lr": float(lr)}, None, TrialState.FAIL))
    assert hpo.best(failed).raw_best is None
    bare = optuna.create_study(study_name="bare", storage=storage)
    for value in range(15):
        bare.add_trial(create_trial(value=value))
    assert hpo.best(bare).winner is None


def test_a_configuration_trained_twice_alike_is_no_proof_of_little_noise(storage):
    study = _study(storage, "again", n=20)
    before = hpo.best(study)
    best = study.trials[before.winner.number]
    for _ in range(6):
        study.add_trial(_trial(best.params, best.value))
    after = hpo.best(study)
    assert after.used == 20
    assert after.noise == pytest.approx(before.noise, rel=1e-6)


def test_broken_constraints_do_not_win(storage):
    study = optuna.create_study(study_name="bounded", storage=storage)
    rng = np.random.default_rng(0)
    for lr in np.geomspace(1e-4, 1, 24):
        attributes = {"constraints": [1.0 if lr < 0.05 else -1.0]}
        value = _loss({"lr": lr}) + 0.05 * rng.standard_normal()
        study.add_trial(_trial({"lr": float(lr)}, value, system_attrs=attributes))
    found = hpo.best(study)
    assert all(each.params["lr"] > 0.05 for each in found.contenders)
    assert any("constraint" in note for note in found.notes)


def _replicated(storage, study, trial, values, failed=0, first_seed=0):
    name = f"{study.study_name}/replicates"
    known = [each.study_name for each in storage.get_all_studies()]
    own = (
        optuna.load_study(study_name=name, storage=storage)
        if name in known
        else optuna.create_study(study_name=name, storage=storage)
    )
    params = study.trials[trial].params
    for seed, value in enumerate([*values, *[None] * failed], first_seed):
        told = mark_of(get_study(storage.store, study.study_name), trial, seed, params)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        own.add_trial(create_trial(value=value, state=state, user_attrs=told))


def test_replicates_speak_for_themselves(storage):
    study = _study(storage, "study")
    before = hpo.best(study)
    a, b = (each.number for each in before.contenders[:2])
    _replicated(storage, study, a, [0.50, 0.52, 0.48, 0.51, 0.49])
    _replicated(storage, study, b, [0.30, 0.32, 0.28, 0.31, 0.29])
    found = hpo.best(study)
    fresh = found.replication
    assert fresh.winner.number == b and fresh.winner.mean == pytest.approx(0.30)
    assert fresh.winner.interval95[0] < 0.30 < fresh.winner.interval95[1]
    assert fresh.separated and fresh.spent == 10
    assert found.noise_known_from == "replicates of its trials"
    assert found.noise < before.noise_interval95[1]
    assert found.used == before.used  # they are no trials of the study


def test_what_two_processes_trained_at_once_counts_once(storage):
    study = _study(storage, "study")
    _replicated(storage, study, 0, [0.1, 0.2])
    _replicated(storage, study, 0, [0.3, 0.4])  # the same seeds
    assert hpo.best(study).replication.winner.values == (0.1, 0.2)


def test_replicates_of_a_deleted_study_are_not_those_of_the_next_one(storage, sqlite_store):
    _replicated(storage, _study(storage, "study"), 0, [0.1, 0.2])
    optuna.delete_study(study_name="study", storage=storage)
    again = _study(storage, "study", seed=1)
    assert hpo.best(again).replication is None
    with pytest.raises(SettingsError, match=r"an earlier study 'study'.*: hpo history delete study/replicates"):
        check_name(sqlite_store, get_study(sqlite_store, "study"))


def test_who_fails_on_another_seed_is_not_the_best(storage):
    study = _study(storage, "study")
    _replicated(storage, study, 0, [0.1, 0.11, 0.12], failed=1)
    _replicated(storage, study, 1, [0.5, 0.51, 0.52])
    fresh = hpo.best(study).replication
    assert fresh.winner.number == 1
    lost = next(each for each in fresh.contenders if each.number == 0)
    assert (lost.failed, lost.probability_best) == (1, 0.0)


def test_replicates_teach_no_tuner(storage, sqlite_store):
    study = _study(storage, "study")
    families = storage.past_families()
    _replicated(storage, study, 3, [0.1, 0.2])
    assert storage.past_families() == families
    taught = [sample.name for family in families for sample in storage.past_studies(family)]
    assert taught == ["study"]


def test_replicates_need_a_study_file_and_a_name_of_their_own(storage, sqlite_store):
    from storage.studies import create_study

    _study(storage, "script")
    url = sqlite_store.url
    with pytest.raises(SettingsError, match="was not run by `hpo tune`"):
        hpo.replicate("script", 4, storage=url)
    spec = {
        "study": "ours",
        "task": {"name": "t", "metric": "val_loss", "direction": "minimize"},
        "trainer": {"recipe": "wine_mlp/all", "max_epochs": 1},
        "space": {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}},
        "budget": {"trials": 12},
    }
    for name in ("ours", "ours/replicates"):
        create_study(sqlite_store, name=name, task="t", metric="val_loss", spec=spec)
        own = optuna.load_study(study_name=name, storage=storage)
        for lr in np.geomspace(1e-4, 1, 12):
            own.add_trial(_trial({"lr": float(lr)}, _loss({"lr": lr})))
    with pytest.raises(SettingsError, match="'ours/replicates', and a study of that name"):
        hpo.replicate("ours", 4, storage=url)


def test_replicates_are_trained_where_they_are_asked_to_be(storage, sqlite_store):
    pytest.importorskip("ray", reason="Ray comes with hindsight-hpo[ray]")
    from storage.studies import create_study
    from trainers.errors import TrainerError

    spec = {
        "study": "far",
        "task": {"name": "t", "metric": "val_loss", "direction": "minimize"},
        "trainer": {"recipe": "wine_mlp/all", "max_epochs": 1},
        "space": {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}},
        "budget": {"trials": 12},
    }
    create_study(sqlite_store, name="far", task="t", metric="val_loss", spec=spec)
    own = optuna.load_study(study_name="far", storage=storage)
    for lr in np.geomspace(1e-4, 1, 12):
        own.add_trial(_trial({"lr": float(lr)}, _loss({"lr": lr})))
    with pytest.raises(TrainerError, match=r"no Ray cluster can be reached at 127\.0\.0\.1:9"):
        hpo.replicate("far", 4, storage=sqlite_store.url, mlflow="none", executor="ray", ray_address="127.0.0.1:9")


def test_noise_is_known_from_repeated_runs_of_the_same_task(storage, sqlite_store):
    from storage.studies import create_study

    for name in ("past", "now"):
        create_study(sqlite_store, name=name, task="digits", metric="loss")
    past, now = (optuna.load_study(study_name=name, storage=storage) for name in ("past", "now"))
    rng = np.random.default_rng(0)
    for lr in np.geomspace(1e-4, 1, 8):
        for _ in range(4):
            past.add_trial(_trial({"lr": float(lr)}, _loss({"lr": lr}) + 0.1 * rng.standard_normal()))
    for lr in np.geomspace(1e-4, 1, 14):
        now.add_trial(_trial({"lr": float(lr)}, _loss({"lr": lr}) + 0.1 * rng.standard_normal()))
    found = hpo.best(now)
    assert found.noise_known_from == "repeated runs in one past study of the task"
    assert found.noise == pytest.approx(0.1, rel=0.4)


def _repeating(storage, name, *, unit, n=12):
    """A study of plain Optuna, every configuration of it trained twice."""
    study = optuna.create_study(study_name=name, storage=storage)
    rng = np.random.default_rng(5)
    for _ in range(n):
        params = _params(rng, conditional=False)
        for _ in range(2):
            study.add_trial(_trial(params, unit * (_loss(params) + 0.1 * rng.standard_normal())))
    return study


def test_noise_of_another_study_without_a_task_counts_in_the_units_of_each(storage):
    _repeating(storage, "in thousands", unit=1000)
    study = _study(storage, "in ones")
    found = hpo.best(study)
    assert found.noise_known_from == "repeated runs in one past study of related tasks"
    assert found.noise < 0.3


def test_studies_without_parameters_have_no_noise_in_common(storage, sqlite_store):
    for name in ("one", "two"):
        study = optuna.create_study(study_name=name, storage=storage)
        for value in (1.0, 2.0, 3.0, 4.0):
            study.add_trial(create_trial(value=value))
    assert known_noise(sqlite_store, get_study(sqlite_store, "two"), np.arange(4.0), []) == (None, "")
