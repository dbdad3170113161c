"""Do the folders that Lightning leaves behind come into the history: each run once, with what is whole of it?"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from storage import history
from storage.errors import ImportFailedError
from storage.importers import lightning
from storage.importers.lightning import import_lightning

HEADER = "epoch,step,train_loss,val_loss\n"


def folder_of(root, *parts, hparams, metrics, quiet=3600.0):
    """A run's folder as CSVLogger leaves it; hparams and metrics: content or text."""
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True)
    if hparams is not None:
        text = hparams if isinstance(hparams, str) else yaml.safe_dump(hparams)
        (folder / "hparams.yaml").write_text(text)
    if isinstance(metrics, list):
        rows = [f"{epoch},{4 * epoch + 3},,{value}\n" for epoch, value in enumerate(metrics)]
        metrics = HEADER + f"0,1,{metrics[0] + 1},\n" + "".join(rows)
    if isinstance(metrics, bytes):
        (folder / "metrics.csv").write_bytes(metrics)
    elif metrics is not None:
        (folder / "metrics.csv").write_text(metrics)
    age(folder, quiet)
    return folder


def age(folder, seconds=3600.0):
    for file in folder.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - seconds,) * 2)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def trials(store, report):
    (study,) = report.tasks
    return history.list_trials(store, history.get_study(store, study).study_id)


def reasons(report):
    return {row.row: (row.verdict, row.reason) for row in report.rows}


