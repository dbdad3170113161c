"""Does `hpo.compare` find the pairs, and say when they are not enough?"""

import json

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

import hpo
from hpo.cli.compare import compare_and_draw
from hpo.decisions.comparisons import OWN_UNIT
from hpo.errors import NoHistoryError, SettingsError
from hpo.figures.comparison_figure import save_figure
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.optuna_storage import HistoryStorage
from storage.studies import create_study
from tests.integration.test_winner import _replicated


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def storage(sqlite_store):
    return HistoryStorage(sqlite_store)


def _study(storage, name, values, *, task="task", seed=None, direction="minimize", metric="loss", over="x"):
    spec = None if seed is None else {"study": name, "seeds": {"tuner": seed}}
    create_study(storage.store, name=name, task=task, metric=metric, directions=(direction,), spec=spec)
    study = optuna.load_study(study_name=name, storage=storage)
    for number, value in enumerate(values):
        x = {over: float(number % 10) / 10}
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        study.add_trial(create_trial(params=x, distributions={over: FloatDistribution(0, 1)}, value=value, state=state))
    return study


def _group(storage, name, offset, *, tasks=("t",), seeds=range(8), n=12, scale=None):
    for task in tasks:
        for seed in seeds:
            rng = np.random.default_rng([seed, len(task)])
            factor = 1.0 if scale is None else scale[task]
            values = factor * (1 / np.arange(1, n + 1) + offset + 0.02 * rng.standard_normal(n))
            _study(storage, f"{name}/{task}-{seed}", values.tolist(), task=task, seed=seed)


def test_groups_are_paired_by_task_and_seed(storage, sqlite_store, tmp_path):
    _group(storage, "new", 0.0)
    _group(storage, "old", 0.3)
    found = hpo.compare("new/*", "old/*", storage=sqlite_store)
    last = found.rows[-1]
    assert (found.kind, last.n, last.is_paired, last.unit, last.at) == ("studies", 8, True, "loss", "after 12 trials")
    assert last.gain == pytest.approx(0.3, abs=0.02) and last.is_decided and last.verdict == "new/* is better"
    assert last.gain_interval95[0] < 0.3 < last.gain_interval95[1] and last.superiority == 1
    assert all(row.p_holm >= row.p for row in found.rows)
    assert {pair.label for pair in last.pairs} == {f"t, seeds {seed}/0" for seed in range(8)}
    json.dumps(found.to_json())
    back = hpo.compare("old/*", "new/*", storage=sqlite_store).rows[-1]
    assert back.gain == pytest.approx(-last.gain) and back.verdict == "new/* is better"
    save_figure(found, tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SettingsError, match="cannot be drawn"):
        save_figure(found, tmp_path / "pairs.tiff-like")


def test_several_tasks_are_brought_to_one_scale(storage, sqlite_store):
    tasks = ("a", "bb", "ccc", "dddd", "eeeee", "ffffff")
    scale = dict(zip(tasks, (1e-3, 1, 1e3, 5, 0.1, 40), strict=True))
    _group(storage, "new", 0.0, tasks=tasks, seeds=[0], scale=scale)
    _group(storage, "old", 0.2, tasks=tasks, seeds=[0], scale=scale)
    last = hpo.compare("new/*", "old/*", storage=sqlite_store).rows[-1]
    assert (last.n, last.unit, last.is_decided) == (6, OWN_UNIT, True)
    gains = [pair.gain for pair in last.pairs]
    assert max(gains) < 3 * min(gains)


def test_two_single_studies_are_one_pair_and_not_enough(storage, sqlite_store):
    _study(storage, "a", [3.0, 2.0, 1.0, 0.5])
    _study(storage, "b", [3.0, 2.5, 2.0])
    found = hpo.compare("a", "b", storage=sqlite_store)
    assert [row.at for row in found.rows] == ["after 1 trial", "after 3 trials", "at the end"]
    for row in found.rows:
        assert row.n == 1 and row.gain_interval95 is None and not row.is_decided
        assert row.verdict.startswith("not enough to say: 1 pair, about ")
    assert found.rows[-1].gain == pytest.approx(1.5)
    assert any("another seed" in note for note in found.notes)


def test_maximising_turns_the_sign(storage, sqlite_store):
    _study(storage, "a", [0.5, 0.9], direction="maximize", metric="accuracy")
    _study(storage, "b", [0.5, 0.8], direction="maximize", metric="accuracy")
    assert hpo.compare("a", "b", storage=sqlite_store).rows[-1].gain == pytest.approx(0.1)


def test_runs_whose_seeds_do_not_match_are_averaged(storage, sqlite_store):
    for number in range(3):
        _study(storage, f"a/{number}", [1.0 + number])
        _study(storage, f"b/{number}", [2.0 + number])
    found = hpo.compare("a/*", "b/*", storage=sqlite_store)
    assert found.rows[-1].n == 1 and found.rows[-1].gain == pytest.approx(1.0)
    assert any("averaged" in note for note in found.notes)


def test_a_trial_that_fails_first_has_no_incumbent_yet(storage, sqlite_store):
    _study(storage, "a", [None, 1.0])
    _study(storage, "b", [2.0, 2.0])
    rows = hpo.compare("a", "b", storage=sqlite_store).rows
    assert [row.n for row in rows] == [0, 1]


