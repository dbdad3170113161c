"""Do tables of runs come into the history: each row once, or with a reason, and never half a damaged file?"""

import json
import os
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from storage.errors import ImportFailedError
from storage.history import get_study, list_studies, list_trials
from storage.importers.table import import_table
from storage.schema import Store
from storage.sources import list_sources

TABLES = os.environ.get("HINDSIGHT_TABLES")  # a folder with recorded tables
COLUMNS = (
    "run_id",
    "lr",
    "optimizer",
    "momentum",
    "seed",
    "duration",
    "status",
    "started_at",
    "val_loss",
    "train_loss",
)


def rows(count, *, start=0):
    """Rows of runs as somebody's script may have written them."""
    found = []
    for number in range(start, start + count):
        rng = random.Random(number)
        sgd = rng.random() < 0.5
        cells = [f"run-{number}", f"{10 ** rng.uniform(-5, -1):.6g}", "sgd" if sgd else "adam"]
        cells += [f"{rng.random():.4f}" if sgd else "", number, f"{rng.uniform(1, 99):.2f}", "finished"]
        found.append(
            [*map(str, cells), f"2024-05-01 {number % 24:02d}:00:00", f"{rng.random():.5f}", f"{rng.random():.5f}"]
        )
    return found


def csv_of(found, columns=COLUMNS, delimiter=","):
    return "\n".join(delimiter.join(row) for row in [columns, *found]) + "\n"


