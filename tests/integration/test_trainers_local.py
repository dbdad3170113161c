"""Do trials run, report, fail and end as they should, in real processes with real Lightning?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from trainers.errors import TrainerError
from trainers.executors.local import LocalExecutor
from trainers.fitting.checkpoints import clear
from trainers.job import Event, Failed, Finished, FitJob, Reported, TrainerConfig

USER_CODE = Path(__file__).parent / "user_code"
PATIENCE_SECONDS = 60
SOON_SECONDS = 5  # 0.1 s on an idle machine
keys = count()


def make_config(**changes: Any) -> TrainerConfig:
    fields: dict[str, Any] = {"model": "odd_models.Odd", "max_epochs": 3, "accelerator": "cpu"}
    return TrainerConfig(**{**fields, "python_path": (str(USER_CODE),), **changes})


def make_job(directory: Path, **params: Any) -> FitJob:
    return FitJob(params=params, seed=1, metric="val_loss", direction="minimize", directory=str(directory))


def run(executor: LocalExecutor, job: FitJob, *, prune_at: int | None = None) -> list[Event]:
    """All events of one trial."""
    key = next(keys)
    executor.launch(key, job)
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not events or isinstance(events[-1], Reported):
        assert time.monotonic() < deadline, events
        for event in executor.poll(1.0):
            assert event.key == key
            events.append(event)
            if isinstance(event, Reported):
                executor.answer(key, prune=event.epoch == prune_at)
    assert executor.poll(0.05) == []
    return events


def wait_for(condition: Callable[[], Any], *, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_of(directory: Path, name: str) -> int:
    def read() -> str:
        path = directory / f"pid-{name}"
        return path.read_text() if path.exists() else ""

    return int(wait_for(read, seconds=PATIENCE_SECONDS))


def started_pids(directory: Path, *names: str) -> list[int]:
    return [pid_of(directory, name) for name in names]


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """One warm template for all tests; each leaves nothing running in it."""
    with LocalExecutor(make_config(), jobs=2) as executor:
        yield executor


def test_a_trial_reports_each_epoch_and_keeps_its_best(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path))
    assert [(report.epoch, report.value) for report in reports] == [(0, 3.0), (1, 1.0), (2, 2.0)]
    assert reports[1].metrics.keys() == {"val_loss", "train_loss"}
    assert isinstance(end, Finished)
    assert (end.outcome.value, end.outcome.best_epoch, end.outcome.epochs) == (1.0, 1, 3)
    assert not end.outcome.pruned
    assert end.outcome.seconds > 0
    assert end.outcome.peak_memory_bytes > 10**7
    assert end.outcome.checkpoint == str(tmp_path / "best.ckpt")
    assert "weights_only" not in (tmp_path / "output.log").read_text()  # of Lightning's, at each checkpoint


def test_the_best_checkpoint_is_whole_and_of_the_best_epoch(executor: LocalExecutor, tmp_path: Path) -> None:
    run(executor, make_job(tmp_path))
    torch = pytest.importorskip("torch")
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 1
    assert "layer.weight" in checkpoint["state_dict"]
    clear(tmp_path, keep_best=True)  # for whoever has recorded the outcome
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "output.log", "pid-0"]


def test_maximize_keeps_the_largest(executor: LocalExecutor, tmp_path: Path) -> None:
    job = FitJob(params={}, seed=1, metric="val_loss", direction="maximize", directory=str(tmp_path))
    *_, end = run(executor, job)
    assert isinstance(end, Finished)
    assert (end.outcome.value, end.outcome.best_epoch) == (3.0, 0)


def test_a_pruned_trial_stops_at_once(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path, **{"trainer.min_epochs": 3}), prune_at=1)
    assert [report.epoch for report in reports] == [0, 1]
    assert isinstance(end, Finished)
    assert end.outcome.pruned
    assert (end.outcome.value, end.outcome.epochs) == (1.0, 2)


def test_epochs_without_the_metric_report_what_else_they_logged(executor: LocalExecutor, tmp_path: Path) -> None:
    job = make_job(tmp_path, **{"trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 5})
    *reports, end = run(executor, job)
    assert [(report.epoch, report.value is None) for report in reports] == [
        (epoch, epoch % 2 == 0) for epoch in range(5)
    ]
    assert [sorted(report.metrics) for report in reports[:3]] == [
        ["train_loss"],
        ["train_loss", "val_loss"],
        ["train_loss"],
    ]
    assert isinstance(end, Finished)
    assert end.outcome.epochs == 5


def test_a_metric_of_the_training_loop_counts(executor: LocalExecutor, tmp_path: Path) -> None:
    job = make_job(tmp_path, habit="logs_in_training_only", **{"trainer.limit_val_batches": 0})
    *reports, _ = run(executor, job)
    assert [report.value for report in reports] == [3.0, 1.0, 2.0]


def test_a_metric_that_the_model_logs_last_counts(executor: LocalExecutor, tmp_path: Path) -> None:
    job = FitJob(
        params={"habit": "logs_last"}, seed=1, metric="late_loss", direction="minimize", directory=str(tmp_path)
    )
    *reports, _ = run(executor, job)
    assert [report.value for report in reports] == [3.0, 1.0, 2.0]


def test_the_same_seed_trains_the_same_model(executor: LocalExecutor, tmp_path: Path) -> None:
    ends = [run(executor, make_job(tmp_path / name))[0].metrics["train_loss"] for name in ("first", "second")]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("habit", "kind", "reason", "printed"),
    [
        ("raises", "exception", "ValueError: the third step went wrong", "about to fail"),
        ("raises_early", "exception", "RuntimeError: no such width", "RuntimeError: no such width"),
        ("exits", "exception", "the code called sys.exit(3)", "SystemExit: 3"),
        ("ends_at_once", "killed", "its process ended with exit code 0 before the fit was over", ""),
        ("crashes", "killed", "its process was killed by SIGSEGV before the fit was over", ""),
        ("runs_out_of_memory", "out_of_memory", "torch.OutOfMemoryError: CUDA out of memory", "OutOfMemoryError"),
        (
            "logs_nothing_of_use",
            "missing_metric",
            "val_loss was not logged in 3 epochs; logged: train_loss, val_los",
            "",
        ),
    ],
)
def test_a_failure_says_what_it_was(
    executor: LocalExecutor, tmp_path: Path, habit: str, kind: str, reason: str, printed: str
) -> None:
    *reports, end = run(executor, make_job(tmp_path, habit=habit))
    assert all(report.value is None for report in reports)
    assert isinstance(end, Failed)
    assert end.kind == kind
    assert end.reason.startswith(reason)
    assert "\n" not in end.reason
    assert printed in end.output_tail


def test_a_checkpoint_that_cannot_be_saved_says_whose_state_it_is(executor: LocalExecutor, tmp_path: Path) -> None:
    *_, end = run(executor, make_job(tmp_path, habit="keeps_code"))
    assert isinstance(end, Failed)
    assert end.reason.startswith("its checkpoint cannot be saved: Can't pickle local object 'Odd.on_save_checkpoint")
    assert "`on_save_checkpoint` of the model" in end.reason


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_metric_that_is_no_number_fails_the_trial(executor: LocalExecutor, tmp_path: Path, bad: str) -> None:
    report, end = run(executor, make_job(tmp_path, losses=[1.0, float(bad), 2.0]))
    assert isinstance(report, Reported)
    assert end == Failed(key=end.key, kind="nan", reason=f"val_loss is {bad} in epoch 1", output_tail=end.output_tail)


def test_a_wrong_metric_name_does_not_cost_a_whole_training(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path, habit="logs_nothing_of_use", **{"trainer.max_epochs": 10_000}))
    assert len(reports) < 20
    assert isinstance(end, Failed)
    assert end.kind == "missing_metric"


def test_a_parameter_that_nothing_takes_fails_without_a_traceback(executor: LocalExecutor, tmp_path: Path) -> None:
    (end,) = run(executor, make_job(tmp_path, width=3))
    assert isinstance(end, Failed)
    assert end.reason.startswith("no constructor takes parameter 'width': the model takes `habit`, `losses`")
    assert end.output_tail == ""


def test_kill_drops_events_that_nobody_has_seen(executor: LocalExecutor, tmp_path: Path) -> None:
    key = next(keys)
    executor.launch(key, make_job(tmp_path))
    pid_of(tmp_path, "0")
    time.sleep(0.5)
    executor.kill(key)
    assert executor.poll(0.1) == []


def test_a_trial_may_be_killed_the_moment_it_is_launched(executor: LocalExecutor, tmp_path: Path) -> None:
    for number in range(20):  # among them trials that do not lead their process group yet
        key = next(keys)
        executor.launch(key, make_job(tmp_path / str(number)))
        executor.kill(key)
    assert executor.poll(0.05) == []


def test_what_a_trial_started_ends_with_it(executor: LocalExecutor, tmp_path: Path) -> None:
    *_, end = run(executor, make_job(tmp_path, habit="leaves_helpers"))
    assert isinstance(end, Finished)
    pids = started_pids(tmp_path, "helper", "daemon")
    wait_for(lambda: not any(map(is_running, pids)), seconds=SOON_SECONDS)


def test_temporary_files_go_with_the_trial(executor: LocalExecutor, tmp_path: Path) -> None:
    run(executor, make_job(tmp_path))
    run(executor, make_job(tmp_path, habit="crashes"))
    assert list(Path(executor._template.folder).iterdir()) == []


def test_trials_of_a_killed_template_fail_once_and_the_next_launch_starts_another(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    key = next(keys)
    executor.launch(key, make_job(tmp_path, habit="hangs"))
    pids = started_pids(tmp_path, "0", "helper", "daemon")
    template, folder = executor._template.process.pid, Path(executor._template.folder)
    os.kill(template, signal.SIGKILL)
    (end,) = wait_for(lambda: executor.poll(0.1), seconds=SOON_SECONDS)
    assert isinstance(end, Failed)
    assert (end.key, end.kind) == (key, "killed")
    wait_for(lambda: not any(map(is_running, [template, *pids])), seconds=SOON_SECONDS)
    assert not folder.exists()
    *_, end = run(executor, make_job(tmp_path / "next"))
    assert isinstance(end, Finished)


PARENT = """
import sys, time
from pathlib import Path
from trainers.executors.local import LocalExecutor
from trainers.job import FitJob, TrainerConfig

