"""What do the figures of a study show? Its incumbents, its configurations side by side, its slices, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from hpo.answers.curves import thinned
from hpo.errors import SettingsError
from storage.distributions import fields_of
from storage.errors import did_you_mean
from storage.history import StudySummary
from storage.study_columns import StudyColumns


def course_fields(study: StudySummary, columns: StudyColumns, points: int | None) -> dict[str, Any]:
    """The best value after each finished trial; null before the first success. points: at most so many of them.

    Those at which it changes are never left out, so what is left may be a few more.
    """
    better = max if study.directions[0] == "maximize" else min
    best: float | None = None
    incumbents: list[float | None] = []
    changes = []
    for place, (state, value) in enumerate(zip(columns.states, columns.values, strict=True)):
        if state == TrialState.COMPLETE and math.isfinite(value):
            before, best = best, value if best is None else better(best, value)
            if best != before:
                changes.append(place)
        incumbents.append(best)
    places = sorted({*thinned(range(len(incumbents)), points), *(changes[-points:] if points else changes)})
    return {
        "study": study.name,
        "metric": study.objectives[0],
        "direction": study.directions[0],
        "finished": len(incumbents),
        "after": [place + 1 for place in places],
        "numbers": [columns.numbers[place] for place in places],
        "incumbent": [incumbents[place] for place in places],
    }


def parallel_fields(study: StudySummary, columns: StudyColumns, most: int) -> dict[str, Any]:
    """The configurations of complete trials side by side: at most so many, the best half and others spread evenly."""
    places = _told(study, columns, most)
    return {
        "study": study.name,
        "metric": study.objectives[0],
        "direction": study.directions[0],
        "complete": sum(state == TrialState.COMPLETE for state in columns.states),
        "numbers": [columns.numbers[place] for place in places],
        "values": [columns.values[place] for place in places],
        "parameters": [_parameter(columns, name, places) for name in columns.distributions],
    }


def slice_fields(study: StudySummary, columns: StudyColumns, names: Sequence[str], most: int) -> dict[str, Any]:
    """As `parallel_fields`, for some parameters, of trials that have them all. Raises SettingsError."""
    for name in names:
        if name not in columns.distributions:
            hint = did_you_mean(name, columns.distributions) or f" It has {', '.join(columns.distributions) or 'none'}."
            raise SettingsError(f"no finished trial of {study.name!r} has a parameter {name!r}.{hint}")
    found = parallel_fields(study, columns, most)
    places = [
        place for place in _told(study, columns, most) if all(columns.params[name][place] is not None for name in names)
    ]
    return found | {
        "numbers": [columns.numbers[place] for place in places],
        "values": [columns.values[place] for place in places],
        "parameters": [_parameter(columns, name, places) for name in names],
    }


def _parameter(columns: StudyColumns, name: str, places: Sequence[int]) -> Mapping[str, Any]:
    return {
        "name": name,
        **fields_of(columns.distributions[name]),
        "chosen": [columns.params[name][place] for place in places],
    }


def _told(study: StudySummary, columns: StudyColumns, most: int) -> list[int]:
    """The places of complete trials with a finite value, by number."""
    places = [
        place
        for place, (state, value) in enumerate(zip(columns.states, columns.values, strict=True))
        if state == TrialState.COMPLETE and math.isfinite(value)
    ]
    if len(places) <= most:
        return places
    sign = -1.0 if study.directions[0] == "maximize" else 1.0
    best = sorted(places, key=lambda place: sign * columns.values[place])[: most // 2]
    rest = sorted(set(places) - set(best))
    return sorted({*best, *thinned(rest, most - len(best))})
