"""What do the figures of a study show? Its incumbents, its configurations side by side, its slices, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NotRequired, cast

from optuna.trial import TrialState
from typing_extensions import TypedDict

from hpo.answers.curves import thinned
from hpo.answers.effects import Effects
from hpo.answers.plain import Number
from hpo.answers.plan import Plan
from hpo.errors import SettingsError
from storage.distributions import fields_of
from storage.errors import did_you_mean
from storage.history import StudySummary
from storage.study_columns import StudyColumns


class Course(TypedDict):
    """The best value after each finished trial."""

    study: str
    metric: str
    direction: str
    finished: int
    after: list[int]  # so many trials
    numbers: list[int]  # of the trials that ended then
    incumbent: list[Number]  # null before the first success


class ForetoldCourse(Course):
    """The same, with what was to be expected of it."""

    forecast: Plan | None


class ChosenValues(TypedDict):
    """A parameter as a study file has it, and what trials had of it."""

    name: str
    type: str  # float, int or categorical
    low: NotRequired[float]
    high: NotRequired[float]
    log: NotRequired[bool]
    step: NotRequired[float]
    choices: NotRequired[list[Any]]
    chosen: list[Any]  # null where it did not matter


class Configurations(TypedDict):
    """The configurations of complete trials as columns."""

    study: str
    metric: str
    direction: str
    complete: int  # of which these are some
    numbers: list[int]
    values: list[float]
    parameters: list[ChosenValues]


class Slice(Configurations):
    """The same, with what each range was worth."""

    effects: Effects | None


def course_fields(study: StudySummary, columns: StudyColumns, points: int | None) -> Course:
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


def parallel_fields(study: StudySummary, columns: StudyColumns, most: int) -> Configurations:
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


def slice_fields(study: StudySummary, columns: StudyColumns, names: Sequence[str], most: int) -> Configurations:
    """As `parallel_fields`, for some parameters, of trials that have them all. Raises SettingsError."""
    for name in names:
        if name not in columns.distributions:
            hint = did_you_mean(name, columns.distributions) or f" It has {', '.join(columns.distributions) or 'none'}."
            raise SettingsError(f"no finished trial of {study.name!r} has a parameter {name!r}.{hint}")
    found = parallel_fields(study, columns, most)
    places = [
        place for place in _told(study, columns, most) if all(columns.params[name][place] is not None for name in names)
    ]
    return {
        **found,
        "numbers": [columns.numbers[place] for place in places],
        "values": [columns.values[place] for place in places],
        "parameters": [_parameter(columns, name, places) for name in names],
    }


def _parameter(columns: StudyColumns, name: str, places: Sequence[int]) -> ChosenValues:
    told = {
        "name": name,
        **fields_of(columns.distributions[name]),
        "chosen": [columns.params[name][place] for place in places],
    }
    return cast("ChosenValues", told)


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
