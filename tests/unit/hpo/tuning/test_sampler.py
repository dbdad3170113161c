"""Does the sampler keep its promises? With and without a history, alone and side by side."""

from __future__ import annotations

import pickle

import numpy as np
import optuna
import pytest

from hpo.errors import SpaceError
from hpo.spaces.space import SearchSpace
from hpo.tuning import learning
from hpo.tuning.past import FIRST_POINTS, LISTED_POINTS
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage.studies import SPACE_ATTRIBUTE
from tests.memory_history import MemoryHistory

SPACE = SearchSpace.from_json(
    {
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
        "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
        "depth": {"type": "int", "low": 1, "high": 4},
    }
)


def loss(params, shift=0.0):
    off = 0.3 if params["optimizer"] == "adam" else abs(params["momentum"] - 0.6)
    return (np.log10(params["lr"]) + 2 + shift) ** 2 + off + 0.1 * abs(params["depth"] - 3)


def history_of(*shifts, n_trials=30, direction="minimize", space=SPACE):
    storage, sign = MemoryHistory(), 1 if direction == "minimize" else -1
    for shift in shifts:
        sampler = optuna.samplers.RandomSampler(seed=int(100 * shift) + 100)
        past = optuna.create_study(storage=storage, sampler=sampler, direction=direction, study_name=f"past {shift}")
        past.optimize(lambda trial, shift=shift: sign * loss(space.suggest(trial), shift), n_trials=n_trials)
    return storage


def study_on(storage, *, space=SPACE, seed=0, direction="minimize", name="new"):
    study = optuna.create_study(
        storage=storage, sampler=HistorySampler(storage, seed=seed), direction=direction, study_name=name
    )
    if space is not None:
        storage.set_study_system_attr(study._study_id, SPACE_ATTRIBUTE, space.to_json())
    return study


def _is_shallow(trial):
    return [trial.params["depth"] - 3.5]


def receipts(study):
    return [trial.system_attrs[RECEIPT] for trial in study.get_trials()]


def roles(study):
    return [receipt["role"] for receipt in receipts(study)]


def test_starts_from_history_and_goes_on_with_the_model():
    study = study_on(history_of(0.0, 0.2, -0.2))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=6)
    assert roles(study)[:FIRST_POINTS] == ["portfolio"] * LISTED_POINTS + ["safety"]
    assert set(roles(study)[FIRST_POINTS:]) <= {"exploit", "explore", "safety"}
    assert study.trials[0].value < 0.7
    assert sum(source["weight"] for source in receipts(study)[0]["leans_on"]) == pytest.approx(1, abs=0.01)
    last = receipts(study)[FIRST_POINTS]  # by history; the next one is safe from it
    assert last["interval90"][0] < last["predicted"] < last["interval90"][1]
    weights = {source["study"]: source["weight"] for source in last["leans_on"]}
    assert sum(weights.values()) == pytest.approx(1, abs=0.01)
    assert sum(weight for study, weight in weights.items() if study.startswith("past")) > 0.0
    assert "3 past studies" in last["why"]


def test_a_single_past_study_gives_different_first_points():
    study = study_on(history_of(0.0))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=FIRST_POINTS)
    configurations = {tuple(sorted(trial.params.items(), key=str)) for trial in study.trials}
    assert len(configurations) == FIRST_POINTS
    assert min(trial.value for trial in study.trials) < 0.7


def test_starts_with_the_centre_without_history():
    study = study_on(MemoryHistory())
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=6)
    assert roles(study)[:4] == ["start"] * 4
    assert set(roles(study)[4:]) <= {"exploit", "explore", "safety"}
    assert study.trials[0].params["lr"] == pytest.approx(1e-2)


def test_inactive_parameters_are_never_proposed():
    study = study_on(history_of(0.0, 0.2))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=8)
    for trial in study.trials:
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
    sampler, trial = study.sampler, study.ask()
    frozen = study._storage.get_trial(trial._trial_id)
    params = sampler.sample_relative(study, frozen, sampler.infer_relative_search_space(study, frozen))
    assert ("momentum" in params) == (params["optimizer"] == "sgd")