@pytest.fixture
def csv(tmp_path):
    def written(content, name="runs.csv"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8") if isinstance(content, str) else path.write_bytes(content)
        return path

    return written


def trials(store, study):
    return list_trials(store, get_study(store, study).study_id)


def number_of_trials(store):
    return sum(study.trials for study in list_studies(store))


def reasons(report):
    return {row.row: (row.verdict, row.reason) for row in report.rows}


# CSV


def test_a_csv_file_is_taken_with_all_it_says(store, csv):
    path = csv(csv_of(rows(40)))
    report = import_table(store, path)
    assert (report.taken, report.rows, report.source.name) == (40, [], "table:runs")
    study = get_study(store, "table:runs/runs")
    assert (study.task, study.metric, study.directions) == ("runs", "val_loss", ("minimize",))
    assert study.space["momentum"]["when"] == {"optimizer": ["sgd"]}
    assert study.space["lr"]["log"]
    first, row = trials(store, "table:runs/runs")[7], rows(40)[7]
    assert first.params == {
        name: value
        for name, value in zip(
            ("lr", "optimizer", "momentum"), (float(row[1]), row[2], row[3] and float(row[3])), strict=True
        )
        if value != ""
    }
    assert (first.state, first.value, first.seed) == (TrialState.COMPLETE, float(row[8]), 7)
    assert (first.cost_seconds, first.started_at) == (float(row[5]), datetime(2024, 5, 1, 7, tzinfo=UTC))
    assert first.user_attrs == {"metrics": {"train_loss": float(row[9])}}
    notes = "\n".join(report.notes)
    for noted in (
        "the metric is val_loss, minimize",
        "train_loss",
        "times without a zone are taken as UTC (40",
        "lr: log",
    ):
        assert noted in notes
    (source,) = list_sources(store)
    assert (source.kind, source.location, source.trials) == ("table", str(path), 40)


def test_a_stray_word_among_numbers_is_rejected_and_a_mapping_takes_it(store, csv):
    found = [[str(0.01 * (place + 1)), str(1 - place / 20)] for place in range(20)]
    path = csv(csv_of([*found, ["auto", "0.5"]], ("lr", "val_loss")))
    report = import_table(store, path)
    assert report.taken == 20
    ((row, (verdict, reason)),) = reasons(report).items()
    assert (row, verdict) == ("runs.csv line 22", "rejected")
    assert "lr = auto is no number; it is float in the other runs. Where" in reason
    assert "`replace: {lr: {auto: NUMBER}}`" in reason
    again = import_table(store, path, mapping={"replace": {"lr": {"auto": 0.05}}})
    assert (again.taken, again.number_skipped, again.number_rejected) == (1, 20, 0)


def test_what_was_imported_before_is_skipped_and_what_is_new_is_taken(store, csv):
    assert import_table(store, csv(csv_of(rows(30)))).taken == 30
    again = import_table(store, csv(csv_of(rows(30))))
    assert (again.taken, dict(again.skipped)) == (0, {"already here": 30})
    grown = import_table(store, csv(csv_of(rows(45))))
    assert (grown.taken, dict(grown.skipped), dict(grown.rejected)) == (15, {"already here": 30}, {})
    assert number_of_trials(store) == 45


def test_rows_without_a_name_are_known_by_what_they_say(store, csv):
    columns = ("lr", "loss")
    three = [["0.1", "1.0"], ["0.2", "2.0"], ["0.1", "1.0"]]
    assert import_table(store, csv(csv_of(three, columns))).taken == 3
    moved = [[loss, lr] for lr, loss in [*three, ["0.1", "1.0"], ["0.4", "3.0"]]]
    report = import_table(store, csv(csv_of(moved[::-1], columns[::-1], ";")))
    assert (report.taken, dict(report.skipped)) == (2, {"already here": 3})


def test_a_column_that_came_later_makes_no_old_row_new(store, csv):
    import_table(store, csv(csv_of([["0.1", "1.0"], ["0.2", "2.0"]], ("lr", "loss"))))
    wider = [["0.1", "1.0", ""], ["0.2", "2.0", ""], ["0.3", "1.5", "adam"], ["0.4", "1.2", "sgd"]]
    report = import_table(store, csv(csv_of(wider, ("lr", "loss", "optimizer"))))
    assert (report.taken, dict(report.skipped), dict(report.rejected)) == (2, {"already here": 2}, {})


def test_a_run_that_comes_again_with_another_value_is_rejected(store, csv):
    found = rows(5)
    import_table(store, csv(csv_of(found)))
    found[2][8] = "0.99"
    report = import_table(store, csv(csv_of(found)))
    assert report.taken == 0
    assert reasons(report)["runs.csv line 4"][1].startswith("differs from what was imported before: value ")


def test_a_dry_run_says_the_same_and_writes_nothing(store, csv):
    found = rows(20)
    found[3][8], found[4][1] = "inf", "much"
    path = csv(csv_of(found))
    dry = import_table(store, path, dry_run=True)
    assert (number_of_trials(store), list_sources(store)) == (0, [])
    report = import_table(store, path)
    assert (dry.taken, dry.rejected, dry.notes, dry.rows) == (report.taken, report.rejected, report.notes, report.rows)


def test_each_bad_row_has_its_reason_and_the_others_are_taken(store, csv):
    found = rows(40)
    found[1] = found[1][:4]
    found[2] += ["more"]
    found[3][1] = "abc"
    found[4][1] = "inf"
    found[5][8] = "-inf"
    found[6][8] = "low"
    found[7][6] = "frobnicated"
    found[8][6] = "running"
    found[9][0] = ""
    found[10][0] = "run-11"
    found[12][8] = ""
    found[13][6] = "crashed"
    found[14][8] = "NaN"
    report = import_table(store, csv(csv_of(found)))
    told = {int(row.removeprefix("runs.csv line ")): reason for row, reason in reasons(report).items()}
    assert told == {
        3: ("rejected", "another number of fields: 4, and the header has 10 (is the file cut off there?)"),
        4: ("rejected", "another number of fields: 11, and the header has 10"),
        5: ("rejected", told[5][1]),
        6: ("rejected", told[6][1]),
        7: ("rejected", "no usable value of the metric: val_loss = -inf is not finite"),
        8: ("rejected", "no usable value of the metric: val_loss = 'low' is no number"),
        9: ("rejected", "an unknown state: 'frobnicated' is unknown; use complete, pruned or failed"),
        10: ("skipped", "not finished yet"),
        11: ("rejected", "no name of the run: the column 'run_id' is empty"),
        13: ("rejected", "there twice: run_id = 'run-11' is in an earlier line that differs"),
    }
    assert "lr = abc is no number" in told[5][1] and "lr = inf is not finite" in told[6][1]
    states = [(trial.state, trial.error) for trial in trials(store, "table:runs/runs")]
    assert len(states) == report.taken == 30
    assert [state for state in states if state[0] == TrialState.FAIL] == [
        (TrialState.FAIL, "no value of val_loss"),
        (TrialState.FAIL, None),
        (TrialState.FAIL, "no value of val_loss"),
    ]


HOSTILE = [
    "<script>alert(1)</script>",
    "'; DROP TABLE trials; --",
    "two\nlines",
    "größe 学习率 🚀",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd",
    "%s%n{0}${x}",
]


def test_names_of_every_kind_are_names(store, csv):
    quoted = ['"{}"'.format(name.replace('"', '""')) for name in HOSTILE]
    found = [
        [*(str(place + row / 7) for place in range(len(HOSTILE))), f'"{HOSTILE[row % 7]}"', f"0.{row}1"]
        for row in range(14)
    ]
    report = import_table(store, csv(csv_of(found, (*quoted, "task", "val_acc"))))
    assert (report.taken, report.rows) == (14, [])
    assert {study.task for study in list_studies(store)} == set(HOSTILE)
    assert set(trials(store, f"table:runs/{HOSTILE[0]}")[0].params) == set(HOSTILE)


def test_decimal_commas_and_semicolons(store, csv):
    found = [[f"0,{row}5", str(row % 3), f"{row},5"] for row in range(1, 9)]
    report = import_table(store, csv(csv_of(found, ("lr", "tiefe", "val_loss"), ";")))
    assert "runs.csv: numbers with a decimal comma: lr, val_loss" in report.notes
    assert [trial.value for trial in trials(store, "table:runs/runs")] == [row + 0.5 for row in range(1, 9)]
    assert trials(store, "table:runs/runs")[0].params == {"lr": 0.15, "tiefe": 1}


def test_a_table_of_optunas_comes_with_its_states(store, tmp_path):
    study = optuna.create_study(direction="maximize")
    for number in range(8):
        study.enqueue_trial({"x": number / 7, "kind": "ab"[number % 2]})
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("kind", ["a", "b"])
        study.tell(trial, number / 10 if number % 4 else None, state=None if number % 4 else TrialState.FAIL)
    study.trials_dataframe().to_csv(tmp_path / "optuna.csv")
    with pytest.raises(ImportFailedError, match="Is more or less of 'value' better"):
        import_table(store, tmp_path / "optuna.csv")
    report = import_table(store, tmp_path / "optuna.csv", direction="maximize")
    assert (report.taken, report.rows) == (8, [])
    found = trials(store, "table:optuna/optuna")
    assert [trial.value for trial in found] == [trial.value for trial in study.trials]
    assert [trial.params for trial in found] == [pytest.approx(trial.params) for trial in study.trials]
    assert all(trial.cost_seconds is not None and trial.finished_at >= trial.started_at for trial in found)


# What the user says


def test_the_metric_and_the_direction_can_be_said(store, csv):
    report = import_table(store, csv(csv_of(rows(12))), metric="train_loss", direction="maximize", source="mine")
    assert (report.source.name, get_study(store, "mine/runs").metric) == ("mine", "train_loss")
    assert get_study(store, "mine/runs").directions == ("maximize",)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("optimizer", {"sgd", "adam"}),
        ("churn", {"churn"}),
        ("{file} of {param:optimizer}", {"runs of sgd", "runs of adam"}),
        ("{file}!", {"runs!"}),
        (None, {"runs"}),
    ],
)
def test_the_task_is_a_column_a_constant_or_a_template(store, csv, task, expected):
    assert import_table(store, csv(csv_of(rows(12))), task=task).taken == 12
    assert {study.task for study in list_studies(store)} == expected
    assert len({study.family for study in list_studies(store)}) == 1


