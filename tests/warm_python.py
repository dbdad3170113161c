"""Python processes that have imported torch and Lightning already: whoever runs the tests pays for that once.

`serve SOCKET` is a daemon that forks them, each as if it had been started with its command line, environment, folder
and files. `run SOCKET COMMAND...` has it start one: a launcher like srun, whose processes are none of its own; it
ends as the process does, and takes it along when it is ended itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TextIO

PATIENCE_SECONDS = 120
ANSWER_BYTES = 8  # of a number that the daemon tells: the process id, then the exit code
STANDARD = 3  # files: input, output and error
IMPORTED = (
    "lightning",
    "torch.profiler",
    "trainers.executors.local",
    "trainers.executors.template",
    "trainers.processes.remote_channel",
    "hpo.cli.commands",
    "hpo.cli.show",
    "hpo.cli.tuning",
    "hpo.running.ahead",
    "hpo.running.runner",
    "storage.optuna_storage",
)


class WarmProcess:
    """A running process; as much of `subprocess.Popen` as is asked of one here."""

    def __init__(
        self, socket_path: Path, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], files: list[int]
    ) -> None:
        """files: its standard input, output and error, and what it inherits besides."""
        order = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        self.returncode: int | None = None
        self.stdin: TextIO | None = None
        self.stdout: TextIO | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(socket_path))
        socket.send_fds(self._connection, [b"\n"], files)
        self._connection.sendall(json.dumps(order).encode() + b"\n")
        self.pid = self._answer()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a warm process", timeout or 0.0)
            self.returncode = self._answer()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def kill(self) -> None:
        """End it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _answer(self) -> int:
        answer = self._connection.recv(ANSWER_BYTES, socket.MSG_WAITALL)
        assert answer, "the daemon has ended"
        return int(answer)


