"""Which studies does a worker leave to others for now? Those that it could not train: each for a while, then longer."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_SECONDS, LONGEST_SECONDS = 60.0, 3600.0  # heuristic: code is mended in minutes, and a try costs others little
MOST = 900  # that a question for work names; those that may be tried the latest


class Refused:
    """The studies, by id. What was wrong may be mended meanwhile: so each is tried again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[int, tuple[float, float]] = {}  # when it is tried again, after how long a time

    def add(self, study_id: int) -> None:
        """It could not be trained just now."""
        _, before = self._until.get(study_id, (0.0, 0.0))
        pause = min(max(2 * before, FIRST_SECONDS), LONGEST_SECONDS)
        self._until[study_id] = (self._clock() + pause, pause)

    def forgive(self, study_id: int) -> None:
        """It can be trained."""
        self._until.pop(study_id, None)

    def now(self) -> list[int]:
        """Those that are left to others at this moment."""
        now = self._clock()
        waiting = {study_id: until for study_id, (until, _) in self._until.items() if until > now}
        return sorted(sorted(waiting, key=lambda study_id: waiting[study_id])[-MOST:])
