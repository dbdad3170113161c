"""Is every run of a recorded table read as it is written, and every other row refused with its reason?"""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from storage.errors import ImportFailedError
from storage.importers.mapping import RunMapping
from storage.importers.recorded.table import RecordedTable
from storage.importers.tables import parquet

PARAMETERS = [
    {"name": "kernel", "type": "categorical", "choices": ["rbf", "linear"]},
    {"name": "C", "type": "float", "low": 0.1, "high": 10.0, "log": True},
    {"name": "gamma", "type": "float", "low": 0.0, "high": 1.0, "when": {"parent": "kernel", "in": ["rbf"]}},
    {"name": "degree", "type": "int", "low": 2, "high": 8, "step": 2},
]
CONFIGS = {
    "config": [0, 1, 2],
    "kernel": ["rbf", "linear", "rbf"],
    "C": [0.1, 1.0, 10.0],
    "gamma": [0.5, None, 1.0],
    "degree": [2, 4, 8],
}
TRIALS = {"task": ["a", "b", "a"], "config": [0, 1, 2], "value": [0.1, 0.2, 0.3]}


class Written:
    """A table on disk, and what was read from it."""

    def __init__(self, folder):
        self.folder, self.rejected, self.notes = folder, [], []

    def write(self, *, parameters=PARAMETERS, configs=CONFIGS, trials=TRIALS, curves=None, **fields):
        description = {"name": "svm", "metric": "error", "direction": "minimize", "parameters": parameters} | fields
        (self.folder / "space.json").write_text(json.dumps(description))
        tables = {"configs": configs, "trials": trials, "curves": curves}
        for name, columns in tables.items():
            if columns is not None:
                table = columns if isinstance(columns, pa.Table) else pa.table(columns)
                pq.write_table(table, self.folder / f"{name}.parquet")
        return self

    def table(self, **mapping):
        return RecordedTable(self.folder, RunMapping(**mapping), self.notes.append)

    def read(self, **mapping):
        self.rejected.clear()
        return list(self.table(**mapping).batches(lambda *row: self.rejected.append(row)))

    def one(self, **mapping):
        ((task, runs),) = self.read(**mapping)
        return task, runs


@pytest.fixture
def written(tmp_path):
    return Written(tmp_path)


def repeated(columns, **changes):
    return {name: list(values) for name, values in columns.items()} | changes


def test_runs_come_task_by_task_in_the_order_of_the_rows(written):
    (first, one), (second, two) = written.write().read()
    assert (first.name, first.study, first.metric, first.direction) == ("svm/a", "svm/a", "error", "minimize")
    assert (second.name, list(first.space)) == ("svm/b", ["kernel", "C", "gamma", "degree"])
    assert (list(one.keys), list(two.keys)) == (["0", "2"], ["1"])
    np.testing.assert_array_equal(one.internal, [[0, 0.1, 0.5, 2], [0, 10.0, 1.0, 8]])
    np.testing.assert_array_equal(two.internal, [[1, 1.0, math.nan, 4]])
    assert (one.values.tolist(), written.rejected, written.notes) == ([0.1, 0.3], [], [])


def test_a_run_without_a_value_has_failed(written):
    _, runs = written.write(trials={"task": ["a"] * 3, "config": [0, 1, 2], "value": [None, math.nan, 1.0]}).one()
    assert runs.states.tolist() == [TrialState.FAIL.value] * 2 + [TrialState.COMPLETE.value]


def test_seeds_are_part_of_the_key(written):
    seeds = pa.array([1, 2, None, 2**63 - 1], pa.int64())
    _, runs = written.write(
        trials=pa.table({"task": ["a"] * 4, "config": [0, 0, 0, 0], "value": [1.0] * 4, "seed": seeds})
    ).one()
    assert list(runs.keys) == ["0/1", "0/2", "0", f"0/{2**63 - 1}"]
    assert list(runs.seeds) == [1, 2, None, 2**63 - 1]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"task": [None, "a", "a"]}, "no name of a task: None"),
        ({"task": ["", "a", "a"]}, "no name of a task: ''"),
        ({"task": ["a\0b", "a", "a"]}, r"no name of a task: 'a\x00b'"),
        ({"task": ["a" * 501, "a", "a"]}, f"no name of a task: {'a' * 501!r:.80}"),
        ({"config": [None, 1, 2]}, "no number of a configuration"),
        ({"config": [0.5, 1, 2]}, "no number of a configuration"),
        ({"config": [9, 1, 2]}, "unknown configuration: 9 is not in configs.parquet"),
        ({"config": [-1, 1, 2]}, "unknown configuration: -1 is not in configs.parquet"),
        ({"value": [math.inf, 0.2, 0.3]}, "not finite: the value is inf"),
        ({"value": [-math.inf, 0.2, 0.3]}, "not finite: the value is -inf"),
        ({"seed": [0.5, 1, 2]}, "no whole number: the seed is 0.5"),
        ({"state": ["RUNNING", None, None]}, "unknown state: 'RUNNING' is none of COMPLETE, PRUNED, FAIL"),
        (
            {"state": ["COMPLETE", None, None], "value": [None, 0.2, 0.3]},
            "no value: the run is complete but has none of the metric",
        ),
        ({"attributes": ["[1]", None, None]}, "attributes that are no JSON object"),
        ({"attributes": ["{", None, None]}, "attributes that are no JSON object"),
        ({"key": ["k" * 501, None, None]}, f"no usable key: {'k' * 501!r:.80}"),
    ],
)  # fmt: skip
def test_a_row_that_is_bad_alone_is_refused_alone(written, columns, reason):
    runs = written.write(trials=repeated(TRIALS, **columns)).read()
    assert sorted(key for _, part in runs for key in part.keys) in (["1", "2"], ["1/1", "2/2"])
    assert written.rejected == [("trials.parquet row 1", reason)]