@dataclass(frozen=True, kw_only=True)
class WarmPython:
    """A running daemon."""

    path: Path  # of its socket

    @property
    def launcher(self) -> str:
        """The launcher's command line."""
        return f"{sys.executable} {__file__} run {self.path} {{command}}"

    def run(
        self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python WORDS` to its end."""
        with (
            Path(os.devnull).open() as nothing,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            files = [nothing.fileno(), out.fileno(), err.fileno()]
            process = WarmProcess(self.path, words, folder=folder, environment=environment, files=files)
            try:
                process.wait(timeout)
            finally:
                process.kill()
            texts = [file.seek(0) or file.read() for file in (out, err)]
        return subprocess.CompletedProcess(list(words), process.wait(), *texts)

    @contextlib.contextmanager
    def templates(self) -> Iterator[None]:
        """Meanwhile, the local executor's templates come from the daemon."""
        from trainers.executors import local

        before = local.subprocess
        local.subprocess = _starting(partial(_start_template, self.path))
        try:
            yield
        finally:
            local.subprocess = before

    @contextlib.contextmanager
    def proposals(self) -> Iterator[None]:
        """Meanwhile, the processes in which a service makes proposals come from the daemon."""
        from hpo.service import proposer

        before = proposer.subprocess
        proposer.subprocess = _starting(partial(_start_proposals, self.path))
        try:
            yield
        finally:
            proposer.subprocess = before


def _starting(start: Callable[..., WarmProcess]) -> Any:
    """The module `subprocess`, as far as those who start processes so use it."""
    names = ("PIPE", "DEVNULL", "TimeoutExpired")
    return SimpleNamespace(Popen=start, **{name: getattr(subprocess, name) for name in names})


def _start_template(
    path: Path, command: list[str], *, env: Mapping[str, str], stdout: Any, pass_fds: list[int], **_: Any
) -> WarmProcess:
    with Path(os.devnull).open() as nothing:
        files = [nothing.fileno(), stdout.fileno(), stdout.fileno(), *pass_fds]
        return WarmProcess(path, command[1:], folder=Path.cwd(), environment=env, files=files)


def _start_proposals(path: Path, command: list[str], *, env: Mapping[str, str], **_: Any) -> WarmProcess:
    (asked, ask), (hear, told) = os.pipe(), os.pipe()
    process = WarmProcess(path, command[1:], folder=Path.cwd(), environment=env, files=[asked, told, 2])
    os.close(asked)
    os.close(told)
    process.stdin, process.stdout = os.fdopen(ask, "w", encoding="utf-8"), os.fdopen(hear, encoding="utf-8")
    return process


@contextlib.contextmanager
def forked_calculations() -> Iterator[None]:
    """Meanwhile, the processes in which a service works out answers are forked from one that has the imports."""
    from hpo.service import calculations

    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["hpo.service.calculations", "hpo.answers.questions"])
    before = calculations.multiprocessing
    calculations.multiprocessing = SimpleNamespace(get_context=lambda _: server)
    try:
        yield
    finally:
        calculations.multiprocessing = before


@contextlib.contextmanager
def warm_python(folder: Path) -> Iterator[WarmPython]:
    """A daemon whose socket is in the folder, for as long as the block."""
    path = folder / "socket"
    daemon = subprocess.Popen(
        [sys.executable, __file__, "serve", path],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            assert daemon.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield WarmPython(path=path)
    finally:
        daemon.terminate()
        daemon.wait()


# The launcher


def launch(path: Path, words: list[str]) -> int:
    """Have the daemon start a process; its exit code, as a shell tells it."""
    process = WarmProcess(path, words, folder=Path.cwd(), environment=os.environ, files=[0, 1, 2])
    code = process.wait()
    return code if code >= 0 else 128 - code


# The daemon


def serve(path: Path) -> Callable[[], None]:
    """Fork what is asked for. Returns in each process that was forked: what it is to do."""
    for name in IMPORTED:
        importlib.import_module(name)
    from trainers.processes.lifetimes import die_with_parent

    die_with_parent(parent=os.getppid())
    gc.collect()
    gc.freeze()  # what is forked shares it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    door = socket.socket(socket.AF_UNIX)
    new = path.with_suffix(".new")
    door.bind(str(new))
    door.listen()
    new.rename(path)
    forked: dict[int, socket.socket] = {}  # clients by process id
    with selectors.DefaultSelector() as selector:
        selector.register(door, selectors.EVENT_READ)
        try:
            while True:
                for ready, _ in selector.select(0.02):
                    if ready.fileobj is door:
                        client, _ = door.accept()
                        order, files = _receive(client)
                        pid = os.fork()
                        if pid == 0:
                            for connection in (door, client, *forked.values()):
                                connection.close()
                            forked.clear()
                            return _become(order, files, path)
                        for file in files:
                            os.close(file)
                        _tell(client, pid)
                        forked[pid] = client
                        selector.register(client, selectors.EVENT_READ, pid)
                    elif not ready.fileobj.recv(1):  # its client is gone
                        _kill(ready.data)
                        selector.unregister(ready.fileobj)
                for pid, client in list(forked.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        _kill(pid)
                        if client in selector.get_map():
                            selector.unregister(client)
                        _tell(client, os.waitstatus_to_exitcode(status))
                        client.close()
                        del forked[pid]
        finally:
            for pid in forked:
                _kill(pid)


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    _, files, _, _ = socket.recv_fds(client, 1, 8)
    with client.makefile("rb") as reader:
        return json.loads(reader.readline()), files


def _tell(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it is gone
        client.sendall(f"{number:{ANSWER_BYTES}}".encode())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _become(order: Mapping[str, Any], files: Sequence[int], path: Path) -> Callable[[], None]:
    """Be as if just started with the order's words; returns what they mean."""
    from trainers.executors import local

    os.setsid()
    *standard, inherited = files if len(files) > STANDARD else [*files, -1]
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    words = order["words"]
    safe_path, words = words[0] == "-P", words[words[0] == "-P" :]
    if words[0] == "-c":
        sys.argv[:] = ["-c", *words[2:]]
        return lambda: _serve_as_template(inherited)
    local.subprocess = _starting(partial(_start_template, path))  # `hpo tune`'s
    sys.path[0:1] = [] if safe_path else [order["folder"]]
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        return lambda: runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    sys.argv[:] = words
    return lambda: runpy.run_path(words[0], run_name="__main__")


def _serve_as_template(control: int) -> None:
    """As `trainers.executors.local.BOOT`, but that the daemon stands for the study's process."""
    from trainers.executors.template import main

    sys.path[:] = json.loads(sys.argv[1])
    main(control, os.getppid())


def _run(job: Callable[[], None]) -> NoReturn:
    """As an interpreter does, but that modules are not taken apart in the end: their pages are the daemon's."""
    code: Any = 0
    try:
        job()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    action, where, *command = sys.argv[1:]
    if action == "serve":
        _run(serve(Path(where)))
    sys.exit(launch(Path(where), command[1:]))
