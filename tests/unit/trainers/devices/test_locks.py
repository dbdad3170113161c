"""Are devices shared only by those who want it so, and free as soon as their holder is gone?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers.devices.locks import Hold, take

NAMES = ["GPU-a", "GPU-b", "GPU-c"]


class BusyError(Exception):
    """Nothing is free."""


def refuse() -> None:
    raise BusyError


def hold(folder: Path, count: int = 1, *, sharers: int = 1, **options: Any) -> Hold:
    return take(NAMES, count, sharers=sharers, folder=folder / "locks", wait=refuse, **options)


def test_no_device_is_given_twice(tmp_path: Path) -> None:
    holds = [hold(tmp_path) for _ in NAMES]
    assert sorted(each.devices[0] for each in holds) == [0, 1, 2]
    with pytest.raises(BusyError):
        hold(tmp_path)
    holds[1].release()
    assert hold(tmp_path).devices == holds[1].devices


def test_who_needs_several_takes_all_or_none(tmp_path: Path) -> None:
    first = hold(tmp_path, 2)
    with pytest.raises(BusyError):
        hold(tmp_path, 2)
    assert hold(tmp_path).devices == [2]
    first.release()
    assert hold(tmp_path, 2).devices == [0, 1]


def test_those_who_share_spread_first(tmp_path: Path) -> None:
    holds = [hold(tmp_path, sharers=2) for _ in range(6)]
    assert [each.devices for each in holds[:3]] == [[0], [1], [2]]
    assert Counter(each.devices[0] for each in holds) == {0: 2, 1: 2, 2: 2}
    with pytest.raises(BusyError):
        hold(tmp_path, sharers=2)


def test_a_shared_device_is_not_given_to_who_wants_it_alone_nor_the_other_way_round(tmp_path: Path) -> None:
    shared = hold(tmp_path, 3, sharers=2)
    with pytest.raises(BusyError):
        hold(tmp_path)
    shared.release()
    alone = hold(tmp_path, 3)
    with pytest.raises(BusyError):
        hold(tmp_path, sharers=2)
    alone.release()
    hold(tmp_path, 3, sharers=2)


def test_more_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 devices are asked for, and there are 3"):
        hold(tmp_path, 4)


def test_it_begins_where_it_is_told(tmp_path: Path) -> None:
    assert hold(tmp_path, turn_by=2).devices == [2]


def test_processes_that_choose_at_once_never_meet(tmp_path: Path, in_processes: Callable[..., list[Any]]) -> None:
    """Each notes who is on its devices, which is nobody."""
    (tmp_path / "on").mkdir()

    def work(index: int) -> int:
        for _ in range(20):
            held = take(NAMES, 1 + index % 2, sharers=1, folder=tmp_path / "locks", wait=lambda: None)
            for device in held.devices:
                (tmp_path / "on" / str(device)).touch(exist_ok=False)
            for device in held.devices:
                (tmp_path / "on" / str(device)).unlink()
            held.release()
        return index

    assert in_processes(work, 4) == [0, 1, 2, 3]


HOLDER = """
import os, sys, time
from pathlib import Path
from trainers.devices.locks import take
take(["GPU-a"], 1, sharers=1, folder=Path(sys.argv[1]) / "locks", wait=lambda: None)
rank = os.fork()  # as the ranks of a trial
if not rank:
    time.sleep(60)
print(rank, flush=True)
time.sleep(60)
"""


def test_a_device_is_free_when_the_last_process_of_a_killed_trial_is_gone(tmp_path: Path) -> None:
    def is_free() -> bool:
        try:
            take(["GPU-a"], 1, sharers=1, folder=tmp_path / "locks", wait=refuse).release()
        except BusyError:
            return False
        return True

    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True) as holder:
        assert holder.stdout is not None
        rank = int(holder.stdout.readline())
        assert not is_free()
        holder.kill()
        holder.wait()
        assert not is_free()
        os.kill(rank, signal.SIGKILL)
        for _ in range(500):
            if is_free():
                return
        raise AssertionError("nobody has it, and it is not free")


def test_its_files_are_for_everybody_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        hold(tmp_path, sharers=2)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "locks").iterdir()} == {0o444}
