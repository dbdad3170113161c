"""Does an export hold everything, and does its import give back the same history?"""

import json
import math
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from storage.errors import FamilyNotFoundError, StorageError
from storage.export import export_tables
from storage.history import list_studies, list_trials
from storage.importers.intake import Intake
from storage.importers.runs import PastRun, PastTask
from storage.importers.table import import_table
from storage.optuna_storage import HistoryStorage
from storage.schema import Store
from storage.sources import Source
from storage.studies import create_study
from tests.filled import fill

SOURCE = "a source"


def exported(store, folder, target=SOURCE):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in export_tables(store, target, folder)}


def content(store):
    """What there is to know of each study and its finished trials."""
    found = {}
    for study in list_studies(store):
        if len(study.directions) == 1:
            trials = [trial for trial in list_trials(store, study.study_id) if trial.state.is_finished()]
            about = (study.task or study.name, study.metric or "value", study.directions, study.created_at)
            if trials:
                found[study.name] = (*about, study.provenance or {}, [told(trial) for trial in trials])
    return found


def told(trial):
    curve = {step: repr(value) for step, value in trial.intermediate_values.items()}  # NaN is not itself
    outcome = (trial.state, trial.value, trial.started_at, trial.finished_at, trial.cost_seconds, trial.epochs)
    provenance = (trial.seed, trial.code_version, trial.data_fingerprint, trial.hardware, trial.checkpoint, trial.error)
    return repr(sorted(trial.params.items())), outcome, provenance, curve, repr(sorted(trial.user_attrs.items()))


# Any history

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
NUMBERS = st.floats(-1e6, 1e6)
TIMES = st.none() | st.floats(1e9, 2e9)
LABELS = st.none() | TEXTS
CHOICES = st.one_of(
    st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True),
    st.just([True, False]),
    st.just([None, "None", 1, 2.5, "1", False]),
    st.just(["x", None]),
)


@st.composite
def parameters(draw):
    kind = draw(st.sampled_from(["float", "int", "categorical"]))
    if kind == "categorical":
        return {"type": kind, "choices": draw(CHOICES)}
    low = draw(st.integers(1, 20))
    fields = {"type": kind, "low": low, "high": low + draw(st.integers(0, 100))}
    shape = draw(st.sampled_from(["plain", "log", "step"]))
    if shape == "log":
        fields["log"] = True
    elif shape == "step" and fields["high"] > low:
        fields["step"] = 1 if kind == "float" else fields["high"] - low
    return fields


@st.composite
def spaces(draw):
    space = draw(
        st.dictionaries(
            TEXTS | st.sampled_from(["config", "config_", "task", "a.b", ""]), parameters(), min_size=1, max_size=4
        )
    )
    names = list(space)
    for child, parent in zip(names[1:], names, strict=False):
        if space[parent]["type"] == "categorical" and draw(st.booleans()):
            some = draw(st.lists(st.sampled_from(range(len(space[parent]["choices"]))), min_size=1, unique=True))
            space[child]["when"] = {parent: [space[parent]["choices"][place] for place in some]}
    return space


def is_in(value, choices):
    return any(type(value) is type(choice) and value == choice for choice in choices)


@st.composite
def configurations(draw, space):
    params = {}
    for name, fields in space.items():
        ((parent, values),) = (fields.get("when") or {None: None}).items()
        if parent is not None and (parent not in params or not is_in(params[parent], values)):
            continue
        if draw(st.integers(0, 9)) == 0:
            continue  # as one that was defined by running may
        if fields["type"] == "categorical":
            params[name] = draw(st.sampled_from(fields["choices"]))
        elif fields.get("step"):
            steps = (fields["high"] - fields["low"]) // fields["step"]
            params[name] = fields["low"] + draw(st.integers(0, int(steps))) * fields["step"]
        elif fields["type"] == "int":
            params[name] = draw(st.integers(fields["low"], fields["high"]))
        else:
            params[name] = draw(st.floats(fields["low"], fields["high"]))
    return params


@st.composite
def runs(draw, space, key):
    state = draw(st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]))
    value = draw(NUMBERS) if state == TrialState.COMPLETE else draw(st.none() | NUMBERS)
    points = st.tuples(st.integers(0, 1000), NUMBERS | st.just(math.nan))
    return PastRun(
        key=key,
        params=draw(configurations(space)),
        value=value,
        state=state,
        curve=draw(st.lists(points, max_size=3, unique_by=lambda point: point[0])),
        started_at=draw(TIMES),
        finished_at=draw(TIMES),
        cost_seconds=draw(st.none() | st.floats(0, 1e6)),
        epochs=draw(st.none() | st.integers(0, 1000)),
        seed=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        code_version=draw(LABELS),
        data_fingerprint=draw(LABELS),
        hardware=draw(LABELS),
        checkpoint=draw(LABELS),
        error=draw(LABELS),
        user_attrs=draw(
            st.dictionaries(TEXTS, st.none() | NUMBERS | TEXTS | st.lists(st.booleans(), max_size=2), max_size=2)
        ),
    )