def test_the_same_seed_and_data_give_the_same_trials_in_any_process():
    runs = []
    for fresh_each_time in (False, True):
        study = study_on(history_of(0.0, 0.2), seed=3)
        for _ in range(7):
            if fresh_each_time:
                study.sampler = pickle.loads(pickle.dumps(HistorySampler(study._storage, seed=3)))
            study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=1)
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]


def test_what_is_remembered_of_finished_trials_changes_no_proposal():
    def asked(remembers):
        storage = history_of(0.0)
        study = study_on(storage)
        study.sampler = HistorySampler(storage, seed=0, constraints_func=_is_shallow)
        study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=6)
        found = []
        for _ in range(3):  # side by side
            if not remembers:
                study.sampler = HistorySampler(storage, seed=0, constraints_func=_is_shallow)
            found.append(SPACE.suggest(study.ask()))
        return found

    assert asked(remembers=True) == asked(remembers=False)


def test_maximising_mirrors_minimising():
    runs = []
    for direction, sign in (("minimize", 1), ("maximize", -1)):
        study = study_on(history_of(0.0, 0.2, direction=direction), direction=direction)
        study.optimize(lambda trial, sign=sign: sign * loss(SPACE.suggest(trial)), n_trials=6)
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]


def test_side_by_side_trials_get_different_points_of_the_portfolio():
    study = study_on(history_of(0.0, 0.2))
    trials = [study.ask() for _ in range(6)]  # all are begun before any has parameters
    configurations = [SPACE.suggest(trial) for trial in reversed(trials)]
    assert len({repr(configuration) for configuration in configurations}) == 6


def test_a_changed_space_is_respected():
    changed = SearchSpace.from_json(
        {
            "optimizer": {"type": "categorical", "choices": ["adam"]},  # sgd is gone
            "lr": {"type": "float", "low": 1e-1, "high": 10.0, "log": True},  # the optimum is outside
            "dropout": {"type": "float", "low": 0.0, "high": 0.5},  # new
            "depth": {"type": "float", "low": 1, "high": 4},  # another type
        }
    )
    study = study_on(history_of(0.0, 0.2), space=changed)
    study.optimize(lambda trial: changed.suggest(trial)["lr"], n_trials=6)
    assert roles(study)[0] in {"portfolio", "guess"}
    assert all(0.1 <= trial.params["lr"] <= 10.0 and trial.params["optimizer"] == "adam" for trial in study.trials)
    assert study.trials[0].params["lr"] < 0.5


def test_a_plain_define_by_run_study_starts_from_history_too():
    study = study_on(history_of(0.0, 0.2, -0.2), space=None)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=6)
    assert roles(study)[0] in {"portfolio", "guess"}
    assert study.trials[0].value < 0.7


def test_every_point_of_a_small_space_is_tried_before_one_repeats():
    space = SearchSpace.from_json({name: {"type": "int", "low": 0, "high": 2} for name in "ab"})
    study = study_on(MemoryHistory(), space=space)
    study.optimize(lambda trial: sum(space.suggest(trial).values()), n_trials=10)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 9


def test_failed_and_pruned_trials_are_evidence_not_obstacles():
    study = study_on(MemoryHistory())

    def objective(trial):
        params = SPACE.suggest(trial)
        trial.report(loss(params), 0)
        if trial.number % 3 == 0:
            raise optuna.TrialPruned
        if trial.number % 3 == 1:
            raise ValueError("diverged")
        return loss(params)

    study.optimize(objective, n_trials=9, catch=ValueError)
    assert roles(study)[-1] in {"exploit", "explore", "safety"}


