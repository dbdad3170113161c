"""A launcher like srun: its client asks a daemon for the processes, which are none of the client's own.

The daemon has imported torch and Lightning, so that a test pays for that once. `serve SOCKET` is the daemon;
`run SOCKET COMMAND...` the client, which ends as the process does, and takes it along when it is ended itself.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

RANK = ["-m", "trainers.executors.launched_rank"]
PATIENCE_SECONDS = 120


@contextlib.contextmanager
def warm_launcher(folder: Path) -> Iterator[str]:
    """The client's command line, for as long as the daemon runs."""
    path = str(folder / "socket")
    daemon = subprocess.Popen([sys.executable, __file__, "serve", path], cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not Path(path).exists():
            assert daemon.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield f"{sys.executable} {__file__} run {path} {{command}}"
    finally:
        daemon.terminate()
        daemon.wait()


def run(path: str, command: list[str]) -> int:
    """Have the daemon start the command; its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        order = json.dumps({"command": command, "environment": dict(os.environ), "folder": str(Path.cwd())})
        connection.sendmsg([b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])
        connection.sendall(order.encode() + b"\n")
        answer = connection.recv(16)
        return int(answer) if answer else 1


def serve(path: str) -> None:
    """Fork what is asked for."""
    import lightning
    import torch.profiler

    import trainers.executors.template
    import trainers.executors.worker

    assert lightning and torch and trainers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    door = socket.socket(socket.AF_UNIX)
    door.bind(f"{path}.new")
    door.listen()
    Path(f"{path}.new").rename(path)
    ranks: dict[int, socket.socket] = {}  # clients by process id
    with selectors.DefaultSelector() as selector:
        selector.register(door, selectors.EVENT_READ)
        try:
            while True:
                for ready, _ in selector.select(0.02):
                    if ready.fileobj is door:
                        client, _ = door.accept()
                        pid = _fork(client, door)
                        ranks[pid] = client
                        selector.register(client, selectors.EVENT_READ, pid)
                    elif not ready.fileobj.recv(1):  # its client is gone
                        _kill(ready.data)
                        selector.unregister(ready.fileobj)
                for pid, client in list(ranks.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        _kill(pid)
                        code = os.waitstatus_to_exitcode(status)
                        with contextlib.suppress(OSError):
                            client.sendall(str(code if code >= 0 else 128 - code).encode())
                        if client in selector.get_map():
                            selector.unregister(client)
                        client.close()
                        del ranks[pid]
        finally:
            for pid in ranks:
                _kill(pid)


def _fork(client: socket.socket, door: socket.socket) -> int:
    _, [(_, _, files)], _, _ = client.recvmsg(1, socket.CMSG_SPACE(4))
    output = array.array("i", files)[0]
    with client.makefile("rb") as reader:
        order = json.loads(reader.readline())
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            door.close()
            client.close()
            for file in (1, 2):
                os.dup2(output, file)
            os.chdir(order["folder"])
            os.environ.clear()
            os.environ.update(order["environment"])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _, *words = order["command"]
            assert words[:2] == RANK, words
            from trainers.executors.launched_rank import main

            main(words[2])
        finally:
            os._exit(70)
    os.close(output)
    return pid


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