@st.composite
def histories(draw):
    found = []
    for space in draw(st.lists(spaces(), min_size=1, max_size=2)):
        metric, direction = draw(TEXTS), draw(st.sampled_from(["minimize", "maximize"]))
        for name in draw(st.lists(TEXTS, min_size=1, max_size=2, unique=True)):
            task = PastTask(
                name=name if len(found) % 2 else f"{name} {metric}",
                study=f"study {len(found)} {name}",
                metric=metric,
                direction=direction,
                space=space,
                created_at=draw(st.floats(1e9, 2e9)),
                provenance=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
                user_attrs=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
            )
            keys = draw(st.lists(TEXTS, max_size=6, unique=True))
            found.append((task, [draw(runs(space, key)) for key in keys]))
    return found


@contextmanager
def stores(migrated, count):
    with tempfile.TemporaryDirectory() as name:
        opened = []
        for index in range(count):
            path = Path(name) / f"{index}.db"
            shutil.copy(migrated, path)
            opened.append(Store(f"sqlite:///{path}"))
        yield (Path(name), *opened)
        for store in opened:
            store.dispose()


@given(histories())
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.generate],  # each takes a second, and smaller ones explain no more
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_the_import_of_an_export_is_the_identity(migrated_sqlite, history):
    with stores(migrated_sqlite, 2) as (folder, store, other):
        intake = Intake(store, source=Source(name=SOURCE, kind="table", location="here"))
        for task, some in history:
            intake.take(task, some)
        report = intake.finish()
        if not report.taken:
            with pytest.raises(StorageError, match=r"no finished trials|no family"):
                exported(store, folder / "first")
            return
        first = exported(store, folder / "first")
        again = import_table(other, folder / "first", source=SOURCE)
        assert (again.taken, again.rows, again.notes) == (report.taken, [], [])
        assert content(other) == content(store)
        assert exported(other, folder / "second") == first
        assert import_table(other, folder / "first", source=SOURCE).taken == 0


# Histories of programs that run here


def test_trials_that_ran_here_come_back(store, migrated_sqlite, tmp_path):
    fill(store)
    with stores(migrated_sqlite, 1) as (_, other):
        for source in ("hindsight", "optuna"):
            first = exported(store, tmp_path / source, source)
            report = import_table(other, tmp_path / source)
            assert report.number_rejected == 0
            assert exported(other, tmp_path / f"{source} again", report.source.name) == first
        assert content(other) == content(store)


def test_trials_defined_by_running_come_back_with_moving_ranges_and_missing_parameters(
    store, migrated_sqlite, tmp_path
):
    study = optuna.create_study(storage=HistoryStorage(store), study_name="by running")
    kernels = CategoricalDistribution(("rbf", "linear"))
    for params, distributions, value in (
        ({"kernel": "rbf", "gamma": 0.5}, {"kernel": kernels, "gamma": FloatDistribution(0.0, 1.0)}, 0.1),
        ({"kernel": "linear"}, {"kernel": kernels}, 0.2),
        ({"kernel": "rbf", "gamma": 3.0}, {"kernel": kernels, "gamma": FloatDistribution(2.0, 4.0)}, math.inf),
        ({"n": 6}, {"n": IntDistribution(2, 8, step=2)}, 0.3),
        ({}, {}, 0.4),
    ):
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    first = exported(store, tmp_path / "first", "by running")
    described = json.loads(first["space.json"])
    gamma = next(fields for fields in described["parameters"] if fields["name"] == "gamma")
    assert (gamma["low"], gamma["high"], gamma["optional"]) == (0.0, 4.0, True)
    with stores(migrated_sqlite, 1) as (_, other):
        report = import_table(other, tmp_path / "first")
        assert (report.taken, report.rows) == (5, [])
        assert exported(other, tmp_path / "second", report.source.name) == first
        assert content(other) == content(store)


def test_a_condition_that_trials_do_not_keep_to_is_left_out(store, tmp_path):
    space = {
        "kernel": {"type": "categorical", "choices": ["rbf", "linear"]},
        "gamma": {"type": "float", "low": 0.0, "high": 1.0, "when": {"kernel": ["rbf"]}},
    }
    task = PastTask(name="t", study="s", metric="m", direction="minimize", space=space)
    intake = Intake(store, source=Source(name=SOURCE, kind="table", location="here"))
    intake.take(task, [PastRun(key="1", params={"kernel": "linear", "gamma": 0.5}, value=1.0)])
    intake.finish()
    gamma = json.loads(exported(store, tmp_path / "out")["space.json"])["parameters"][1]
    assert "when" not in gamma and gamma["optional"]


def test_new_trials_of_an_imported_study_get_keys_of_their_own(store, migrated_sqlite, tmp_path):
    space = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    task = PastTask(name="t", study="s", metric="m", direction="minimize", space=space)
    intake = Intake(store, source=Source(name=SOURCE, kind="table", location="here"))
    intake.take(task, [PastRun(key=key, params={"x": 0.5}, value=1.0) for key in ("2", "7")])
    intake.finish()
    study = optuna.load_study(study_name="s", storage=HistoryStorage(store))
    study.add_trial(create_trial(params={"x": 0.1}, distributions={"x": FloatDistribution(0.0, 1.0)}, value=0.5))
    exported(store, tmp_path / "out")
    assert pq.read_table(tmp_path / "out/trials.parquet")["key"].to_pylist() == ["2", "7", "2'"]
    with stores(migrated_sqlite, 1) as (_, other):
        assert import_table(other, tmp_path / "out").taken == 3


