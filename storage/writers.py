"""How the writers of one SQLite file take turns.

SQLite lets in whoever asks at the right moment. Those who wait ask at growing intervals, so that one who writes again
and again leaves them hardly a chance. Here one of those who wait stands at the door and asks often, and who comes
later, even if he was inside just now, stands behind him.
"""

import fcntl
import os
import random
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

AT_THE_DOOR_SECONDS = (0.0001, 0.002)  # the first and the longest pause between two questions
BEHIND_SECONDS = (0.0005, 0.005)
TURN_SECONDS = 1.0  # for which somebody stands behind another, who may be hanging; then he asks as well


class WritersQueue:
    """The queue before one file, for one process, whose threads must come one by one.

    It is a courtesy, not a lock: what must not happen at the same time, SQLite forbids. The door is a file, which the
    first who has to wait makes.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(f"{database.name}.writers.lock")
        self._door: IO[bytes] | None = None
        _QUEUES.add(self)

    def enter(self, is_in: Callable[[], bool], until: float) -> bool:
        """Ask `is_in` until it says yes; False when it has not until then, by the monotonic clock."""
        door = self._found_door(os.O_RDWR)
        if door is None:
            if is_in():
                return True
            door = self._found_door(os.O_RDWR | os.O_CREAT)
        has_turn = door is not None and (_takes_turn(door) or _stands_behind(door, until))
        try:
            return is_in() or _ask(is_in, until, AT_THE_DOOR_SECONDS)
        finally:
            if has_turn and door is not None:
                fcntl.flock(door, fcntl.LOCK_UN)

    def _found_door(self, flags: int) -> IO[bytes] | None:
        """The file, opened once; None where there is none, or it may not be opened: then everybody is on his own."""
        if self._door is None:
            try:
                self._door = os.fdopen(os.open(self._path, flags, 0o666), "rb+", 0)
            except OSError:
                return None
            weakref.finalize(self, self._door.close)
        return self._door

    def _leave_to_parent(self) -> None:
        if self._door is not None:
            self._door.close()  # which ends no lock of the parent's


def _takes_turn(door: IO[bytes]) -> bool:
    try:
        fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _stands_behind(door: IO[bytes], until: float) -> bool:
    return _ask(lambda: _takes_turn(door), min(until, time.monotonic() + TURN_SECONDS), BEHIND_SECONDS)


def _ask(question: Callable[[], bool], until: float, pauses: tuple[float, float]) -> bool:
    pause, longest = pauses
    while time.monotonic() < until:
        time.sleep(pause * random.uniform(0.5, 1.0))
        if question():
            return True
        pause = min(1.5 * pause, longest)
    return False


_QUEUES: "weakref.WeakSet[WritersQueue]" = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for queue in list(_QUEUES):
        queue._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
