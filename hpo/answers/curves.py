"""What do learning curves look like, with as many points as can be seen?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from typing_extensions import TypedDict

from hpo.answers.plain import Number
from storage.history import TrialRecord

T = TypeVar("T")


class Curve(TypedDict):
    """What a trial reported along its training."""

    number: int
    state: str
    value: Number
    steps: list[int]
    values: list[Number]
    reported: int  # in all, of which these are some


def curve_fields(trial: TrialRecord, points: int | None = None) -> Curve:
    """A trial's curve. points: at most so many, spread evenly, the first and the last among them."""
    steps, values = thinned_curve(trial.intermediate_values, points)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "steps": steps,
        "values": [*values],
        "reported": len(trial.intermediate_values),
    }


def thinned_curve(curve: Mapping[int, float], points: int | None) -> tuple[list[int], list[float]]:
    """The steps and the values of a curve."""
    steps = thinned(sorted(curve), points)
    return steps, [curve[step] for step in steps]


def thinned(sequence: Sequence[T], points: int | None) -> list[T]:
    """At most so many of a sequence, spread evenly, its ends among them."""
    if points is None or len(sequence) <= points:
        return list(sequence)
    if points == 1:
        return [sequence[-1]]
    return [sequence[place * (len(sequence) - 1) // (points - 1)] for place in range(points)]
