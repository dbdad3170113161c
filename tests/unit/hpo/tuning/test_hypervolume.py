"""Is the gain of hypervolume what it should be, and does the tuner find a front?"""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from hpo.spaces.space import SearchSpace
from hpo.statistics.loss_scale import LossScale
from hpo.tuning.hypervolume import LEAST, MARGIN, MOST_ON_A_FRONT, Objectives, on_the_front
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage.studies import SPACE_ATTRIBUTE
from tests.memory_history import MemoryHistory

SPACE = SearchSpace.from_json({name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("x", "y", "z")})


class Sure:
    """Models that know the losses: at (m, k) points that are the losses themselves."""

    history_weight = 0.0
    alone = None

    def __init__(self, objective):
        self._objective = objective

    def draws(self, points, uniforms):
        return np.repeat(points[None, :, self._objective], uniforms.shape[1], axis=0)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 3).flatmap(
        lambda k: st.lists(st.lists(st.floats(0, 1), min_size=k, max_size=k), min_size=2, max_size=6)
    ),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_the_gain_is_the_difference_of_two_hypervolumes(rows, point):
    losses, new = np.array(rows), np.array(point[: len(rows[0])])
    front = losses[on_the_front(losses)]
    objectives = Objectives(models=[Sure(k) for k in range(losses.shape[1])], losses=losses, front=front)
    scales = [LossScale.of(column) for column in losses.T]
    z = np.array([scale.standardise(column) for scale, column in zip(scales, losses.T, strict=True)]).T
    z_new = np.array([scale.standardise(np.array([value]))[0] for scale, value in zip(scales, new, strict=True)])
    reference = z[on_the_front(z)].max(axis=0) + MARGIN
    before = compute_hypervolume(z[(z < reference).all(axis=1)], reference)
    both = np.vstack([z, z_new])
    after = compute_hypervolume(both[(both < reference).all(axis=1)], reference)
    gain = np.exp(objectives.log_expected_improvement(new[None, :])[0])
    assert gain == pytest.approx(max(after - before, LEAST), rel=1e-6, abs=1e-9)


def test_unbeaten_are_those_that_nothing_improves_on():
    losses = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.6, 0.6], [0.0, 1.0], [2.0, 0.0]])
    assert set(on_the_front(losses)) <= {0, 1, 2, 4}
    assert {tuple(losses[row]) for row in on_the_front(losses)} == {(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)}


def test_a_large_front_keeps_its_ends():
    angle = np.random.default_rng(0).permutation(np.linspace(0.0, np.pi / 2, 300))
    losses = 1.0 - np.column_stack([np.sin(angle), np.cos(angle)])
    kept = losses[on_the_front(losses)]
    assert len(kept) <= MOST_ON_A_FRONT
    np.testing.assert_array_equal(kept.min(axis=0), losses.min(axis=0))


def objective(trial):
    params = SPACE.suggest(trial)
    off = (params["y"] - 0.5) ** 2 + (params["z"] - 0.5) ** 2
    return params["x"] ** 2 + off, (params["x"] - 1.0) ** 2 + off


def study_on(storage, sampler, directions=("minimize", "minimize"), name="both"):
    study = optuna.create_study(storage=storage, sampler=sampler, directions=directions, study_name=name)
    storage.set_study_system_attr(study._study_id, SPACE_ATTRIBUTE, SPACE.to_json())
    return study


def hypervolume(study):
    values = np.array([np.abs(trial.values) for trial in study.trials])
    return compute_hypervolume(values[(values < 1.5).all(axis=1)], np.full(2, 1.5))


def test_finds_more_of_a_front_than_random_search():
    ours, random = [], []
    for seed in range(5):
        for found, make in (
            (ours, lambda storage, seed=seed: HistorySampler(storage, seed=seed)),
            (random, lambda _, seed=seed: optuna.samplers.RandomSampler(seed=seed)),
        ):
            storage = MemoryHistory()
            study = study_on(storage, make(storage))
            study.optimize(objective, n_trials=20)
            found.append(hypervolume(study))
    assert min(ours) > max(random)


def test_maximising_mirrors_minimising():
    runs = []
    for directions, sign in ((("minimize", "minimize"), 1.0), (("maximize", "minimize"), -1.0)):
        storage = MemoryHistory()
        study = study_on(storage, HistorySampler(storage, seed=0), directions)

        def objectives(trial, sign=sign):
            first, second = objective(trial)
            return sign * first, second

        study.optimize(objectives, n_trials=8)
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]


def test_failed_trials_and_constraints_are_evidence():
    storage = MemoryHistory()
    sampler = HistorySampler(storage, seed=0, constraints_func=lambda trial: (trial.params["x"] - 0.4,))
    study = study_on(storage, sampler)

    def sometimes(trial):
        values = objective(trial)
        if trial.number % 4 == 3:
            raise ValueError("diverged")
        return values

    study.optimize(sometimes, n_trials=16, catch=ValueError)
    roles = [trial.system_attrs[RECEIPT]["role"] for trial in study.trials]
    assert roles[:4] == ["start"] * 4
    assert set(roles[4:]) <= {"front", "feasible"}
    assert np.mean([trial.params["x"] <= 0.4 for trial in study.trials[6:]]) > 0.6


def test_a_study_in_which_everything_fails_goes_on():
    storage = MemoryHistory()
    study = study_on(storage, HistorySampler(storage, seed=0))

    def fails(trial):
        objective(trial)
        raise ValueError("diverged")

    study.optimize(fails, n_trials=6, catch=ValueError)
    assert len({repr(trial.params) for trial in study.trials}) == 6
