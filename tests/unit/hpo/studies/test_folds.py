"""What do the folds of trials say: the values that were trained, and the noise that is left without hard folds?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo.studies.folds import fit_params, fold_values, folds_of, noise_of_folds
from storage.history import StudySummary, TrialRecord


def study(folds=5, directions=("minimize",)):
    fields = dict.fromkeys(StudySummary.__dataclass_fields__)
    spec = {"trainer": {"recipe": "wine_mlp", **({"folds": folds} if folds > 1 else {})}}
    return StudySummary(**fields | {"directions": directions, "spec": spec})


def trial(values):
    """Of a trial that came to these values on its folds, what is kept: the means so far."""
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    fields = dict.fromkeys(TrialRecord.__dataclass_fields__)
    kept = {"state": TrialState.COMPLETE, "intermediate_values": dict(enumerate(means.tolist()))}
    return TrialRecord(**fields | kept)


def test_the_values_of_the_folds_come_back():
    assert fold_values(study(), trial([0.5, 0.25, 4.0, 1.0, 3.0])) == pytest.approx([0.5, 0.25, 4.0, 1.0, 3.0])
    assert fold_values(study(), trial([2.0, 6.0])) == pytest.approx([2.0, 6.0])  # pruned after two
    assert fold_values(study(), trial([])) == []
    assert fold_values(study(folds=1), trial([0.5, 0.25])) == []  # those are epochs
    assert (folds_of(study()), folds_of(study(folds=1))) == (5, 1)


def test_a_checkpoint_belongs_to_a_fold():
    kept = replace(trial([1.0, 2.0]), params={"lr": 0.1}, checkpoint="runs/s/trial-0000/attempt-1/fold-3/best.ckpt")
    assert fit_params(study(), kept) == {"lr": 0.1, "data.fold": 3, "data.folds": 5}
    whole = replace(kept, checkpoint="runs/s/trial-0000/attempt-1/best.ckpt")
    assert fit_params(study(folds=1), whole) == {"lr": 0.1}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_hard_folds_are_no_noise_and_diverged_trials_do_not_count(direction):
    rng = np.random.default_rng(0)
    sign = 1.0 if direction == "minimize" else -1.0
    good = rng.normal(size=(200, 1)) + 5.0 * rng.normal(size=5) + rng.normal(scale=0.5, size=(200, 5))
    diverged = 100.0 + 50.0 * rng.normal(size=(150, 5))
    trials = [trial(sign * row) for row in rng.permutation(np.concatenate([good, diverged]))]
    variance, freedom = noise_of_folds(study(directions=(direction,)), trials)
    assert freedom == (175 - 1) * 4
    assert variance == pytest.approx(0.5**2 / 5, rel=0.15)  # four standard errors


def test_nothing_is_said_of_few_trials_or_without_folds():
    rng = np.random.default_rng(0)
    pruned = [trial(rng.normal(size=3)) for _ in range(9)]
    assert noise_of_folds(study(), [trial(rng.normal(size=5)) for _ in range(3)] + pruned)[1] == 0
    assert noise_of_folds(study(folds=1), [trial(rng.normal(size=5)) for _ in range(9)])[1] == 0
