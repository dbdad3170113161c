"""What a method is given and what it answers, when recorded tasks are tuned again.

Notation: n runs, m rows that may be chosen, d parameters. Losses are of the metric's size, smaller is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hpo.arrays import Array
from hpo.spaces.encoding import Encoding
from hpo.spaces.space_mapping import SpaceMapping
from storage.summaries import StudySample


@dataclass(frozen=True, kw_only=True, eq=False)
class PastRuns:
    """One past task, as a method may know it."""

    name: str
    X: Array  # (n, d) all its runs, as canonical points of the target's encoding, translated by the mapping
    losses: Array  # (n,) raw and finite; failed runs count with the worst seen
    sample: StudySample  # the same as the store's summary would give it
    mapping: SpaceMapping  # from its space to the target's


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A task to be tuned again, without its values."""

    name: str  # of the task
    encoding: Encoding  # of the target's space
    configurations: Sequence[Mapping[str, Any]]  # (m) the rows that may be chosen: active parameters only
    points: Array  # (m, d) the same, encoded
    maximize: bool  # the direction of the metric in receipts; losses are always sign-adjusted
    past: Sequence[PastRuns]  # without the target


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The row to try next, and what a method expects of it."""

    row: int
    interval90: tuple[float, float] | None = None  # of the loss that will be seen
    best_case: float | None = None  # 5% quantile of the loss, noise left out
    history_weight: float | None = None  # how much the past counts in both


class Method(Protocol):
    """A way to choose rows. One object serves many problems; it keeps no state between them."""

    name: str

    def begin(self, problem: Problem, seed: int) -> Chooser:
        """Start on a problem. What follows is determined by the problem and the seed."""
        ...


class Chooser(Protocol):
    """A method at work on one problem."""

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """The next row, never one of `rows` (tried, in order), given their raw losses (n,)."""
        ...