# Runs by Lightning itself


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_plain_lightning_runs_that_know_nothing_of_us(sqlite_store, root, kind):
    code = Path(__file__).with_name("user_code") / "plain_lightning.py"
    done = subprocess.run([sys.executable, code, kind, root], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fresh = import_lightning(sqlite_store, root, metric="val_loss")
    assert fresh.taken == 0
    assert fresh.skipped == {"may still be running": 3}
    age(root)
    imported = import_lightning(sqlite_store, root)
    assert (imported.taken, imported.number_rejected) == (3, 0)
    (task,) = imported.tasks.values()
    assert (task.task, task.metric, task.direction) == ("logs", "val_loss", "minimize")
    assert task.space == {
        "lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    }
    assert "logs: a run's value is the best val_loss that it logged" in imported.notes  # the checkpoints tell
    for trial in trials(sqlite_store, imported):
        assert trial.state == TrialState.COMPLETE
        assert list(trial.intermediate_values) == [0, 1, 2]
        assert trial.value == min(trial.intermediate_values.values())
        assert trial.epochs == 3
        assert trial.user_attrs["params"] == {"widths": "[4, 4]"}
        assert "train_loss" in trial.user_attrs["metrics"]
        assert (trial.cost_seconds is not None) == (kind == "tensorboard")
    again = import_lightning(sqlite_store, root)
    assert (again.taken, dict(again.skipped), again.number_rejected) == (0, {"already here": 3}, 0)


# The same runs again


def test_a_moved_or_copied_folder_is_recognised(store, root, tmp_path):
    for index in range(3):
        folder_of(root, "a", f"version_{index}", hparams={"lr": index, "seed": index}, metrics=[1.0, 0.5 + index])
    done = []
    imported = import_lightning(store, root, progress=done.append)
    assert (imported.taken, sum(done)) == (3, 3)
    assert [(trial.seed, trial.params) for trial in trials(store, imported)][2] == (2, {"lr": 2})
    shutil.copytree(root / "a" / "version_0", root / "b" / "copy")
    age(root)
    again = import_lightning(store, root)
    assert again.skipped == {"already here": 3, "a copy or the beginning of another run": 1}
    assert reasons(again)["b/copy"][1] == "a copy or the beginning of another run: a/version_0"
    root.rename(tmp_path / "moved")
    moved = import_lightning(store, tmp_path / "moved")
    assert (moved.taken, moved.skipped.total()) == (0, 4)


def test_new_runs_are_added_and_what_was_constant_may_vary(sqlite_store, root):
    folder_of(root, "version_0", hparams={"lr": 0.1, "width": 8}, metrics=[1.0, 0.5])
    assert import_lightning(sqlite_store, root).taken == 1
    folder_of(root, "version_1", hparams={"lr": 0.1, "width": 16}, metrics=[1.0, 0.4])
    folder_of(root, "version_10", hparams={"lr": 0.1, "width": 32}, metrics=[1.0, 0.3])
    again = import_lightning(sqlite_store, root)
    assert (again.taken, dict(again.skipped), dict(again.rejected)) == (2, {"already here": 1}, {})
    assert [trial.params for trial in trials(sqlite_store, again)] == [{}, {"width": 16}, {"width": 32}]
    assert any("width: did not vary among the runs that came before" in note for note in again.notes)


def test_a_run_that_went_on_is_not_overwritten(sqlite_store, root):
    folder_of(root, "version_0", hparams={"lr": 0.1}, metrics=[1.0, 0.5])
    import_lightning(sqlite_store, root)
    shutil.rmtree(root / "version_0")
    folder_of(root, "version_0", hparams={"lr": 0.1}, metrics=[1.0, 0.5, 0.25])
    again = import_lightning(sqlite_store, root)
    assert again.taken == 0
    assert again.number_rejected == 1
    assert [trial.value for trial in trials(sqlite_store, again)] == [0.5]


def test_a_long_recording_is_read_again_when_it_is_needed(sqlite_store, root, monkeypatch):
    monkeypatch.setattr(lightning, "POINTS_KEPT", 1)
    folder_of(root, "version_0", hparams={"lr": 0.1}, metrics=[1.0, 0.5, 0.25])
    imported = import_lightning(sqlite_store, root)
    assert trials(sqlite_store, imported)[0].intermediate_values == {0: 1.0, 1: 0.5, 2: 0.25}


# What is in the files


def test_a_run_that_was_cut_off(sqlite_store, root):
    whole = HEADER + "0,1,2.0,\n0,3,,0.9\n1,7,,0.8\n"
    folder_of(root, "cut_in_a_number", hparams={"lr": 1}, metrics=whole + "2,11,,0.7")
    folder_of(root, "cut_in_a_row", hparams={"lr": 2}, metrics=whole + "2,11\n")
    folder_of(root, "whole", hparams={"lr": 3}, metrics=whole)
    folder_of(root, "no_row_yet", hparams={"lr": 4}, metrics=HEADER)
    imported = import_lightning(sqlite_store, root)
    assert [trial.intermediate_values for trial in trials(sqlite_store, imported)] == [{0: 0.9, 1: 0.8}] * 3
    cut = [note for note in imported.notes if "cut off" in note]
    assert cut == [
        "cut_in_a_number: cut off in the middle of its last line; what is whole was taken",
        "cut_in_a_row: cut off in the middle of its last line; what is whole was taken",
    ]
    assert reasons(imported) == {"no_row_yet": ("rejected", "lacks the metric: no 'val_loss', it has none")}


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ("", "an empty metrics.csv: nothing was logged"),
        ("val_loss,val_loss\n1,2\n", "a damaged metrics.csv: of its columns, 'val_loss' stands twice"),
        (HEADER + "0,1,x,\n0,1,,1\n", "a damaged metrics.csv: line 2: train_loss = 'x' is no number"),
        (HEADER + "0,1\n0,1,,1\n", "a damaged metrics.csv: line 2 has 2 of 4 columns"),
        (HEADER + "0,inf,1,1\n", "a damaged metrics.csv: line 2: step = inf is no integer"),
        (b"val_loss\n\xff\xfe\n", "a damaged metrics.csv: "),
        (b"val_loss\n\x00\n", "a damaged metrics.csv: "),
        ("step," + ",".join(f"m{i}" for i in range(10_001)) + "\n", "a damaged metrics.csv: of its columns, 10,002"),
        ("step,val_loss\n1," + "9" * 200_000 + "\n", "a damaged metrics.csv: "),
        ("step,other\n0,1\n", "lacks the metric: no 'val_loss', it has other"),
    ],
)
def test_files_that_make_no_sense_are_rejected(sqlite_store, root, metrics, reason):
    folder_of(root, "bad", hparams={"lr": 1}, metrics=metrics)
    folder_of(root, "good", hparams={"lr": 2}, metrics=[0.5])
    imported = import_lightning(sqlite_store, root, metric="val_loss")
    assert imported.taken == 1
    verdict, said = reasons(imported)["bad"]
    assert verdict == "rejected"
    assert said.startswith(reason)


def test_nan_is_a_failure(sqlite_store, root):
    folder_of(root, "version_0", hparams={"lr": 1}, metrics=[1.0, float("nan")])
    folder_of(root, "version_1", hparams={"lr": 2}, metrics=[1.0, 0.5])
    imported = import_lightning(sqlite_store, root)
    assert [(trial.state.name, trial.error) for trial in trials(sqlite_store, imported)] == [
        ("FAIL", "the metric is NaN"),
        ("COMPLETE", None),
    ]


def test_more_than_one_value_in_an_epoch_goes_by_steps(sqlite_store, root):
    rows = HEADER + "0,5,,0.9\n0,10,,0.8\n1,15,,0.7\n"
    folder_of(root, "version_0", hparams={"lr": 1}, metrics=rows)
    imported = import_lightning(sqlite_store, root)
    assert trials(sqlite_store, imported)[0].intermediate_values == {5: 0.9, 10: 0.8, 15: 0.7}