user_code, folder = sys.argv[1:]
config = TrainerConfig(model="odd_models.Odd", max_epochs=3, accelerator="cpu", python_path=(user_code,))
executor = LocalExecutor(config, jobs=2)
executor.start()
for key, habit in enumerate(("hangs", "none")):  # one in the middle of a step, one waiting for an answer
    directory = f"{folder}/{key}"
    job = FitJob(params={"habit": habit}, seed=0, metric="val_loss", direction="minimize", directory=directory)
    executor.launch(key, job)
Path(folder, "pid-template").write_text(str(executor._template.process.pid))
assert "torch" not in sys.modules
time.sleep(300)
"""


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(USER_CODE), str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as parent:
        pids = [pid_of(tmp_path, "template"), *started_pids(tmp_path / "0", "0", "helper", "daemon")]
        pids.append(pid_of(tmp_path / "1", "0"))
        parent.kill()
    wait_for(lambda: not any(map(is_running, pids)), seconds=SOON_SECONDS)


def test_a_parent_killed_while_the_template_imports_takes_it_along(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid-template')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(300)\n"
    )
    script = PARENT.replace("odd_models.Odd", "slow_import.Model")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path)], cwd=Path(__file__).parents[2]
    ) as parent:
        template = pid_of(tmp_path, "template")
        parent.kill()
    wait_for(lambda: not is_running(template), seconds=SOON_SECONDS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accelerator": "cupid"}, "Lightning makes no Trainer of this study's settings: .*cupid"),
        ({"trainer_args": {"precision": "17"}}, "17"),
    ],
)
def test_settings_that_lightning_refuses_are_told_at_the_start(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrainerError, match=reason):
        LocalExecutor(make_config(**changes), jobs=1).start()


def test_a_file_named_like_a_module_of_python_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "random", "torch"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the one that was meant')")
    monkeypatch.chdir(tmp_path)
    with LocalExecutor(make_config(), jobs=1) as executor:
        *_, end = run(executor, make_job(tmp_path / "trial"))
    assert isinstance(end, Finished)


def test_the_last_lines_are_the_users(executor: LocalExecutor, tmp_path: Path) -> None:
    (end,) = run(executor, make_job(tmp_path, habit="raises"))
    assert isinstance(end, Failed)
    assert end.output_tail.startswith("about to fail\nTraceback")


def test_an_import_that_ends_the_process_is_told_at_the_start() -> None:
    with pytest.raises(TrainerError, match="ended with exit code 7\nthis machine has no license"):
        LocalExecutor(make_config(model="exits_on_import.Model"), jobs=1).start()