def test_a_study_in_which_everything_fails_goes_on():
    study = study_on(MemoryHistory())

    def objective(trial):
        SPACE.suggest(trial)
        raise ValueError("diverged")

    study.optimize(objective, n_trials=7, catch=ValueError)
    assert len({repr(trial.params) for trial in study.trials}) == 7


# Receipts


def test_a_receipt_says_what_was_expected_and_what_would_have_been_tried_without_history():
    study = study_on(history_of(0.0, 0.2, -0.2))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=FIRST_POINTS + 4)
    later = receipts(study)[FIRST_POINTS:]
    best = np.minimum.accumulate([trial.value for trial in study.trials])
    for receipt, trial, incumbent in zip(later, study.trials[FIRST_POINTS:], best[FIRST_POINTS - 1 :], strict=False):
        assert receipt["incumbent"] == pytest.approx(incumbent)
        assert 0.0 <= receipt["improvement_probability"] <= 1.0
        assert receipt["seconds"] > 0.0
        if receipt["role"] == "safety":
            assert receipt["without_history"] == trial.params
        assert set(receipt["without_history"]) <= set(SPACE.distributions)
    assert [receipt["role"] for receipt in later[1::2]] == ["safety", "safety"]
    assert receipts(study)[0]["without_history"]["lr"] == pytest.approx(1e-2)  # the centre


def test_without_a_past_there_is_nothing_to_compare_with():
    study = study_on(MemoryHistory())
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=5)
    assert [receipt["without_history"] for receipt in receipts(study)] == [None] * 5


# A list of candidates

LIST = [
    {"optimizer": "adam", "lr": lr, "depth": depth} for lr in (0.001, 0.003, 0.01, 0.03) for depth in (1, 3)
] + [{"optimizer": "sgd", "lr": 0.007, "momentum": 0.6, "depth": 3}]  # fmt: skip


def _listed(storage, space=SPACE, candidates=LIST):
    study = study_on(storage, space=space)
    study.sampler = HistorySampler(storage, seed=0, candidates=candidates)
    return study


@pytest.mark.parametrize("shifts", [(), (0.0, 0.2)])
@pytest.mark.parametrize("space", [SPACE, None])
def test_only_candidates_are_tried_each_once_and_then_it_ends(shifts, space):
    study = _listed(history_of(*shifts), space)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=50)
    tried = [trial.params for trial in study.trials]
    assert all(params in LIST for params in tried)
    if space is not None:
        assert len(tried) == len(LIST)
    assert all(params in tried for params in LIST)


def test_candidates_from_history_are_good_ones_first():
    study = _listed(history_of(0.0, 0.1, -0.1))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=3)
    assert study.best_value == pytest.approx(min(loss(params) for params in LIST), abs=0.1)


def test_a_list_can_be_asked_beyond_its_end():
    study = _listed(MemoryHistory(), candidates=LIST[:3])
    for _ in range(5):
        trial = study.ask()
        study.tell(trial, loss(SPACE.suggest(trial)))
    assert len(study.trials) == 5


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ([], "candidates is empty"),
        ([{"optimizer": "adam", "lr": 0.01}], r"candidates\[0\].* has no depth; it is 1 … 4"),
        ([LIST[0], {**LIST[0], "lr": 5.0}], r"candidates\[1\].*: lr is never 5.0; it is 0.0001 … 1 \(log\)"),
        ([{**LIST[0], "optimizer": "lion"}], "optimizer is never 'lion'; it is one of adam, sgd"),
        ([{**LIST[0], "depth": "deep"}], "depth is never 'deep'"),
    ],
)
def test_impossible_candidates_are_refused_by_name(candidates, said):
    with pytest.raises((ValueError, SpaceError), match=said):
        _listed(MemoryHistory(), candidates=candidates).ask(SPACE.distributions)


# Constraints, costs, hopes


