"""How does a trial's checkpoint come to the service, so that its model can be promoted there?

In parts, each of which may be sent again: a connection that breaks, or a server that is started again, costs the part.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

from hpo.client.transport import Transport
from hpo.errors import ServiceError
from trainers.job import COMPRESSED_MODEL

PART_BYTES = 4 * 2**20  # proxies take as much without being told


def named_place(checkpoint: str | Path) -> str:
    """Where it lies, for whoever looks for it from another machine."""
    return f"{socket.gethostname()}:{checkpoint}"


def send_checkpoint(
    transport: Transport,
    trial: str,
    *,
    attempt: int,
    checkpoint: Path,
    is_over: Callable[[], bool],
) -> None:
    """Send a checkpoint, and what was compressed of it; nothing where the server sees its folder.

    trial: its path below `/api/v1`. is_over: asked before each part, whether to leave it at that.
    Raises ServiceError for a checkpoint that is a folder which is not seen there, or where it is over before the end;
    StaleAttemptError where the trial is somebody else's by now, OSError, and whatever the service refuses with.
    """
    compressed = checkpoint.with_name(COMPRESSED_MODEL)
    files = {"compressed": compressed} if compressed.is_file() else {}
    for what, file in {**files, "checkpoint": checkpoint}.items():  # with the checkpoint, the model is complete
        is_folder = file.is_dir()
        about = {
            "attempt": str(attempt),
            "file": what,
            "size": "1" if is_folder else str(file.stat().st_size),
            "digest": "0" * 64 if is_folder else _digest(file),
            "place": named_place(checkpoint),
        }
        there = _tell(transport, trial, about, offset=0, content=b"")
        if is_folder and there == 0:
            raise ServiceError(f"{file} is a folder, as of strategies that shard a model, and only files are sent")
        while there < int(about["size"]):
            if is_over():
                raise ServiceError(f"the worker ended before all of {file} was sent")
            content = _read(file, there)
            before, there = there, _tell(transport, trial, about, offset=there, content=content)
            if there <= before:
                raise ServiceError(
                    f"the service takes nothing of {file} after byte {before}; was it changed meanwhile?"
                )


def _tell(transport: Transport, trial: str, about: dict[str, str], *, offset: int, content: bytes) -> int:
    answer = transport.send(
        "POST",
        f"{trial}/checkpoint",
        files={"part": ("part", content, "application/octet-stream")},
        data={**about, "offset": str(offset)},
    )
    return int(transport.content_of(answer)["received"])


def _read(file: Path, offset: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(PART_BYTES)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