# Hyperparameters


def test_hyperparameters_are_data(sqlite_store, root):
    text = (
        "lr: 1e-3\nwidths: !!python/tuple [4, 8]\nact: !!python/name:torch.nn.functional.relu ''\n"
        "data: !!python/object/apply:pathlib.PosixPath [/, data, x]\nnested: {a: {b: [1, 2]}, empty: {}}\n"
    )
    folder_of(root, "version_0", hparams=text, metrics=[0.5])
    folder_of(root, "version_1", hparams="lr: 1e-2\n", metrics=[0.6])
    imported = import_lightning(sqlite_store, root)
    trial = trials(sqlite_store, imported)[0]
    assert trial.params == {"lr": 0.001}
    assert trial.user_attrs["params"] == {
        "widths": "[4, 8]",
        "act": "torch.nn.functional.relu",
        "data": "/data/x",
        "nested.a.b": "[1, 2]",
        "nested.empty": "{}",
    }


@pytest.mark.parametrize(
    "harm",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "!!python/object/new:os.system ['touch {mark}']",
        "[1, {{a: !!python/object/apply:os.system ['touch {mark}']}}]",
        "!!python/object:enum.Enum {{}}",
        "!!python/object/apply:pathlib.PosixPath [!!python/object/apply:os.system ['touch {mark}']]",
        "!what 3",
    ],
)
def test_nothing_is_executed(sqlite_store, root, tmp_path, harm):
    mark = tmp_path / "mark"
    folder_of(root, "version_0", hparams="lr: 1\nbad: " + harm.format(mark=mark) + "\n", metrics=[0.5])
    folder_of(root, "version_1", hparams={"lr": 2}, metrics=[0.6])
    imported = import_lightning(sqlite_store, root)
    assert not mark.exists()
    assert imported.taken == 1
    assert reasons(imported)["version_0"] == (
        "rejected",
        "hyperparameters that cannot be read: bad is a Python object; `drop: [bad]` in a mapping file leaves it out",
    )
    assert import_lightning(sqlite_store, root, mapping={"drop": ["bad"]}).taken == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    ("hparams", "verdict", "reason"),
    [
        (None, "skipped", "has no hyperparameters"),
        ("", "skipped", "has no hyperparameters"),
        ("{}", "skipped", "has no hyperparameters"),
        ("- 1", "rejected", "hyperparameters that cannot be read"),
        ("a: b: c", "rejected", "hyperparameters that cannot be read"),
        ("a: 1\na: 2", "rejected", "hyperparameters that cannot be read"),
        ("? [1]\n: 2", "rejected", "hyperparameters that cannot be read"),
        ("a: &a [*a]", "rejected", "hyperparameters that cannot be read"),
        ('"a\\0b": 1', "rejected", "a name that no database keeps"),
        ('"\\ud800": 1', "rejected", "a name that no database keeps"),
    ],
)
def test_folders_without_readable_hyperparameters(sqlite_store, root, hparams, verdict, reason):
    folder_of(root, "bad", hparams=hparams, metrics=[0.5])
    folder_of(root, "good", hparams={"lr": 2}, metrics=[0.5])
    imported = import_lightning(sqlite_store, root)
    assert imported.taken == 1
    found, said = reasons(imported)["bad"]
    assert (found, said.split(":")[0]) == (verdict, reason)


# Tasks, metrics, places


def test_tasks_by_folder(sqlite_store, root):
    for folder in ("cifar/net", "mnist/net", "."):
        for index in range(2):
            folder_of(root, *Path(folder).parts, f"version_{index}", hparams={"lr": index, "f": folder}, metrics=[0.5])
    imported = import_lightning(sqlite_store, root, task="{folder}", dry_run=True)
    assert {task.task for task in imported.tasks.values()} == {"cifar/net", "mnist/net", "logs"}
    imported = import_lightning(sqlite_store, root, mapping={"task": "{param:f}!"})
    assert {task.task for task in imported.tasks.values()} == {"cifar/net!", "mnist/net!", ".!"}


def test_a_folder_that_is_itself_a_run(sqlite_store, root):
    folder = folder_of(root, "version_0", hparams={"lr": 1}, metrics=[0.5])
    imported = import_lightning(sqlite_store, folder, task="{folder}")
    assert [task.task for task in imported.tasks.values()] == ["version_0"]


def test_what_cannot_be_imported_at_all(sqlite_store, root):
    with pytest.raises(ImportFailedError, match="no such folder"):
        import_lightning(sqlite_store, root / "none")
    with pytest.raises(ImportFailedError, match="no runs below it"):
        import_lightning(sqlite_store, root)
    folder_of(root, "version_0", hparams={"lr": 1}, metrics="step,val_auc,val_f1\n0,1,1\n")
    with pytest.raises(ImportFailedError, match=r"logs: val_auc \(in 1 of 1\), val_f1 \(in 1 of 1\)"):
        import_lightning(sqlite_store, root)


