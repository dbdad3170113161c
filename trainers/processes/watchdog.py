"""Has a trial made a step lately?

Rank 0 of a trial says `alive` from its batches, at most once a second. A rank that hangs makes rank 0 wait for it, so
its silence is that of them all. Who runs trials asks which have been silent for too long, and ends them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

PULSE_SECONDS = 1.0
COLLECTIVE_MARGIN_SECONDS = 10.0  # by which a rank waits longer for the others: the watchdog is to speak first


class Pulse:
    """Called after every batch; says `alive` at most once a second."""

    def __init__(self, say: Callable[[], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._next = -math.inf

    def __call__(self) -> None:
        """Tell of a step."""
        now = self._clock()
        if now >= self._next:
            self._next = now + PULSE_SECONDS
            self._say()


class Watchdog:
    """Which trials have been silent for longer than `minutes`? One that waits for an answer may be."""

    def __init__(self, *, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._minutes = minutes
        self._clock = clock
        self._heard: dict[int, float] = {}  # when each trial that is to speak was heard last

    def hear(self, key: int) -> None:
        """A trial was launched, spoke, or was answered."""
        self._heard[key] = self._clock()

    def forget(self, key: int) -> None:
        """A trial has ended, or waits for an answer."""
        self._heard.pop(key, None)

    def silent(self) -> list[int]:
        """The keys of trials that have been silent for too long."""
        longest_ago = self._clock() - self._minutes * 60
        return [key for key, heard in self._heard.items() if heard < longest_ago]

    def seconds_left(self) -> float:
        """Until the next trial may have been silent for too long; infinite where none may be."""
        first = min(self._heard.values(), default=math.inf)
        return max(0.0, first + self._minutes * 60 - self._clock())

    def reason(self) -> str:
        """Why a silent trial was ended."""
        return f"made no step for {self._minutes:g} min (trainer.stall_minutes), so its processes were ended"
