"""How a trial tells what it has come to, or that it came to nothing."""

from __future__ import annotations

from typing import Protocol

from trainers.job import FailureKind


class FitError(Exception):
    """A fit that ran but has no valid result."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


class Report(Protocol):
    """Tells what an epoch came to. The answer: is the trial to be pruned?"""

    def __call__(self, *, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        """Called once an epoch that logged something, on global rank 0; value: None if the metric was not among it."""
        ...
