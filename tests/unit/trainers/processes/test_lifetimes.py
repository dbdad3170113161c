"""Do processes end when they should?"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainers.processes.lifetimes import describe_exit, kill_group, wait_until


def test_kill_group_ends_all_of_it() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 300 & wait"], start_new_session=True) as shell:
        time.sleep(0.1)
        assert kill_group(shell.pid)
    assert wait_until(lambda: not kill_group(shell.pid), seconds=5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_child_dies_with_its_parent() -> None:
    script = (
        "import os, time\n"
        "from trainers.processes.lifetimes import die_with_parent\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    die_with_parent(parent=parent)\n"
        "    print(os.getpid(), flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    assert wait_until(lambda: not is_running(child), seconds=5)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_wait_until_gives_up() -> None:
    assert wait_until(lambda: True, seconds=0)
    assert not wait_until(lambda: False, seconds=0.01)


def test_exit_codes_in_words() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL, by hand or because memory ran out"
    assert describe_exit(-55) == "was killed by signal 55"
