"""Is what a configuration is worth in a new task told rightly, and what is asked wrongly told clearly?"""

import pytest

from hpo.decisions.configuration_worth import worth
from hpo.decisions.past_effects import past_effects
from hpo.decisions.resemblance import resemblance
from hpo.errors import NoHistoryError, SettingsError
from storage.database import Store
from tests.e2e.test_stats_cli import fill


def test_a_good_configuration_is_worth_more_and_what_is_left_open_is_averaged(sqlite_store: Store):
    found = past_effects(sqlite_store, fill(sqlite_store, 6, runs=40))
    good, bad = worth(found, {"lr": "0.05"}), worth(found, {"lr": 0.0001})
    assert good.prediction95 is not None and bad.prediction95 is not None
    assert bad.prediction95[1] < good.prediction95[0]
    assert good.interval95[0] < good.mean < good.interval95[1]
    assert good.prediction95[0] <= good.interval95[0] and good.interval95[1] <= good.prediction95[1]
    assert worth(found, {}).mean == pytest.approx(0.0, abs=0.05)
    assert worth(found, {"lr": 0.05, "kind": "b", "momentum": 0.9}).fixed == {"lr": 0.05, "kind": "b", "momentum": 0.9}


def test_two_tasks_predict_no_third(sqlite_store: Store):
    found = past_effects(sqlite_store, fill(sqlite_store, 2, runs=40))
    told = worth(found, {"kind": "a"})
    assert told.prediction95 is None and told.tau is None and told.tasks == 2
    with pytest.raises(NoHistoryError, match=r"a map takes 3 tasks with two different outcomes; .* has 2"):
        resemblance(found)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"lr": "fast"}, "lr = fast is no number"),
        ({"lr": "3"}, "lr = 3 is outside"),
        ({"lr": "nan"}, "lr = nan is outside"),
        ({"kind": "<b>"}, "kind = <b> is none of a, b"),
        ({"depth": 3}, "has no parameter 'depth'; it has: "),
    ],
)
def test_what_is_no_value_is_told(sqlite_store: Store, params: dict, problem: str):
    found = past_effects(sqlite_store, fill(sqlite_store, 3))
    with pytest.raises(SettingsError, match=problem):
        worth(found, params)


def test_tasks_with_the_same_optimum_resemble_each_other(sqlite_store: Store):
    found = resemblance(past_effects(sqlite_store, fill(sqlite_store, 5, runs=40)))
    assert [task.task for task in found.tasks] == [f"past {t}" for t in range(5)] and not found.flat
    assert all(task.nearest[0].correlation > 0.8 and task.trials == 40 for task in found.tasks)
    assert all(task.nearest[0].task != task.task for task in found.tasks)