def test_constraints_are_kept_where_they_can_be():
    storage = history_of(0.0, 0.2)
    study = study_on(storage)
    study.sampler = HistorySampler(
        storage, seed=0, constraints_func=lambda trial: (np.log10(trial.params["lr"]) + 2.5,)
    )  # lr at most 10 ** -2.5, though the best is at 10 ** -2
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=16)
    kept = [trial for trial in study.trials if trial.params["lr"] <= 10**-2.5]
    assert all(trial.system_attrs["constraints"] == (np.log10(trial.params["lr"]) + 2.5,) for trial in study.trials)
    assert len([trial for trial in kept if trial.number >= 6]) >= 6
    assert min(trial.value for trial in kept) < 0.8
    later = receipts(study)[-1]
    assert later["incumbent"] == pytest.approx(min(trial.value for trial in kept if trial.number < 15))


def test_the_gain_per_second_prefers_cheap_trials():
    def cost_of(params):
        return 10.0 ** params["depth"]  # and depth hardly matters for the loss

    def objective(trial):
        params = SPACE.suggest(trial)
        trial.set_user_attr("dollars", cost_of(params))
        return loss(params)

    spent = {}
    for cost in (None, "dollars"):
        storage = MemoryHistory()
        study = study_on(storage)
        study.sampler = HistorySampler(storage, seed=0, cost=cost)
        study.optimize(objective, n_trials=16)
        spent[cost] = sum(cost_of(trial.params) for trial in study.trials[FIRST_POINTS:])
    assert spent["dollars"] < 0.5 * spent[None]


def test_where_it_is_hoped_for_is_looked_first():
    hopeful = SearchSpace.from_json({**SPACE.to_json(), "lr": {**SPACE.to_json()["lr"], "likely": [1e-3, 1e-2]}})
    study = study_on(MemoryHistory(), space=hopeful)
    study.optimize(lambda trial: loss(hopeful.suggest(trial)), n_trials=6)
    assert all(1e-3 <= trial.params["lr"] <= 1e-2 for trial in study.trials[:4])
    wrong = SearchSpace.from_json({**SPACE.to_json(), "lr": {**SPACE.to_json()["lr"], "likely": [0.3, 1.0]}})
    study = study_on(MemoryHistory(), space=wrong, name="wrong")
    study.optimize(lambda trial: loss(wrong.suggest(trial)), n_trials=25)
    assert study.best_params["lr"] < 0.1  # a hope is not a bound


# A past that cannot teach


def test_studies_without_a_difference_are_ignored_and_named():
    storage = history_of(0.0)
    flat = optuna.create_study(storage=storage, study_name="flat", sampler=optuna.samplers.RandomSampler(seed=0))
    flat.optimize(lambda trial: SPACE.suggest(trial)["depth"] * 0.0, n_trials=5)
    study = study_on(storage)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=FIRST_POINTS + 1)
    for receipt in receipts(study):
        assert receipt["ignored"] == ["flat: all values are equal, which says nothing of the parameters."]
        assert "flat" not in {source["study"] for source in receipt["leans_on"]}


def test_a_past_of_flat_studies_only_is_none():
    storage = MemoryHistory()
    flat = optuna.create_study(storage=storage, study_name="flat", sampler=optuna.samplers.RandomSampler(seed=0))
    flat.optimize(lambda trial: SPACE.suggest(trial)["depth"] * 0.0, n_trials=5)
    study = study_on(storage)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=1)
    assert roles(study) == ["start"]


@pytest.mark.parametrize("values", [[1.0], [float("inf"), float("-inf"), float("nan"), 0.5], [1e300, -1e300, 0.0]])
def test_a_strange_past_gives_sound_proposals(values):
    storage = MemoryHistory()
    past = optuna.create_study(storage=storage, study_name="past", sampler=optuna.samplers.RandomSampler(seed=0))
    it = iter(values)
    past.optimize(lambda trial: next(it) + 0.0 * SPACE.suggest(trial)["lr"], n_trials=len(values))
    study = study_on(storage)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=FIRST_POINTS + 3)
    assert len({repr(trial.params) for trial in study.trials}) == FIRST_POINTS + 3
    assert all(np.isfinite(receipt["interval90"] or 0.0).all() for receipt in receipts(study))


