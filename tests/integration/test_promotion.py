"""Which trial is promoted, and what is said of it?"""

from __future__ import annotations

import optuna
import pytest

from hpo.decisions.promotion import _choose, _description, _tags, promote, registry_name
from hpo.errors import SettingsError
from hpo.spaces.space import SearchSpace
from storage import history
from storage.optuna_storage import HistoryStorage
from storage.studies import create_study

SPACE = SearchSpace.from_json({"x": {"type": "float", "low": 0.0, "high": 1.0}})


@pytest.fixture
def noisy(sqlite_store):
    """Sixteen trials of a noisy bowl around x = 0.3."""
    create_study(sqlite_store, name="bowl", directions=["minimize"], task="bowls", metric="loss", space=SPACE.to_json())
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.load_study(study_name="bowl", storage=HistoryStorage(sqlite_store), sampler=sampler)
    noise = iter([0.02, -0.01, 0.015, -0.02] * 4)
    study.optimize(lambda trial: (SPACE.suggest(trial)["x"] - 0.3) ** 2 + next(noise), n_trials=16)
    summary = history.get_study(sqlite_store, "bowl")
    return summary, history.list_trials(sqlite_store, summary.study_id), sqlite_store.url


def test_the_best_by_all_trials_is_promoted_with_what_is_expected_of_it(noisy):
    summary, trials, url = noisy
    number, why, expected = _choose(summary, trials, None, url)
    assert why == "the best, by all trials of the study"
    assert abs(trials[number].params["x"] - 0.3) < 0.2
    low, high = expected.interval95
    assert low < expected.value < high and expected.by == "all 16 complete trials of the study"
    told = {"loss": trials[number].values[0]}
    tags = _tags(summary, trials[number], told, expected)
    assert tags["hindsight.value.loss"] == repr(trials[number].value)
    assert tags["hindsight.interval95"] == f"{low!r} … {high!r}"
    text = _description(summary, trials[number], why, told, expected)
    assert f"Trial {number} of study bowl" in text and f"95% {low:.6g} … {high:.6g}" in text


def test_a_trial_that_is_asked_for_is_told_with_its_own_expectation(noisy):
    summary, trials, url = noisy
    worst = max(trials, key=lambda trial: trial.value).number
    best, _, of_best = _choose(summary, trials, None, url)
    number, why, expected = _choose(summary, trials, worst, url)
    assert (number, why) == (worst, "chosen by its number")
    assert worst != best and expected.value > of_best.value


def test_a_model_that_was_not_kept_cannot_be_promoted(noisy):
    _, _, url = noisy
    with pytest.raises(SettingsError, match=r"has no checkpoint any more \(none was kept\)"):
        promote("bowl", storage=url)


def test_names_are_made_for_the_registry():
    assert registry_name("digits_cnn/all") == "digits_cnn-all"
    assert registry_name('a: "b" 50%') == "a-b-50"
    assert registry_name("//") == "model"
