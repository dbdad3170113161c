"""Where trials run."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Protocol, Self

from trainers.job import Event, FitJob


class Executor(Protocol):
    """Runs trials side by side and tells what becomes of them.

    Each key that is launched, and not killed, gives any number of Reported and then exactly one Finished or Failed.
    Each Reported waits for exactly one answer. One thread uses an executor, and polls it: else trials stand still.
    """

    def start(self, parameters: Collection[str] = ()) -> None:
        """Get ready; `parameters` are the names of the search space. Raises TrainerError."""

    def launch(self, key: int, job: FitJob) -> None:
        """Begin a trial. Raises TrainerError."""

    def poll(self, timeout: float) -> list[Event]:
        """What has happened, as soon as something has; nothing after `timeout` seconds."""

    def answer(self, key: int, *, prune: bool) -> None:
        """Let a trial that reported go on or stop. Nothing happens where the trial has ended."""

    def kill(self, key: int) -> None:
        """End a trial and all its processes; its key gives no more events. Nothing happens where it has ended."""

    def close(self) -> None:
        """End everything."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
