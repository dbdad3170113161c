"""Is what a new study will reach foretold from a real history: own studies, recorded runs, spaces that nearly match?"""

from __future__ import annotations

import json

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hpo.decisions.forecast import forecast
from hpo.decisions.past_progress import past_tasks
from hpo.studies.study_file import parse_spec
from hpo.tuning.sampler import HistorySampler
from hpo.tuning.stopping import Stopped
from storage.database import Store
from storage.importers.table import import_table
from storage.optuna_storage import HistoryStorage
from storage.studies import STOPPED_ATTRIBUTE, claim_trial, create_study, finish_trial, start_trial

LR = {"type": "float", "low": 1e-5, "high": 0.1, "log": True}
SPACE = {"lr": LR}
TRIALS = 8


def spec_of(space=None, *, task="new", epochs=3):
    return parse_spec(
        {
            "study": "new",
            "task": {"name": task, "metric": "val_loss", "direction": "minimize"},
            "trainer": {"model": "my_models.Net", "max_epochs": epochs},
            "space": space or SPACE,
            "budget": {"trials": TRIALS},
        }
    )


def add_study(store: Store, name: str, values, *, space=None, seconds=60.0) -> int:
    """A study as `hpo tune` leaves it; None among the values is a failed trial."""
    spec = spec_of(space, task=name)
    study_id = create_study(
        store,
        name=name,
        directions=("minimize",),
        task=name,
        metric="val_loss",
        space=spec.search_space().to_json(),
        spec=spec.model_dump(mode="json", exclude_defaults=True),
    )
    storage = HistoryStorage(store)
    for number, value in enumerate(values):
        claim = claim_trial(store, study_id, worker="host:1:2", lease_seconds=3600, max_trials=None)
        lr = FloatDistribution(1e-5, 0.1, log=True)
        storage.set_trial_param(claim.trial_id, "lr", 1e-4 * (number + 1), lr)
        start_trial(store, claim, params={"lr": 1e-4 * (number + 1)})
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        finish_trial(store, claim, state=state, value=value, cost_seconds=seconds)
    return study_id


def test_an_empty_history_says_what_would_be_enough(store):
    found = forecast(store, spec_of())
    assert "no past tasks" in found.missing
    assert found.tasks == ()


def test_own_studies_count_as_they_went(store):
    for number in range(6):
        add_study(store, f"task {number}", [None, 1.0 + number / 10, 0.5, 0.9, *[0.5 - number / 100] * 4])
    found = forecast(store, spec_of(), price_per_hour=2.0)
    assert found.missing is None and found.replayed == 0
    assert found.failed == pytest.approx(1 / 8)
    assert [stage.tasks for stage in found.stages[:2]] == [0, 6]
    assert found.stages[-1].value.expected == pytest.approx(0.475)
    assert found.stages[-1].hours.expected == pytest.approx(8 / 60)
    assert found.stages[-1].money.expected == pytest.approx(16 / 60)
    assert any("some tasks had no success yet" in note for note in found.notes)


def test_a_task_that_was_tuned_before_is_named_and_other_metrics_do_not_count(sqlite_store):
    add_study(sqlite_store, "new", [0.3, 0.25])
    create_study(sqlite_store, name="other", directions=("maximize",), task="other", metric="acc", space=SPACE)
    found = forecast(sqlite_store, spec_of())
    assert found.tasks == ("new",)
    assert any("new itself was tuned before, with a best val_loss of 0.25" in note for note in found.notes)


def test_longer_training_takes_longer(sqlite_store):
    add_study(sqlite_store, "past", [0.3, 0.25])
    found = forecast(sqlite_store, spec_of(epochs=30))
    assert found.stages[0].hours.expected == pytest.approx(10 / 60)
    assert any("up to 3 epochs, these for up to 30" in note for note in found.notes)


def test_a_space_that_nearly_matches_is_taken_and_named(sqlite_store):
    add_study(sqlite_store, "wider", [0.3, 0.25], space={"lr": {**LR, "high": 0.5}})
    found = forecast(sqlite_store, spec_of())
    assert found.tasks == ("wider",)
    assert any("whose space nearly matches" in note for note in found.notes)


@pytest.mark.parametrize(("rule", "started", "beyond"), [("gain", 2, 1), ("gain", 1, 0), ("cost", 2, 0)])
def test_a_study_in_which_nothing_was_left_counts_to_the_end(sqlite_store, rule, started, beyond):
    """Not one that went on after it was stopped, and not one in which the rest was too dear."""
    study_id = add_study(sqlite_store, "stopped", [0.3, 0.25])
    stopped = Stopped(
        rule=rule,
        finished=started,
        started=started,
        left=6,
        expected_gain=0.0,
        gain95=0.0,
        gain_of_next=0.0,
        threshold=0.1,
        reason="enough",
    )
    HistoryStorage(sqlite_store).set_study_user_attr(study_id, STOPPED_ATTRIBUTE, stopped.__dict__)
    add_study(sqlite_store, "cut", [0.3, 0.25])
    assert [stage.tasks for stage in forecast(sqlite_store, spec_of()).stages] == [2, 2, *[beyond] * 6]


def test_what_somebody_else_recorded_is_tuned_again(sqlite_store, tmp_path):
    """Random runs of eight tasks, best at different places: the tuner needs fewer of them than were recorded."""
    rng = np.random.default_rng(0)
    place = rng.random(40)
    rows = [
        {"task": f"t{t}", "config": config, "value": float((x - 0.5 - t / 40) ** 2), "cost_seconds": 3600.0}
        for t in range(8)
        for config, x in enumerate(place)
    ]
    described = {"name": "recorded", "metric": "val_loss", "direction": "minimize", "resource": None, "measured": "yes"}
    described |= {"source": "made up", "licence": "none", "parameters": [{"name": "lr", **LR}]}
    folder = tmp_path / "recorded"
    folder.mkdir()
    (folder / "space.json").write_text(json.dumps(described))
    configs = pa.table({"config": list(range(40)), "lr": (10 ** (-5 + 4 * place)).tolist()})
    pq.write_table(configs, folder / "configs.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "trials.parquet")
    import_table(sqlite_store, folder)

    told: list[tuple[int, int]] = []
    tasks, _ = past_tasks(sqlite_store, spec_of(), TRIALS, lambda done, of_all: told.append((done, of_all)))
    assert len(tasks) == 8 and told[-1] == (8, 8)
    for task in tasks:
        assert not task.is_ours and len(task.curve) == TRIALS
        assert task.curve[-1] < np.median([task.losses[start : start + TRIALS].min() for start in range(30)])
    found = forecast(sqlite_store, spec_of())
    assert found.replayed == 8 and found.missing is None
    assert found.stages[-1].hours.expected == pytest.approx(TRIALS)


def test_studies_without_a_metrics_name_are_left_out(sqlite_store):
    storage = HistoryStorage(sqlite_store)
    study = optuna.create_study(study_name="nameless", storage=storage, sampler=HistorySampler(storage, seed=0))
    study.optimize(lambda trial: trial.suggest_float("lr", 1e-5, 0.1, log=True), n_trials=3)
    assert past_tasks(sqlite_store, spec_of(), TRIALS) == ([], [])