def test_studies_of_another_model_do_not_push_out_those_of_this_one():
    storage = history_of(0.0, 0.2)
    other = SearchSpace.from_json(
        {"depth": SPACE.to_json()["depth"]} | {f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(5)}
    )
    sampler = optuna.samplers.RandomSampler(seed=0)
    stranger = optuna.create_study(storage=storage, study_name="stranger", sampler=sampler)
    stranger.optimize(lambda trial: sum(other.suggest(trial).values()), n_trials=20)
    study = study_on(storage)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=1)
    (receipt,) = receipts(study)
    assert receipt["ignored"] == [
        "1 study of other models: they share less than half of the parameters that others share."
    ]
    assert "stranger" not in {source["study"] for source in receipt["leans_on"]}


# What a reviewer found


def test_a_list_does_not_end_by_trials_that_asked_for_a_part_of_it():
    candidates = [{"a": 1, "b": b} for b in range(5)]
    space = SearchSpace.from_json(
        {"a": {"type": "int", "low": 1, "high": 2}, "b": {"type": "int", "low": 0, "high": 4}}
    )
    storage = MemoryHistory()
    study = study_on(storage, space=space)
    study.sampler = HistorySampler(storage, seed=0, candidates=candidates)

    def objective(trial):
        a = trial.suggest_int("a", 1, 2)
        if trial.number == 1:
            raise ValueError("diverged")
        return a + trial.suggest_int("b", 0, 4)

    study.optimize(objective, n_trials=30, catch=ValueError)
    assert {trial.params["b"] for trial in study.trials if "b" in trial.params} == set(range(5))
    assert len(study.trials) <= 7


@pytest.mark.parametrize("shifts", [(), (0.0, 0.2)])
def test_candidates_may_be_numpy_values(shifts):
    storage = history_of(*shifts)
    listed = [{"optimizer": "adam", "lr": np.float64(lr), "depth": np.int64(2)} for lr in (0.001, 0.01, 0.1)]
    study = study_on(storage)
    study.sampler = HistorySampler(storage, seed=0, candidates=listed)
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=9)
    assert sorted(trial.params["lr"] for trial in study.trials) == [0.001, 0.01, 0.1]


@pytest.mark.parametrize("value", ["0.01", True, None])
def test_candidates_of_another_kind_are_refused(value):
    with pytest.raises(SpaceError, match="lr is never"):
        _listed(MemoryHistory(), candidates=[{**LIST[0], "lr": value}]).ask(SPACE.distributions)


def test_candidates_beyond_a_range_that_moves_are_tried_where_nothing_is_declared():
    listed = [{"x": 0.9, "y": 0.5}, {"x": 0.3, "y": 0.2}, {"x": 0.8, "y": 0.7}]
    study = _listed(MemoryHistory(), space=None, candidates=listed)

    def objective(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        return x + trial.suggest_float("y", 0.0, x)

    study.optimize(objective, n_trials=20)
    assert [params for params in listed if params not in [trial.params for trial in study.trials]] == []


def test_an_enqueued_trial_beside_a_list_is_tried():
    study = _listed(MemoryHistory(), space=None)
    study.enqueue_trial({"optimizer": "adam", "lr": 0.5})
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=2)
    assert study.trials[0].params["lr"] == 0.5


def test_what_crashes_cheaply_is_not_cheap():
    failed = {}
    space = SearchSpace.from_json({name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("x", "y")})
    for cost in (None, "dollars"):
        failed[cost] = 0
        for seed in range(3):
            storage = MemoryHistory()
            study = study_on(storage, space=space, seed=seed)
            study.sampler = HistorySampler(storage, seed=seed, cost=cost)

            def objective(trial):
                params = space.suggest(trial)
                trial.set_user_attr("dollars", 1.0 if params["x"] > 0.6 else 1000.0)
                if params["x"] > 0.6:
                    raise ValueError("crashed")
                return (params["x"] - 0.5) ** 2 + (params["y"] - 0.5) ** 2

            study.optimize(objective, n_trials=16, catch=ValueError)
            failed[cost] += sum(trial.state.name == "FAIL" for trial in study.trials[4:])
    assert failed["dollars"] <= failed[None] + 3