def test_the_first_of_several_equal_rows_is_taken(written):
    trials = {"task": ["a", "b", "a", "a"], "config": [0, 0, 0, 1], "value": [0.1, 0.2, 0.3, 0.4]}
    (_, one), (_, two) = written.write(trials=trials).read()
    assert (one.values.tolist(), two.values.tolist()) == ([0.1, 0.4], [0.2])
    assert written.rejected == [("trials.parquet row 3", "there twice: '0' of the task is in an earlier row")]


def test_a_bad_row_does_not_stand_in_the_way_of_a_good_one(written):
    _, runs = written.write(trials={"task": ["a", "a"], "config": [0, 0], "value": [math.inf, 0.3]}).one()
    assert runs.values.tolist() == [0.3]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"kernel": ["poly", "linear", "rbf"]}, "no such choice: kernel = poly is none of rbf, linear"),
        ({"kernel": [None, "linear", "rbf"]}, "active parameter without a value: kernel"),
        ({"C": [0.01, 1.0, 10.0]}, "outside its range: C = 0.01 is not in [0.1, 10]"),
        ({"C": [math.inf, 1.0, 10.0]}, "outside its range: C = inf is not in [0.1, 10]"),
        ({"C": [None, 1.0, 10.0]}, "active parameter without a value: C"),
        ({"C": [math.nan, 1.0, 10.0]}, "active parameter without a value: C"),
        ({"C": ["abc", "1.0", "10"]}, "outside its range: C = abc is not in [0.1, 10]"),
        ({"gamma": [None, None, 1.0]}, "active parameter without a value: gamma"),
        ({"degree": [3, 4, 8]}, "off its grid: degree = 3 is not 2 plus a multiple of 2"),
        ({"degree": [2.5, 4, 8]}, "off its grid: degree = 2.5 is not 2 plus a multiple of 2"),
        ({"degree": [2**62, 4, 8]}, f"outside its range: degree = {2**62} is not in [2, 8]"),
    ],
)
def test_runs_of_a_bad_configuration_are_refused(written, columns, reason):
    runs = written.write(configs=repeated(CONFIGS, **columns)).read()
    assert sorted(key for _, part in runs for key in part.keys) == ["1", "2"]
    assert written.rejected == [("trials.parquet row 1", f"{reason} (configuration 0)")]


def test_inactive_parameters_have_no_value(written):
    written.write(configs=repeated(CONFIGS, gamma=[0.5, 0.1, 1.0])).read()
    reason = "inactive parameter with a value: gamma = 0.1 where kernel is not rbf (configuration 1)"
    assert written.rejected == [("trials.parquet row 2", reason)]


def test_bounds_that_were_rounded_are_still_the_bounds(written):
    singles = pa.array([0.1, 1.0, 10.0], pa.float32())  # 0.1 becomes a little more, 10 stays
    gammas = pa.array([-0.0, None, math.nextafter(1.0, 2.0)])
    (_, one), _ = written.write(configs=pa.table(repeated(CONFIGS, C=singles, gamma=gammas))).read()
    assert one.internal[:, 2].tolist() == [0.0, 1.0]
    assert (one.internal[0, 1], written.rejected) == (pytest.approx(0.1), [])