# What is written where


def one_study(store, name, *, metric="loss", value=0.5):
    study_id = create_study(
        store, name=name, task=name, metric=metric, space={"x": {"type": "float", "low": 0.0, "high": 1.0}}
    )
    study = optuna.load_study(study_name=name, storage=HistoryStorage(store))
    study.add_trial(create_trial(params={"x": 0.1}, distributions={"x": FloatDistribution(0.0, 1.0)}, value=value))
    return study_id


def test_one_family_goes_into_the_folder_and_several_into_folders_of_their_own(sqlite_store, tmp_path):
    one_study(sqlite_store, "a")
    one_study(sqlite_store, "b")
    names = {"configs.parquet", "space.json", "studies.parquet", "trials.parquet"}
    assert set(exported(sqlite_store, tmp_path / "one", "hindsight")) == names
    one_study(sqlite_store, "c", metric="val/acc")
    several = set(exported(sqlite_store, tmp_path / "several", "hindsight"))
    folders = {path.split("/")[0] for path in several}
    assert several == {f"{folder}/{name}" for folder in folders for name in names}
    assert sorted(folder[:7] for folder in folders) == ["loss-ec", "val_acc"] or len(folders) == 2


def test_a_study_a_task_and_a_family_can_be_exported(sqlite_store, tmp_path):
    one_study(sqlite_store, "a")
    one_study(sqlite_store, "b")
    family = list_studies(sqlite_store)[0].family
    for target, tasks in (("a", ["a"]), (family, ["a", "b"])):
        exported(sqlite_store, tmp_path / target, target)
        assert pq.read_table(tmp_path / target / "trials.parquet")["task"].to_pylist() == tasks


def test_a_folder_that_is_not_empty_is_kept_unless_it_is_to_be_replaced(sqlite_store, tmp_path):
    one_study(sqlite_store, "a")
    folder = tmp_path / "out"
    exported(sqlite_store, folder, "a")
    (folder / "notes.txt").write_text("mine")
    (folder / "curves.parquet").write_text("of an older export")
    with pytest.raises(StorageError, match="not empty"):
        export_tables(sqlite_store, "a", folder)
    export_tables(sqlite_store, "a", folder, force=True)
    assert {path.name for path in folder.iterdir()} == {
        "configs.parquet", "notes.txt", "space.json", "studies.parquet", "trials.parquet",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_cannot_be_exported_is_said(sqlite_store, tmp_path):
    one_study(sqlite_store, "churn")
    with pytest.raises(FamilyNotFoundError, match=r"no family, task or source named 'chrn'\. Did you mean 'churn'"):
        export_tables(sqlite_store, "chrn", tmp_path / "out")
    create_study(sqlite_store, name="empty")
    with pytest.raises(StorageError, match="no finished trials"):
        export_tables(sqlite_store, "empty", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        export_tables(sqlite_store, "churn", tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be written"):
        export_tables(sqlite_store, "churn", tmp_path / "file" / "below")
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_said(sqlite_store, tmp_path):
    one_study(sqlite_store, "a")
    storage = HistoryStorage(sqlite_store)
    optuna.load_study(study_name="a", storage=storage).ask()
    several = optuna.create_study(storage=storage, study_name="several", directions=["minimize", "maximize"])
    several.add_trial(create_trial(values=[1.0, 2.0]))
    notes = []
    export_tables(sqlite_store, "a", tmp_path / "a", note=notes.append)
    assert notes == ["left out 1 trials that are not finished"]
    with pytest.raises(StorageError, match="no finished trials that a table can hold"):
        export_tables(sqlite_store, "several", tmp_path / "several", note=notes.append)
    assert "several objectives" in notes[1]


def test_row_groups_do_not_depend_on_how_the_rows_were_read(sqlite_store, tmp_path, monkeypatch):
    space = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    task = PastTask(name="t", study="s", metric="m", direction="minimize", space=space, created_at=1e9)
    intake = Intake(sqlite_store, source=Source(name=SOURCE, kind="table", location="here"))
    points = [(step, 0.5) for step in range(3)]
    intake.take(task, [PastRun(key=str(n), params={"x": n / 100}, value=1.0, curve=points) for n in range(100)])
    intake.finish()
    whole = exported(sqlite_store, tmp_path / "whole")
    monkeypatch.setattr("storage.export._STREAMED", {"yield_per": 7})
    assert exported(sqlite_store, tmp_path / "pieces") == whole
    monkeypatch.setattr("storage.export.ROWS_IN_A_GROUP", 32)
    exported(sqlite_store, tmp_path / "groups")
    file = pq.ParquetFile(tmp_path / "groups/trials.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [32, 32, 32, 4]