def test_what_cannot_be_compared_says_why(storage, sqlite_store):
    _study(storage, "a", [1.0], task="one")
    _study(storage, "b", [1.0], task="two")
    _study(storage, "up", [1.0], task="three", direction="maximize")
    _study(storage, "other", [1.0], task="one", metric="accuracy")
    _study(storage, "failed", [None], task="one")
    for sides, error, words in (
        (("a", "b"), NoHistoryError, "share no task: one here, two"),
        (("a", "up"), SettingsError, "the direction is minimize here, maximize there"),
        (("a", "other"), SettingsError, "the metric is loss here, accuracy there"),
        (("a", "failed"), NoHistoryError, "'failed' has no complete trial"),
        (("a", "c"), StudyNotFoundError, "'c'"),
        (("a",), SettingsError, "name another"),
        (("a", "a"), SettingsError, "named twice"),
        (("a", "b#0"), SettingsError, "'b#0' is a trial"),
        (("a#0", "b#0"), SettingsError, "different tasks"),
        (("a#0", "a#7"), TrialNotFoundError, "it has 0 … 0"),
        (("x#0", "a#0"), StudyNotFoundError, "'x'"),
    ):
        with pytest.raises(error, match=words):
            hpo.compare(*sides, storage=sqlite_store)


def test_trials_are_compared_by_fresh_replicates_in_pairs_of_seeds(storage, sqlite_store):
    study = _study(storage, "s", [0.1, 0.2, 0.3])
    shift = 0.3 * np.random.default_rng(0).standard_normal(7)  # what a seed does to all alike
    _replicated(storage, study, 0, (0.5 + shift).tolist())
    _replicated(storage, study, 1, (0.6 + shift + 0.01 * np.arange(7)).tolist(), failed=1)
    found = hpo.compare("s#0", "s#1", "s#2", storage=sqlite_store)
    one, two = found.rows
    assert (one.n, one.is_paired, one.is_decided) == (7, True, True)
    assert one.gain == pytest.approx(0.13, abs=0.01)
    assert one.pairs[0].label == "seed 0"
    assert two.n == 0 and two.needed is not None
    assert any("hpo best s --against 2 --replicates 12" in note for note in found.notes)
    assert any("1 replicate of s#1 failed" in note for note in found.notes)


def test_repeated_runs_without_seeds_are_samples(storage, sqlite_store):
    study = _study(storage, "s", [])
    rng = np.random.default_rng(0)
    for x, centre in ((0.1, 0.0), (0.9, 3.0)):
        for value in centre + 0.3 * rng.standard_normal(8):
            trial = create_trial(params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, value=float(value))
            study.add_trial(trial)
    found = hpo.compare("s#0", "s#8", storage=sqlite_store)
    assert not found.rows[0].is_paired and found.rows[0].n == 8 and found.rows[0].verdict == "s#0 is better"
    assert any("unpaired" in note for note in found.notes)


def test_single_studies_without_a_task_are_taken_as_runs_on_one(storage, sqlite_store):
    _study(storage, "one", [3.0, 1.0], task=None, metric=None)
    _study(storage, "two", [3.0, 2.0], task=None, metric=None, over="y")
    found = hpo.compare("one", "two", storage=sqlite_store)
    assert (found.rows[-1].n, found.rows[-1].gain, found.rows[-1].unit) == (1, 1.0, "value")
    assert "no task is noted for one, two: all are taken as runs on one task" in found.notes[0]
    trials = hpo.compare("one#1", "two#1", storage=sqlite_store)
    assert trials.rows[0].needed is not None and trials.notes[0] == found.notes[0]
    assert not any("no task" in note for note in hpo.compare("one#0", "one#1", storage=sqlite_store).notes)


def test_groups_without_a_task_are_taken_as_runs_on_one_where_they_search_the_same(storage, sqlite_store):
    for number in range(3):
        _study(storage, f"a/{number}", [1.0 + number], task=None, metric=None)
        _study(storage, f"b/{number}", [2.0 + number], task=None, metric=None)
        _study(storage, f"c/{number}", [2.0 + number], task=None, metric=None, over="y")
    found = hpo.compare("a/*", "b/*", storage=sqlite_store)
    assert (found.rows[-1].n, found.rows[-1].gain) == (1, 1.0)
    assert "a/0, a/1, a/2, b/0 and 2 more" in found.notes[0] and any("averaged" in note for note in found.notes)
    with pytest.raises(NoHistoryError, match="share no task"):
        hpo.compare("a/*", "c/*", storage=sqlite_store)


def test_replicates_that_do_not_vary_are_said_to(storage, sqlite_store):
    for name, value in (("a", 0.1), ("b", 0.7)):
        _replicated(storage, _study(storage, name, [value]), 0, [value] * 8, first_seed=0 if name == "a" else 8)
    (row,) = hpo.compare("a#0", "b#0", storage=sqlite_store).rows
    assert row.verdict.startswith("not enough to say: 8 values a side; neither side varies")
    assert row.needed is None and not row.is_decided


def test_a_figure_of_an_unknown_ending_is_refused_before_the_work(sqlite_store, tmp_path):
    with pytest.raises(SettingsError, match="the ending tells the format"):
        compare_and_draw(sqlite_store, ["a", "b"], figure=tmp_path / "it.xyz", force=False, as_json=False)
