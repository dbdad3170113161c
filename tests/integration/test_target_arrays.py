"""Are the trials of a family, or of a task, found whole, by their tasks, and only where they meet a condition?"""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from hpo.decisions.past_effects import past_effects
from hpo.errors import NoHistoryError, SettingsError
from storage.families import list_families
from storage.history import get_study
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.optuna_storage import HistoryStorage
from storage.queries import count_trials
from storage.query_language import QueryError, parse
from storage.schema import Store
from storage.sources import Source
from storage.studies import create_study
from storage.target_arrays import target_revisions, target_trials

SPACE = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    "c": {"type": "categorical", "choices": ["red", "blue"]},
}


def take(store: Store, task: str, n: int, *, first: int = 0, metric: str = "loss", space: dict | None = None) -> None:
    rng = np.random.default_rng(first + 7)
    internal = np.column_stack([rng.random(n), rng.integers(0, 2, n)])
    columns = RunColumns(
        keys=[str(number) for number in range(first, first + n)],
        names=("x", "c"),
        internal=internal,
        values=internal[:, 0] + 0.1 * rng.random(n),
    )
    intake = Intake(store, source=Source(name="s", kind="table", location="s"))
    where = f"{task} {metric}"
    intake.take_table(
        PastTask(name=task, study=where, metric=metric, direction="minimize", space=space or SPACE), columns
    )
    intake.finish()


def family(store: Store) -> str:
    return list_families(store)[0].name


def test_a_family_is_all_its_tasks(store):
    take(store, "one", 30)
    take(store, "two", 20)
    (found,) = target_trials(store, family(store))
    names, places = found.tasks
    assert names == ["one", "two"]
    assert np.bincount(places).tolist() == [30, 20]


def test_a_task_is_its_own_studies_in_every_family(store):
    take(store, "one", 30)
    take(store, "two", 20)
    take(store, "one", 5, metric="error")
    assert sorted(len(found.arrays) for found in target_trials(store, "one")) == [5, 30]
    effects = past_effects(store, "one")
    assert len(effects.tasks) == 2 and len(effects.runs.tasks) == 35


@pytest.mark.parametrize("where", ["params.x < 0.5", "params.c = red and value < 0.4", "task = two", "number >= 3", ""])
def test_a_condition_chooses_what_a_query_finds(store, where):
    take(store, "one", 30)
    take(store, "two", 20)
    found = target_trials(store, family(store), parse(where))
    assert sum(len(each.arrays) for each in found) == count_trials(store, where) > 0


def test_what_is_in_quarantine_says_nothing(store):
    take(store, "one", 30)
    take(store, "two", 20)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE studies SET quarantine = 'mirrored' WHERE name = 'two loss'")
    assert [name for found in target_trials(store, family(store)) for name in found.tasks[0]] == ["one"]


def test_ranges_of_several_spaces_are_put_together(store):
    take(store, "one", 30)
    wide = {"x": {"type": "float", "low": 0.0, "high": 4.0}, "c": {"type": "categorical", "choices": ["blue", "red"]}}
    take(store, "one", 30, first=30, metric="loss2", space=wide)
    effects = past_effects(store, "one")
    assert [axis.labels for axis in effects.axes.axes] == [("0 … 1", "1 … 2", "2 … 3", "3 … 4"), ("red", "blue")]
    counts, _ = effects.went_along
    assert counts.runs[:4].tolist() == [60, 0, 0, 0]
    assert counts.runs[4:].sum() == 60


def test_an_answer_is_kept_until_the_history_changes(store):
    take(store, "one", 30)
    first = past_effects(store, "one")
    assert past_effects(store, "one") is first
    before = target_revisions(store, "one")
    take(store, "one", 5, first=30)
    assert target_revisions(store, "one") != before
    assert len(past_effects(store, "one").runs.tasks) == 35


def test_what_is_not_there_is_said(store):
    take(store, "one", 30)
    take(store, "two", 30)
    with pytest.raises(NoHistoryError, match="there is no task or family 'three'"):
        past_effects(store, "three")
    with pytest.raises(NoHistoryError, match="no finished trial of 'one' meets the condition"):
        past_effects(store, "one", where="params.x > 2")
    with pytest.raises(QueryError):
        past_effects(store, "one", where="params.x >")
    with pytest.raises(SettingsError, match="2, whose outcomes"):
        past_effects(store, family(store), raw_units=True)


def test_trials_without_a_parameter_are_not_called_missing(store):
    create_study(store, name="bare", task="bare task", metric="loss", directions=("minimize",), spec=None)
    with pytest.raises(NoHistoryError, match="'bare task' has no finished trial yet"):
        past_effects(store, "bare task")
    optuna.load_study(study_name="bare", storage=HistoryStorage(store)).add_trial(create_trial(value=1.0))
    for target in ("bare task", get_study(store, "bare").family):
        with pytest.raises(NoHistoryError, match=f"none of the finished trials of '{target}' has a parameter"):
            past_effects(store, target)