def test_a_mapping_renames_scales_drops_and_describes(store, csv):
    mapping = {
        "rename": {"lr": "learning_rate", "val_loss": "error"},
        "scale": {"error": 0.01, "learning_rate": 1000},
        "drop": ["mom*"],
        "metric": "error",
        "space": {"optimizer": {"type": "categorical", "choices": ["sgd", "adam", "lion"]}},
    }
    assert import_table(store, csv(csv_of(rows(12))), mapping=mapping).taken == 12
    study, row = get_study(store, "table:runs/runs"), rows(1)[0]
    assert (study.metric, set(study.space)) == ("error", {"learning_rate", "optimizer"})
    assert study.space["optimizer"]["choices"] == ["sgd", "adam", "lion"]
    first = trials(store, "table:runs/runs")[0]
    assert first.value == pytest.approx(float(row[8]) / 100)
    assert first.params["learning_rate"] == pytest.approx(float(row[1]) * 1000)


# What is no table


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("lr,loss\n", "has no rows that can be read"),
        ("lr,loss\n1\n2\n", "has no rows that can be read"),
        ("lr,lr,loss\n1,2,3\n", "several columns named 'lr'"),
        ('lr,loss\n0.1,1\n0.2,"2', "the file ends within a quoted field"),
        ("lr,depth\n1,2\n3,4\n", r"Which column are the runs judged by\? .* Numbers are in: lr, depth"),
        (
            "lr,val_acc,val_f1\n1,2,3\n3,4,5\n",
            r"Which column are the runs judged by\? .* Numbers are in: val_acc, val_f1",
        ),
        ("lr,y\n1,2\n3,4\n", "Is more or less of 'y' better"),
        ("loss\tseed\n1\t2\n", "There is no column that could be a parameter: loss, seed"),
        (
            "trial,lr,loss\n1,2,3\n1,3,4\n1,4,5\n",
            r"the column 'trial' should name the runs, but lines 2 and 3 have the same",
        ),
        (
            ",".join(f"x{n}" for n in range(1_001)) + ",loss\n" + ",".join("1" * 1_002) + "\n",
            "1,001 columns would be param",
        ),
        (b"PAR1" + bytes(100), "is no text"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_whole(sqlite_store, csv, content, reason):
    with pytest.raises(ImportFailedError, match=reason):
        import_table(sqlite_store, csv(content))
    assert (number_of_trials(sqlite_store), list_sources(sqlite_store)) == (0, [])


def test_a_million_columns_are_refused_at_once(sqlite_store, csv):
    path = csv(",".join(f"x{n}" for n in range(1_000_000)) + ",loss\n" + ",".join(["1"] * 1_000_001) + "\n")
    with pytest.raises(ImportFailedError, match="has 1,000,001 columns; at most 10,000 are read"):
        import_table(sqlite_store, path)


def test_a_file_that_was_cut_off_loses_its_last_row_and_says_so(store, csv):
    whole = csv_of(rows(30)).encode()
    report = import_table(store, csv(whole[: whole.rindex(b"run-29") + 12]))
    assert report.taken == 29
    assert reasons(report) == {
        "runs.csv line 31": (
            "rejected",
            "another number of fields: 2, and the header has 10 (is the file cut off there?)",
        )
    }
    report = import_table(store, csv(whole[:-2], "other.csv"))
    assert "other.csv: the last line has no end: if the file was cut off, its last number may be wrong" in report.notes


def test_a_metric_that_is_not_there_is_said(sqlite_store, csv):
    with pytest.raises(ImportFailedError, match=r"There is no column 'val_f1'; there are run_id, lr, "):
        import_table(sqlite_store, csv(csv_of(rows(3))), metric="val_f1")


def test_what_is_not_there_is_said(sqlite_store, tmp_path):
    with pytest.raises(ImportFailedError, match="There is no file or folder"):
        import_table(sqlite_store, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportFailedError, match=r"There is no table in .*empty"):
        import_table(sqlite_store, tmp_path / "empty")


def test_the_name_of_a_source_stands_for_one_place(sqlite_store, csv, tmp_path):
    import_table(sqlite_store, csv(csv_of(rows(3))), source="mine")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "runs.csv", tmp_path / "other" / "runs.csv")
    with pytest.raises(ImportFailedError, match="The source name 'mine' stands for"):
        import_table(sqlite_store, tmp_path / "other" / "runs.csv", source="mine")
    assert import_table(sqlite_store, tmp_path / "runs.csv", source="again").taken == 3
    second = import_table(sqlite_store, tmp_path / "other" / "runs.csv")
    assert second.taken == 3 and second.source.name == "table:runs"


