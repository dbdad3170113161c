"""How do trials, also those of other programs on this machine, stay off each other's devices?

A device has a lock file. Who wants it alone locks the file exclusively; those who share it lock it jointly, and each
takes one of their places besides. The locks are the kernel's: they are gone with the last process of the trial,
however it ends. The files are for everybody on the machine, and nobody ever writes to them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LOCKS = Path("/tmp/hindsight-devices")  # not where TMPDIR says: it is to be the same for all programs of a machine
FOR_EVERYBODY = 0o1777  # a folder like /tmp: anyone may add files, none removes another's
READABLE = 0o444
TURN = "turn"  # the lock of who is choosing


@dataclass(kw_only=True)
class Hold:
    """Devices that this process, and all that it forks, hold."""

    devices: list[int]  # places in the list of names
    files: list[int] = field(default_factory=list)  # descriptors, which are the locks

    def release(self) -> None:
        """Let others have them. Nobody needs to: the end of the processes does it."""
        while self.files:
            os.close(self.files.pop())


def take(
    names: Sequence[str], count: int, *, sharers: int, folder: Path, wait: Callable[[], None], turn_by: int = 0
) -> Hold:
    """Hold `count` of the named devices, as soon as so many are free at once.

    sharers: how many trials may be on a device. wait: called between tries. turn_by: where in the list to begin.
    Raises ValueError where there are not so many.
    """
    if count > len(names):
        raise ValueError(f"{count} devices are asked for, and there are {len(names)}")
    _make_folder(folder)
    order = [(place + turn_by) % len(names) for place in range(len(names))]
    while True:
        with _turn(folder):
            hold = _try(names, order, count, sharers=sharers, folder=folder)
        if hold is not None:
            return hold
        wait()


def _try(names: Sequence[str], order: Sequence[int], count: int, *, sharers: int, folder: Path) -> Hold | None:
    """All of them or none: who held some while waiting for others could wait for ever."""
    hold = Hold(devices=[])
    for place in range(sharers):  # a device nobody has comes before one that is shared
        for device in order:
            if len(hold.devices) < count and device not in hold.devices:
                files = _lock_device(folder / names[device], place=None if sharers == 1 else place)
                if files:
                    hold.devices.append(device)
                    hold.files += files
    if len(hold.devices) == count:
        hold.devices.sort()
        return hold
    hold.release()
    return None


def _lock_device(path: Path, *, place: int | None) -> list[int]:
    """The locks of a device, or of a place on it; none where it is taken."""
    if place is None:
        return _lock(path, fcntl.LOCK_EX)
    if not (shared := _lock(path, fcntl.LOCK_SH)):
        return []
    if not (own := _lock(path.with_name(f"{path.name}.{place}"), fcntl.LOCK_EX)):
        os.close(*shared)
        return []
    return [*shared, *own]


def _lock(path: Path, kind: int) -> list[int]:
    file = _open(path)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return []
    return [file]


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    file = _open(folder / TURN)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """The file, made if it is not there; nothing is followed that a stranger may have put in its place."""
    with suppress(FileExistsError):
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, READABLE)
        os.fchmod(file, READABLE)  # whatever the umask says
        os.close(file)
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(FOR_EVERYBODY)  # whatever the umask says