def test_configurations_that_are_there_twice_must_be_equal(written):
    twice = {name: [*values, values[0]] for name, values in CONFIGS.items()}
    assert len(written.write(configs=twice).read()) == 2
    assert written.rejected == []
    twice["C"][3] = 2.0
    written.write(configs=twice).read()
    reason = "described 2 times, differently: configuration 0 (configuration 0)"
    assert written.rejected == [("trials.parquet row 1", reason)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 0, 1], pa.int8()),
        pa.array(["1", "0", "1"]),
        pa.array([1.0, 0.0, 1.0]),
        pa.array(["1", "0", "1"]).dictionary_encode(),
    ],
)
def test_choices_are_known_in_whatever_type_they_are_kept(written, column):
    parameters = [{"name": "layers", "type": "categorical", "choices": [0, 1]}]
    (_, one), (_, two) = written.write(
        parameters=parameters, configs=pa.table({"config": [0, 1, 2], "layers": column})
    ).read()
    assert (one.internal.tolist(), two.internal.tolist()) == ([[1.0], [1.0]], [[0.0]])


def test_truth_values_are_choices(written):
    parameters = [{"name": "nesterov", "type": "categorical", "choices": [True, False]}]
    (_, one), _ = written.write(
        parameters=parameters, configs={"config": [0, 1, 2], "nesterov": [False, True, True]}
    ).read()
    assert one.internal.tolist() == [[1.0], [0.0]]


# Whole files


@pytest.mark.parametrize("name", ["configs", "trials", "curves"])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_refused_before_anything_is_read(written, name, keep):
    curves = {"task": ["a"] * 1000, "config": [0] * 1000, "step": range(1000), "value": np.random.rand(1000)}
    written.write(curves=curves)
    path = written.folder / f"{name}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ImportFailedError, match=rf"{name}\.parquet cannot be read as Parquet \(is it cut off\?\)"):
        written.table()


@pytest.mark.parametrize("name", ["trials", "curves"])
def test_a_page_that_was_damaged_is_noticed_before_anything_is_read(written, name):
    count = 100_000
    rng = np.random.default_rng(0)
    numbers = {"config": rng.integers(0, 3, count), "value": rng.random(count), "seed": np.arange(count)}
    rows = {"task": ["a"] * count, **numbers}
    written.write(trials=rows, curves=rows | {"step": np.arange(count)})
    path = written.folder / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 4, len(content) // 2):
        content[place] ^= 0x5A
    path.write_bytes(content)
    with pytest.raises(ImportFailedError, match=r"cannot be read as Parquet|has text"):
        written.table()


@pytest.mark.parametrize("name", ["configs", "trials"])
def test_a_missing_file_is_said(written, name):
    written.write()
    (written.folder / f"{name}.parquet").unlink()
    with pytest.raises(ImportFailedError, match=rf"There is no file .*{name}\.parquet"):
        written.table()


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"configs": {"config": [0]}}, r"configs\.parquet lacks the column 'kernel', 'C', 'gamma', .*; it has config"),
        ({"trials": {"task": ["a"], "config": [0]}}, r"trials\.parquet lacks the column 'value'; it has task, config"),
        ({"trials": repeated(TRIALS, value=["a", "b", "c"])}, r"value holds string; it must hold numbers"),
        ({"trials": repeated(TRIALS, config=["a", "b", "c"])}, r"config holds string; it must hold numbers"),
        ({"trials": repeated(TRIALS, task=[0.5, 1.5, 2.5])}, r"task holds double; it must hold text"),
        ({"trials": repeated(TRIALS, error=[1, 2, 3])}, r"error holds int64; it must hold text"),
        ({"trials": repeated(TRIALS, cost_seconds=["1", "2", "3"])}, r"cost_seconds holds string"),
        ({"configs": repeated(CONFIGS, kernel=[["rbf"], ["rbf"], ["rbf"]])}, r"kernel holds list.* no parameter"),
        ({"curves": {"task": ["a"], "config": [0], "step": ["x"], "value": [1.0]}}, r"step holds string"),
        ({"curves": {"task": ["a"], "config": [0], "value": [1.0]}}, r"curves\.parquet lacks the column 'step'"),
    ],
)  # fmt: skip
def test_columns_that_are_missing_or_of_a_wrong_type_are_said_before_anything_is_read(written, tables, reason):
    written.write(**tables)
    with pytest.raises(ImportFailedError, match=reason):
        written.table()


def test_a_column_that_is_there_twice_is_said(written):
    written.write(trials=pa.table([["a"], ["b"], [0], [1.0]], names=["task", "task", "config", "value"]))
    with pytest.raises(ImportFailedError, match="several columns named 'task'"):
        written.table()


def test_text_that_is_not_utf8_is_refused(written):
    broken = pa.array([b"\xff\xfe", b"a", b"b"]).view(pa.string())
    written.write(trials=pa.table({"task": broken, "config": [0, 1, 2], "value": [1.0, 2.0, 3.0]}))
    with pytest.raises(ImportFailedError, match=r"trials\.parquet"):
        written.table()


