"""Who has tried too many wrong tokens? Counted by address, in memory: a restart forgives."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MOST_FAILURES = 10
WINDOW_SECONDS = 60.0
MOST_ADDRESSES = 10_000  # remembered; the longest quiet one is forgotten first


class WrongTokens:
    """The failures of the last minute by address. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def seconds_to_wait(self, address: str) -> float:
        """How long until `address` may try again; 0: now."""
        with self._lock:
            failures = self._failures.get(address)
            if failures is None or len(failures) < MOST_FAILURES:
                return 0.0
            return max(0.0, failures[0] + WINDOW_SECONDS - self._clock())

    def note_failure(self, address: str) -> None:
        """A wrong token came from `address`."""
        with self._lock:
            self._failures.setdefault(address, deque(maxlen=MOST_FAILURES)).append(self._clock())
            self._failures.move_to_end(address)
            if len(self._failures) > MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def forget(self, address: str) -> None:
        """A right one did."""
        with self._lock:
            self._failures.pop(address, None)
