"""Do trials that a launcher starts hold together: over two nodes, with strangers at the door, when the study dies?"""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.conformance.test_executors import pids_while_polling
from tests.integration.test_trainers_local import (
    SOON_SECONDS,
    USER_CODE,
    is_running,
    make_config,
    make_job,
    pid_of,
    run,
    started_pids,
    wait_for,
)
from tests.warm_python import WarmPython
from trainers.errors import TrainerError
from trainers.executors.launched import LaunchedExecutor
from trainers.job import Failed, Finished
from trainers.processes.remote_channel import HELLO_BYTES

TWO_NODES = """#!/bin/sh
# One torchrun for each node, both on this machine; they meet at node 0.
torchrun="{torchrun} --no-python --nnodes=2 --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={port}"
$torchrun --node-rank=1 "$@" &
$torchrun --node-rank=0 "$@"
code=$?
wait
exit $code
"""


@pytest.fixture
def launcher(warm_python: WarmPython) -> str:
    return warm_python.launcher


def test_a_trial_over_two_nodes_is_pruned_on_both(launcher: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = tmp_path / "two_nodes.sh"
    script.write_text(TWO_NODES.format(torchrun=Path(sys.executable).with_name("torchrun"), port=port))
    script.chmod(stat.S_IRWXU)
    with LaunchedExecutor(make_config(nodes=2), jobs=1, command=f"{script} {launcher}") as executor:
        *reports, end = run(executor, make_job(tmp_path / "trial", habit="logs_by_rank"), prune_at=1)
    assert [(report.epoch, report.value) for report in reports] == [(0, 3.0), (1, 1.0)]  # of rank 0 only
    assert isinstance(end, Finished), end
    assert (end.outcome.pruned, end.outcome.epochs, end.outcome.best_epoch) == (True, 2, 1)
    ranks = started_pids(tmp_path / "trial", "0", "1")
    assert len(set(ranks)) == 2
    assert not any(map(is_running, ranks))


def test_too_few_processes_are_told_at_the_start(launcher: str) -> None:
    executor = LaunchedExecutor(make_config(nodes=2), jobs=1, command=launcher)
    with pytest.raises(TrainerError, match=r"has started 1 processes, where devices = 1 x nodes = 2 .* ask for 2"):
        executor.start()


def test_a_launcher_that_is_not_there_is_told() -> None:
    with pytest.raises(TrainerError, match="there is no program 'no-such-launcher'"):
        LaunchedExecutor(make_config(), jobs=1, command="no-such-launcher {command}").start()
    with pytest.raises(TrainerError, match=r"'203\.0\.113\.1' is no address of this machine"):
        LaunchedExecutor(make_config(), jobs=1, command="{command}", host="203.0.113.1").start()


def test_a_launcher_that_cannot_start_anything_is_shown() -> None:
    executor = LaunchedExecutor(make_config(), jobs=1, command="sh -c 'echo no such partition >&2; exit 3; {command}'")
    with pytest.raises(TrainerError, match="ended with exit code 3 before all ranks had started\nno such partition"):
        executor.start()


def test_strangers_are_turned_away(launcher: str, tmp_path: Path) -> None:
    with LaunchedExecutor(make_config(), jobs=1, command=launcher) as executor, ExitStack() as stack:
        assert executor._door is not None
        host, _, port = executor._door.address.rpartition(":")
        strangers = []
        nested, half = b"[" * (HELLO_BYTES - 2) + b"\n", b'{"token": "\\ud800"}\n'  # JSON that Python stumbles over
        for said in (b"hi\n", b'{"token": "x", "rank": 0}\n', nested, half, b"x" * HELLO_BYTES, b""):
            stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=SOON_SECONDS))
            stranger.sendall(said)
            strangers.append(stranger)
        *_, end = run(executor, make_job(tmp_path))
        assert isinstance(end, Finished)
        for stranger in strangers[:-1]:
            with suppress(ConnectionResetError):  # what it said was not all read
                assert stranger.recv(1) == b""


def test_a_silent_trial_is_ended(launcher: str, tmp_path: Path) -> None:
    with LaunchedExecutor(make_config(stall_minutes=0.05), jobs=1, command=launcher) as executor:
        (end,) = run(executor, make_job(tmp_path, habit="hangs"))
        assert isinstance(end, Failed)
        assert end.kind == "stalled"
        wait_for(lambda: not any(map(is_running, started_pids(tmp_path, "0", "helper"))), seconds=SOON_SECONDS)


STUDY = """
import sys
from trainers.executors.launched import LaunchedExecutor
from trainers.job import FitJob, TrainerConfig

user_code, folder, launcher = sys.argv[1:]
config = TrainerConfig(model="odd_models.Odd", max_epochs=3, accelerator="cpu", python_path=(user_code,))
executor = LaunchedExecutor(config, jobs=1, command=launcher)
executor.start()
job = FitJob(params={"habit": "hangs"}, seed=0, metric="val_loss", direction="minimize", directory=folder)
executor.launch(0, job)
executor.poll(300)
"""


def test_ranks_end_when_the_study_is_killed(launcher: str, tmp_path: Path) -> None:
    """Wherever they run: what they miss is their connection."""
    command = [sys.executable, "-c", STUDY, str(USER_CODE), str(tmp_path), launcher]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as study:
        rank = pid_of(tmp_path, "0")
        study.kill()
    wait_for(lambda: not is_running(rank), seconds=SOON_SECONDS)


def test_a_launcher_that_is_killed_ends_its_trial(launcher: str, tmp_path: Path) -> None:
    with LaunchedExecutor(make_config(), jobs=1, command=launcher) as executor:
        executor.launch(0, make_job(tmp_path, habit="hangs"))
        pids = pids_while_polling(executor, tmp_path)
        executor._launches[0].process.kill()
        deadline = time.monotonic() + SOON_SECONDS
        while not (events := executor.poll(0.1)):
            assert time.monotonic() < deadline
        (end,) = events
        assert isinstance(end, Failed)
        assert end.kind == "killed"
        assert end.reason.endswith("before the fit was over")  # whichever was noticed first, its end or its rank's
        wait_for(lambda: not any(map(is_running, pids)), seconds=SOON_SECONDS)