# Folders


def test_a_folder_of_files_has_one_task_for_each(store, tmp_path):
    folder = tmp_path / "team"
    folder.mkdir()
    for name, start in (("a", 0), ("b", 20)):
        (folder / f"{name}.csv").write_text(csv_of(rows(10, start=start)))
    (folder / "notes.md").write_text("not a table")
    progress = []
    report = import_table(store, folder, progress=progress.append)
    assert (report.taken, sum(progress), report.source.name) == (20, 20, "table:team")
    assert {study.name for study in list_studies(store)} == {"table:team/a", "table:team/b"}


def test_a_damaged_file_in_a_folder_stops_all_of_them(store, tmp_path):
    (tmp_path / "a.csv").write_text(csv_of(rows(10)))
    pq.write_table(pa.table({"lr": [0.1, 0.2], "loss": [1.0, 2.0]}), tmp_path / "b.parquet")
    content = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(content[:-20])
    with pytest.raises(ImportFailedError, match=r"b\.parquet cannot be read as Parquet \(is it cut off\?\)"):
        import_table(store, tmp_path)
    assert number_of_trials(store) == 0


# Parquet


def test_a_parquet_file_is_read_as_a_csv_file_is(store, csv, tmp_path):
    import_table(store, csv(csv_of(rows(25))))
    converted = pa.table(
        {
            name: pa.array([float(cell) if cell else None for cell in cells])
            if name in ("lr", "momentum", "val_loss")
            else cells
            for name, cells in zip(COLUMNS, zip(*rows(25), strict=True), strict=True)
        }
    )
    pq.write_table(converted, tmp_path / "typed.parquet")
    assert import_table(store, tmp_path / "typed.parquet").taken == 25
    one, two = trials(store, "table:runs/runs"), trials(store, "table:typed/typed")
    assert [(a.params, a.value, a.seed, a.started_at) for a in one] == [
        (b.params, b.value, b.seed, b.started_at) for b in two
    ]
    assert get_study(store, "table:runs/runs").family == get_study(store, "table:typed/typed").family