def test_columns_that_are_not_known_are_noted(written):
    written.write(trials=repeated(TRIALS, gpu=["a", "b", "c"])).read()
    assert [note.split(": ", 1)[1] for note in written.notes] == ["left out the columns gpu"]


def test_tasks_may_be_numbers(written):
    (task, _), _ = written.write(trials=repeated(TRIALS, task=[31, 32, 31])).read()
    assert task.name == "svm/31"


def test_a_table_without_rows_has_no_runs(written):
    assert written.write(trials=pa.table(TRIALS).slice(0, 0)).read() == []


# Streams


@settings(max_examples=60, deadline=None)
@given(
    tasks=st.lists(st.sampled_from("abcde"), min_size=1, max_size=40),
    size=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_reading_does_not_depend_on_the_size_of_batches_nor_on_where_curves_stand(tmp_path_factory, tasks, size, order):
    written = Written(tmp_path_factory.mktemp("table"))
    count = len(tasks)
    trials = {"task": tasks, "config": [0] * count, "value": [float(row) for row in range(count)], "seed": range(count)}
    points = [(row, step) for row in range(count) for step in range(row % 3)]
    order.shuffle(points)
    curves = {
        "task": [tasks[row] for row, _ in points],
        "config": [0] * len(points),
        "seed": [row for row, _ in points],
        "step": [step for _, step in points],
        "value": [row + step / 10 for row, step in points],
    }
    written.write(trials=trials, curves=curves if points else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROWS_PER_BATCH", size)
        found = written.read()
    assert sorted(task.name for task, _ in found) == sorted({f"svm/{task}" for task in tasks})
    for task, runs in found:
        rows = [row for row, name in enumerate(tasks) if f"svm/{name}" == task.name]
        assert runs.values.tolist() == rows
        curves = {rows[place]: curve for place, curve in (runs.curves or {}).items()}
        assert curves == {row: [(step, row + step / 10) for step in range(row % 3)] for row in rows if row % 3}
    assert (written.rejected, written.notes) == ([], [])


# Curves


def test_curves_without_a_seed_belong_to_the_only_run_of_a_configuration(written):
    trials = {"task": ["a"] * 3, "config": [0, 1, 1], "value": [1.0] * 3, "seed": [5, 6, 7]}
    curves = {"task": ["a"] * 3, "config": [0, 0, 1], "step": [2, 1, 1], "value": [0.2, None, 0.4]}
    _, runs = written.write(trials=trials, curves=curves).one()
    ((row, curve),) = runs.curves.items()
    assert (row, [step for step, _ in curve], curve[1][1]) == (0, [1, 2], 0.2)
    assert math.isnan(curve[0][1])
    assert [note.split(": ", 1)[1] for note in written.notes] == [
        "left out 1 curves that belong to none of the runs, or to several"
    ]


def test_curves_of_other_tasks_are_noted(written):
    curves = {"task": ["a", "z"], "config": [0, 0], "step": [1, 1], "value": [0.5, 0.5]}
    (_, one), _ = written.write(curves=curves).read()
    assert one.curves == {0: [(1, 0.5)]}
    assert [note.split(": ", 1)[1] for note in written.notes] == ["left out the curves of 1 tasks that have no trials"]


def test_points_without_a_step_are_no_points(written):
    curves = {"task": ["a"] * 2, "config": [0, 0], "step": [None, 3], "value": [0.5, 0.6]}
    (_, one), _ = written.write(curves=curves).read()
    assert one.curves == {0: [(3, 0.6)]}


# Mappings


def test_a_mapping_changes_names_numbers_and_the_metric(written):
    mapping = {"rename": {"C": "penalty"}, "scale": {"penalty": 10, "error": 100}, "drop": ("degree",)}
    curves = {"task": ["b"], "config": [1], "step": [1], "value": [0.07]}
    (task, one), (_, two) = written.write(curves=curves).read(**mapping)
    assert one.names == ("kernel", "penalty", "gamma")
    assert one.internal[:, 1].tolist() == [1.0, 100.0]
    assert (task.space["penalty"]["low"], one.values.tolist()) == (1.0, [10.0, 30.0])
    assert two.curves == {0: [(1, 7.0)]}


def test_a_space_in_the_mapping_replaces_the_recorded_one(written):
    narrow = {"C": {"type": "float", "low": 0.5, "high": 20.0}}
    (task, one), _ = written.write().read(space=narrow)
    assert task.space["C"] == {"type": "float", "low": 0.5, "high": 20.0}
    assert list(one.keys) == ["2"]
    assert written.rejected == [
        ("trials.parquet row 1", "outside its range: C = 0.1 is not in [0.5, 20] (configuration 0)")
    ]