# TensorBoard's files


def events(root, *parts, hparams=None, scalars=(), quiet=3600.0):
    from torch.utils.tensorboard import SummaryWriter

    folder = root.joinpath(*parts)
    writer = SummaryWriter(str(folder))
    for tag, values in dict(scalars).items():
        for step, value in enumerate(values):
            writer.add_scalar(tag, value, step)
    writer.add_text("note", "hello")
    writer.close()
    if hparams is not None:
        (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams))
    age(folder, quiet)
    return folder


def test_event_files(sqlite_store, root):
    for index in range(2):
        scalars = {"val/loss": [0.5, 0.25 + index], "epoch": [0, 1]}
        events(root, f"version_{index}", hparams={"lr": index}, scalars=scalars)
    events(root, "nothing logged", hparams={"lr": 9})
    events(root, "no parameters", scalars={"val/loss": [1]})
    imported = import_lightning(sqlite_store, root)
    first, second = trials(sqlite_store, imported)
    assert (first.params, first.intermediate_values, first.epochs) == ({"lr": 0}, {0: 0.5, 1: 0.25}, 2)
    assert second.value == 1.25
    assert first.started_at is not None
    assert reasons(imported) == {
        "nothing logged": ("rejected", "no scalars: nothing was logged"),
        "no parameters": ("skipped", "has no hyperparameters: neither a filled hparams.yaml nor among the events"),
    }


def test_hyperparameters_among_the_events(sqlite_store, root):
    from torch.utils.tensorboard import SummaryWriter

    for index, optimizer in enumerate(["sgd", "adam"]):
        with SummaryWriter(str(root / str(index))) as writer:
            params = {"lr": 0.5 + index, "optimizer": optimizer, "nesterov": index == 0, "depth": 3}
            writer.add_hparams(params, {"val_loss": 0.5 + index}, run_name=".")
    age(root)
    imported = import_lightning(sqlite_store, root)
    found = sorted(trials(sqlite_store, imported), key=lambda trial: trial.value)
    assert [trial.params for trial in found] == [
        {"lr": 0.5, "optimizer": "sgd", "nesterov": True},
        {"lr": 1.5, "optimizer": "adam", "nesterov": False},
    ]
    assert found[0].user_attrs["params"] == {"depth": 3}


def test_new_writers_keep_scalars_as_tensors(sqlite_store, root):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    folder = root / "version_0"
    writer = EventFileWriter(str(folder))
    kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    picture = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="images"))
    for step, value in enumerate([0.5, 0.25]):
        values = [
            Summary.Value(tag="val_loss", tensor=make_tensor_proto(value), metadata=kind),
            Summary.Value(tag="picture", tensor=make_tensor_proto(value), metadata=picture),
            Summary.Value(tag="vector", tensor=make_tensor_proto([1.0, 2.0]), metadata=kind),
        ]
        writer.add_event(Event(wall_time=1.7e9 + step, step=step, summary=Summary(value=values)))
    writer.close()
    (folder / "hparams.yaml").write_text("lr: 1\n")
    age(root)
    imported = import_lightning(sqlite_store, root)
    (trial,) = trials(sqlite_store, imported)
    assert trial.intermediate_values == {0: 0.5, 1: 0.25}
    assert "metrics" not in trial.user_attrs


def test_event_files_that_are_damaged(sqlite_store, root):
    scalars = {"val_loss": [0.5, 0.25, 0.125]}
    cut = events(root, "cut", hparams={"lr": 1}, scalars=scalars)
    junk = events(root, "junk", hparams={"lr": 2}, scalars=scalars)
    events(root, "whole", hparams={"lr": 3}, scalars=scalars)
    (file,) = cut.glob("events*")
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"val_loss") - 5])
    (file,) = junk.glob("events*")
    file.write_bytes(b"this is no event file" * 10)
    age(root)
    imported = import_lightning(sqlite_store, root)
    assert imported.taken == 2
    assert trials(sqlite_store, imported)[0].intermediate_values == {0: 0.5, 1: 0.25}
    assert "cut: cut off in the middle of its last line; what is whole was taken" in imported.notes
    (reason,) = imported.rejected
    assert reason == "a damaged event file"


def test_without_tensorboard_it_is_asked_for(sqlite_store, root, monkeypatch):
    events(root, "version_0", hparams={"lr": 1}, scalars={"val_loss": [1]})
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportFailedError, match=r"pip install 'hindsight-hpo\[tensorboard\]'"):
        import_lightning(sqlite_store, root)