def test_any_seed_is_one_of_its_own():
    first = {}
    for seed in (-3, 3, 2**70):
        study = study_on(history_of(0.0, 0.2), seed=seed)
        study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=6)
        first[seed] = study.trials[5].params
    assert first[-3] != first[3]


def test_a_partly_enqueued_trial_has_no_receipt_of_another_point():
    study = study_on(history_of(0.0, 0.2))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=5)
    study.enqueue_trial({"lr": 0.9})
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=1)
    assert study.trials[5].params["lr"] == 0.9
    assert RECEIPT not in study.trials[5].system_attrs


def test_a_constraint_that_is_no_number_is_refused():
    storage = MemoryHistory()
    study = study_on(storage)
    study.sampler = HistorySampler(storage, seed=0, constraints_func=lambda trial: (float("nan"),))
    with pytest.raises(ValueError, match="NaN says nothing"):
        study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=1)


def test_a_safe_proposal_leans_on_this_study_only():
    study = study_on(history_of(0.0, 0.2, -0.2))
    study.optimize(lambda trial: loss(SPACE.suggest(trial)), n_trials=FIRST_POINTS + 4)
    for receipt in receipts(study)[FIRST_POINTS:]:
        if receipt["role"] == "safety":
            assert receipt["leans_on"] == [{"study": "new", "weight": 1.0}]


@pytest.mark.parametrize("diverged", [1e30, 1e60, 1e-14])
def test_intervals_are_of_the_size_of_the_losses(diverged):
    study = study_on(MemoryHistory())
    factor = diverged if diverged < 1 else 1.0

    def objective(trial):
        value = factor * loss(SPACE.suggest(trial))
        return diverged if trial.number == 2 and diverged > 1 else value

    study.optimize(objective, n_trials=12)
    low, high = receipts(study)[-1]["interval90"]
    assert -20 * factor < low < high < 100 * factor
    assert study.best_value < factor


def test_a_first_trial_that_is_asked_for_by_parameter_learns_once(monkeypatch):
    learned = []
    learn = learning.learn
    monkeypatch.setattr(learning, "learn", lambda *given, **how: learned.append(1) or learn(*given, **how))
    space = SearchSpace.from_json({f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(60)})
    storage = MemoryHistory()
    for seed in range(2):
        past = optuna.create_study(
            storage=storage, sampler=optuna.samplers.RandomSampler(seed=seed), study_name=f"past {seed}"
        )
        past.optimize(lambda trial: sum(space.suggest(trial).values()), n_trials=10)
    study = study_on(storage, space=None)
    trial = study.ask()
    given = space.suggest(trial)
    assert learned == [1]
    seen = [
        sum(trial.params.values())
        for past in storage.get_all_studies()
        for trial in storage.get_all_trials(past._study_id)
    ]
    assert sum(given.values()) < np.median(seen)


def test_an_enqueued_value_in_between_changes_what_is_followed():
    """What is known of the trial in the meantime counts, as if every parameter were looked up anew."""
    storage = history_of(0.0, 0.3)
    answers = []
    for fresh in (False, True):
        study = study_on(storage, space=None, name=f"new {fresh}")
        study.enqueue_trial({"lr": 0.5})
        trial, answer = study.ask(), {}
        for name in ("optimizer", "lr", "depth"):
            if fresh:
                study.sampler._guides.clear()
            distribution = SPACE.distributions[name]
            answer[name] = trial._suggest(name, distribution)
        answers.append(answer)
    assert answers[0] == answers[1]
    assert answers[0]["lr"] == 0.5
