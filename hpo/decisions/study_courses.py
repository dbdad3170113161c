"""How good was the best trial after each finished one, in a study or in several runs of one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hpo.arrays import Array
from hpo.decisions.comparisons import members_of
from hpo.errors import NoHistoryError, SettingsError
from storage import history
from storage.database import Store
from storage.history import StudySummary

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class SideCourse:
    """The incumbents of a side of a comparison, in the metric's own units."""

    name: str
    runs: int  # studies
    mean: Array  # (k,) of the runs that are so long; NaN before the first success
    interval: Array | None  # (k, 2) 95% for the mean over runs; None for a single one


def courses(store: Store, sides: Sequence[str]) -> tuple[list[SideCourse], str]:
    """The courses of studies by name or pattern, and their metric.

    Raises StudyNotFoundError, NoHistoryError, SettingsError where metrics or directions differ.
    """
    known = history.list_studies(store)
    members = {name: members_of(name, known) for name in sides}
    metric, direction = _shared([study for studies in members.values() for study in studies])
    return [_course(store, name, studies, direction) for name, studies in members.items()], metric


def _shared(studies: Sequence[StudySummary]) -> tuple[str, str]:
    kinds = dict.fromkeys((study.objectives[0], study.directions[0]) for study in studies)
    if len(kinds) > 1:
        words = ", ".join(f"{metric} ({direction})" for metric, direction in kinds)
        raise SettingsError(f"these studies do not measure the same: {words}")
    return next(iter(kinds))


def _course(store: Store, name: str, studies: Sequence[StudySummary], direction: str) -> SideCourse:
    runs = [incumbents(store, study.study_id, maximize=direction == "maximize") for study in studies]
    if not any(len(run) for run in runs):
        raise NoHistoryError(f"{name!r} has no finished trial yet")
    longest = max(map(len, runs))
    together = np.full((len(runs), longest), np.nan)
    for row, run in zip(together, runs, strict=True):
        row[: len(run)] = run
    known = np.isfinite(together)
    n = known.sum(0)
    mean = np.where(known, together, 0.0).sum(0) / np.where(n > 0, n, np.nan)
    if len(runs) == 1:
        return SideCourse(name=name, runs=1, mean=mean, interval=None)
    squares = np.where(known, (together - mean) ** 2, 0.0).sum(0)
    freedom = np.where(n > 1, n - 1, np.nan)
    half = stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(squares / freedom / n)
    return SideCourse(name=name, runs=len(runs), mean=mean, interval=np.stack([mean - half, mean + half], axis=1))


def incumbents(store: Store, study_id: int, *, maximize: bool) -> Array:
    """The best value after each finished trial (k,), NaN before the first success."""
    values = np.array(history.completed_values(store, study_id), dtype=np.float64)
    losses = np.where(np.isfinite(values), -values if maximize else values, np.inf)
    best = np.minimum.accumulate(losses)
    return np.where(np.isfinite(best), -best if maximize else best, np.nan)
