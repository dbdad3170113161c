"""Where a result comes from: code version, data, hardware, and the process that trained it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any

from hpo.settings import PRIVACY_VARIABLE


def git_commit(folder: Path) -> str | None:
    """The commit that `folder` stands at, with `-dirty` where files differ from it; None outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no", ".") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits that stand for JSON-able content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hardware() -> str:
    """This machine in a few words: architecture, cores, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def this_worker() -> str:
    """A name for a worker in this process that no other worker, earlier or later, shares: host/pid/start/random."""
    return f"{_called(_host())}/{os.getpid()}/{_start_time(os.getpid())}/{uuid.uuid4().hex[:8]}"


def may_be_alive(worker: str) -> bool:
    """False only if it is certain that `worker` has ended: a process of this host that is gone, or another one now."""
    host, pid, started, *_ = [*worker.split("/"), "", ""]
    if host not in (_host(), _called(_host())) or not pid.isdigit():
        return True
    return _is_running(int(pid)) and _start_time(int(pid)) == started


def _called(host: str) -> str:
    """What the rules of privacy, where there are any, leave of the name of a machine."""
    if not os.environ.get(PRIVACY_VARIABLE):
        return host
    from storage import privacy  # noqa: PLC0415 - slow to import, for whoever only asks a service for trials

    return privacy.current().machine(host)


def _host() -> str:
    """This machine; for a container, which counts its processes by itself, this container."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}+{namespace}"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str:
    """The kernel's start time of a process, in clock ticks since boot; empty where there is no /proc or no process.

    A killed process that nobody has waited for yet (a zombie) is there no more.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
