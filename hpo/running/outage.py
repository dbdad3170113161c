"""What a study does while its history cannot be reached: it goes on, and tries again at a decent pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from storage.errors import StoreUnavailableError

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0  # between attempts, which may take long themselves

T = TypeVar("T")
Default = TypeVar("Default")


class Outage:
    """Whether the history cannot be reached just now, since when, and when to try again."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._error: StoreUnavailableError | None = None
        self._began = self._next_attempt = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    @property
    def is_on(self) -> bool:
        """Whether it could not be reached when it was last tried."""
        return self._error is not None

    def attempt(self, action: Callable[[], T], *, otherwise: Default) -> T | Default:
        """What `action` returns; `otherwise` while the history cannot be reached, or if that turns out now."""
        if not self.is_on:
            with self._noted():
                return action()
        return otherwise

    def is_over(self, proof: Callable[[], None]) -> bool:
        """Whether the history can be used, as far as is known; after an outage `proof`, which writes, must work."""
        if self.is_on and time.monotonic() >= self._next_attempt:
            with self._noted():
                proof()
                self._notice(f"the history is back after {time.monotonic() - self._began:.0f} s")
                self._error, self._pause = None, FIRST_PAUSE_SECONDS
        return not self.is_on

    def give_up(self, *, after_seconds: float) -> None:
        """Raise StoreUnavailableError once it has lasted so long."""
        if self._error is not None and time.monotonic() - self._began > after_seconds:
            raise self._error

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailableError as error:
            if not self.is_on:
                self._began = time.monotonic()
                self._notice(
                    f"{error}\n    Trials that run go on, and what they bring is kept until it can be reached."
                )
            self._error = error
            self._next_attempt = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
