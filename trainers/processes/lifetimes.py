"""How processes are tied together, so that none outlives its purpose."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h
SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.002
TRIAL_VARIABLE = "HINDSIGHT_TRIAL"  # in the environment of a trial and of all it starts: the trial's process id


def die_with_parent(*, parent: int) -> None:
    """Let the kernel kill this process once the thread that started it ends (Linux; elsewhere nothing happens)."""
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if sys.platform == "linux" and os.getppid() != parent:  # it ended before the call
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    _prctl(SET_PARENT_DEATH_SIGNAL, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own (Linux; elsewhere nothing happens)."""
    _prctl(SET_CHILD_SUBREAPER, 1)


def kill_group(group: int) -> bool:
    """Kill every process of a group. False where there is none."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: only zombies are left
        return False
    return True


def kill_trial(trial: int) -> None:
    """Kill a trial's group, and what has left it (found on Linux only)."""
    kill_group(trial)
    for folder in Path("/proc").glob("[0-9]*"):
        if trial_of(int(folder.name)) == trial:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)


def trial_of(pid: int) -> int | None:
    """The trial that started a process, by its environment (known on Linux only)."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{TRIAL_VARIABLE}=".encode()
    return next((int(entry.removeprefix(prefix)) for entry in environment if entry.startswith(prefix)), None)


def wait_until(is_over: Callable[[], bool], *, seconds: float) -> bool:
    """Ask again and again, `seconds` at most. Returns whether it is over."""
    deadline = time.monotonic() + seconds
    while not is_over():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def describe_exit(code: int) -> str:
    """An exit code in words. `code` as of `os.waitstatus_to_exitcode`: negative for a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", by hand or because memory ran out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