def test_odd_columns_of_a_parquet_file_do_no_harm(store, tmp_path):
    columns = {
        "lr": [0.1, 0.2, 0.3, 0.4],
        "layers": [[64], [64, 64], [64], [64, 64]],
        "extra": [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}],
        "raw": [b"\xff", b"\xfe", b"\xff", b"\xfe"],
        "when": [datetime(2024, 1, day) for day in (1, 2, 1, 2)],
        "nothing": pa.nulls(4),
        "loss": [1.0, 2.0, 3.0, 4.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    report = import_table(store, tmp_path / "odd.parquet")
    assert (report.taken, report.rows) == (4, [])
    assert trials(store, "table:odd/odd")[1].params["layers"] == "[64, 64]"


# Recorded tables


def recorded(folder, name="svm", tasks=("a", "b"), count=5):
    folder.mkdir(parents=True)
    parameters = [
        {"name": "kernel", "type": "categorical", "choices": ["rbf", "linear"]},
        {"name": "gamma", "type": "float", "low": 0.0, "high": 1.0, "when": {"parent": "kernel", "in": ["rbf"]}},
    ]
    description = {
        "name": name,
        "metric": "error",
        "direction": "minimize",
        "source": "github",
        "parameters": parameters,
    }
    (folder / "space.json").write_text(json.dumps(description))
    kernels = ["rbf" if config % 2 else "linear" for config in range(count)]
    gammas = [config / count if config % 2 else None for config in range(count)]
    pq.write_table(pa.table({"config": range(count), "kernel": kernels, "gamma": gammas}), folder / "configs.parquet")
    pairs = [(task, config) for task in tasks for config in range(count)]
    values = [None if config == 2 else config + len(task) / 10 for task, config in pairs]
    pq.write_table(
        pa.table({"task": [task for task, _ in pairs], "config": [config for _, config in pairs], "value": values}),
        folder / "trials.parquet",
    )
    curve = [(task, config, step) for task, config in pairs for step in range(3)]
    pq.write_table(
        pa.table(
            dict(zip(("task", "config", "step"), zip(*curve, strict=True), strict=True)) | {"value": [0.5] * len(curve)}
        ),
        folder / "curves.parquet",
    )
    return folder


def test_a_recorded_table_is_taken_once(store, tmp_path):
    folder = recorded(tmp_path / "svm")
    progress = []
    report = import_table(store, folder, progress=progress.append)
    assert (report.taken, report.rows, report.notes, sum(progress)) == (10, [], [], 10)
    assert {study.name: study.task for study in list_studies(store)} == {"svm/a": "svm/a", "svm/b": "svm/b"}
    study = get_study(store, "svm/a")
    assert (study.metric, study.provenance) == ("error", {"source": "github"})
    found = trials(store, "svm/a")
    assert [trial.params for trial in found[:2]] == [{"kernel": "linear"}, {"kernel": "rbf", "gamma": 0.2}]
    assert [trial.state for trial in found] == [
        TrialState.FAIL if number == 2 else TrialState.COMPLETE for number in range(5)
    ]
    assert found[3].intermediate_values == {0: 0.5, 1: 0.5, 2: 0.5}
    again = import_table(store, folder)
    assert (again.taken, dict(again.skipped)) == (0, {"already here": 10})


def test_a_folder_of_recorded_tables_is_taken_whole_or_not_at_all(store, tmp_path):
    recorded(tmp_path / "all" / "one", name="one")
    folder = recorded(tmp_path / "all" / "two", name="two")
    content = (folder / "curves.parquet").read_bytes()
    (folder / "curves.parquet").write_bytes(content[:-9])
    with pytest.raises(ImportFailedError, match=r"two/curves\.parquet cannot be read as Parquet"):
        import_table(store, tmp_path / "all")
    assert number_of_trials(store) == 0
    (folder / "curves.parquet").write_bytes(content)
    assert import_table(store, tmp_path / "all").taken == 20
    assert {study.name for study in list_studies(store)} == {"one/a", "one/b", "two/a", "two/b"}


def test_a_recorded_table_takes_no_task_from_outside(sqlite_store, tmp_path):
    with pytest.raises(ImportFailedError, match="says itself what its tasks are"):
        import_table(sqlite_store, recorded(tmp_path / "svm"), task="churn")
    with pytest.raises(ImportFailedError, match="'svm' has the metric 'error', not 'loss'"):
        import_table(sqlite_store, tmp_path / "svm", metric="loss")


@pytest.mark.skipif(not TABLES, reason="HINDSIGHT_TABLES names no folder with recorded tables")
def test_recorded_tables_come_in_whole_and_once(sqlite_store):
    for folder in sorted(path.parent for path in Path(str(TABLES)).glob("*/space.json")):
        expected = pq.ParquetFile(folder / "trials.parquet").metadata.num_rows
        first, second = import_table(sqlite_store, folder), import_table(sqlite_store, folder)
        assert (first.taken, first.rows) == (expected, [])
        assert (second.taken, dict(second.skipped)) == (0, {"already here": expected})


# Anything at all

CELLS = ["lr", "loss", "0.1", "1e999", "nan", "", '"', "a\nb", "x" * 9, "-", "\0", "task"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")),
        st.lists(
            st.lists(st.sampled_from(CELLS), max_size=5),
            max_size=8,
        ).map(lambda lines: "\n".join(",".join(line) for line in lines).encode()),
    ),
    suffix=st.sampled_from([".csv", ".parquet", ".tsv"]),
)  # fmt: skip
def test_no_file_leads_to_an_unforeseen_error(migrated_sqlite, tmp_path, content, suffix):
    path, database = tmp_path / f"any{suffix}", tmp_path / "any.db"
    path.write_bytes(content)
    shutil.copy(migrated_sqlite, database)
    store = Store(f"sqlite:///{database}")
    try:
        report = import_table(store, path)
        assert report.taken == number_of_trials(store)
    except ImportFailedError:
        assert number_of_trials(store) == 0
    finally:
        store.dispose()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "lr": st.sampled_from(["0.1", "0.01", "1e-5", "", "nan", "inf", "abc", "True"]),
                "kind": st.sampled_from(["a", "b", "", "None", "<b>"]),
                "status": st.sampled_from(["finished", "failed", "running", "pruned", "?", ""]),
                "val_loss": st.sampled_from(["0.5", "1", "", "nan", "-inf", "x"]),
            }
        ),
        min_size=1,
        max_size=25,
    )
)
def test_every_row_is_accounted_for_once_and_again(migrated_sqlite, tmp_path, found):
    path, database = tmp_path / "rows.csv", tmp_path / "rows.db"
    path.write_text(csv_of([list(row.values()) for row in found], tuple(found[0])))
    shutil.copy(migrated_sqlite, database)
    store = Store(f"sqlite:///{database}")
    first = import_table(store, path, metric="val_loss")
    assert first.taken + first.number_skipped + first.number_rejected == len(found)
    assert first.taken == number_of_trials(store)
    second = import_table(store, path, metric="val_loss")
    assert (second.taken, second.number_rejected) == (0, first.number_rejected)
    assert second.skipped["already here"] == first.taken
    store.dispose()
