"""Is each column of a table taken for what it is?"""

import pytest

from storage.importers.mapping import RunMapping
from storage.importers.tables.columns import is_result, key_column, sort_columns


def sorted_columns(*header, metric=None, task=None, words=(), **mapping):
    """The columns of a table in which all but `words` hold numbers."""
    return sort_columns(
        header,
        RunMapping(**mapping),
        task=None if task is None else header.index(task),
        metric=metric,
        is_numeric=lambda place: header[place] not in words,
        is_duration=lambda place: header[place] not in words,
    )


def test_what_has_no_other_meaning_is_a_parameter():
    found = sorted_columns(
        "lr", "optimizer", "val_loss", "train_acc", "seed", "runtime", "status", words=("optimizer",)
    )
    assert list(found.params) == ["lr", "optimizer"]
    assert list(found.results) == ["val_loss", "train_acc"]
    assert found.roles == {"seed": 4, "cost_seconds": 5, "state": 6}


def test_prefixes_say_what_is_what():
    header = ("number", "value", "datetime_start", "params_lr", "params_loss", "user_attrs_team", "width", "state")
    found = sorted_columns(*header, words=("user_attrs_team",))
    assert found.params == {"lr": 3, "loss": 4}
    assert found.results == {"value": 1}
    assert found.attributes == {"team": 5, "width": 6}
    assert found.roles == {"key": 0, "started_at": 2, "state": 7}


def test_runs_of_mlflow_as_a_table():
    header = ("run_id", "experiment_id", "status", "metrics.val_acc", "params.lr", "tags.mlflow.user", "start_time")
    found = sorted_columns(*header)
    assert (found.params, found.results) == ({"lr": 4}, {"val_acc": 3})
    assert set(found.attributes) == {"experiment_id", "mlflow.user"}
    assert found.roles == {"key": 0, "state": 2, "started_at": 6}


@pytest.mark.parametrize(
    "name", ["entropy_coef", "loss_weight", "kl_beta", "precision", "score_threshold", "lr", "batch_size", "momentum"]
)
def test_names_of_settings_are_no_results(name):
    assert not is_result(name)


@pytest.mark.parametrize("name", ["val_loss", "accuracy", "test/f1", "rmse", "error_rate", "best_auc"])
def test_names_of_metrics_are_results(name):
    assert is_result(name)


def test_words_are_no_results_whatever_the_name():
    assert sorted_columns("loss", "acc", words=("loss",)).params == {"loss": 0}


def test_the_metric_that_the_user_named_is_a_result_whatever_the_name():
    found = sorted_columns("lr", "cost", "quality", metric="cost")
    assert (list(found.results), found.roles, list(found.params)) == (["cost"], {}, ["lr", "quality"])


def test_the_metric_is_found_under_its_old_name_and_behind_a_prefix():
    assert sorted_columns("lr", "q", metric="quality", rename={"q": "quality"}).results == {"q": 1}
    assert sorted_columns("params.lr", "metrics.q", metric="q").results == {"q": 1}


def test_what_is_dropped_or_has_no_name_is_left_out():
    found = sorted_columns("", "lr", "hydra.run", "status", drop=("hydra.*", "status"))
    assert (list(found.params), found.roles) == (["lr"], {})
    assert found.left_out == ["the one at place 1, which has no name", "hydra.run", "status"]


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("duration", 1.0),
        ("Runtime (s)", 1.0),
        ("train_time_ms", 1e-3),
        ("elapsed_minutes", 60.0),
        ("wall_time_h", 3_600.0),
    ],
)
def test_units_of_durations(name, factor):
    found = sorted_columns("lr", name)
    assert (found.roles, found.cost_factor) == ({"cost_seconds": 1}, factor)


def test_the_column_that_names_the_runs():
    assert key_column(("trial", "Run ID", "lr"), RunMapping(), set()) == 1
    assert key_column(("trial", "Run ID", "lr"), RunMapping(drop=("Run ID",)), set()) == 0
    assert key_column(("trial", "lr"), RunMapping(), {0}) is None
