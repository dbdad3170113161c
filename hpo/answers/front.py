"""Which trials of several objectives does no other beat? The answer of `hpo front` as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from hpo.studies.front import Front, Objective, Point


class FrontPoint(TypedDict):
    """A complete trial of several objectives."""

    number: int
    values: dict[str, float]  # by metric
    params: Mapping[str, Any]


class FrontFound(TypedDict):
    """The trials of a study that no other beats in everything."""

    study: str
    objectives: list[Objective]
    front: list[FrontPoint]
    beaten: list[FrontPoint]
    left_out: int  # complete, but without all values


def front_fields(found: Front) -> FrontFound:
    """A front as plain data."""
    return {
        "study": found.study,
        "objectives": list(found.objectives),
        "front": [_fields(found, point) for point in found.points],
        "beaten": [_fields(found, point) for point in found.beaten],
        "left_out": found.left_out,
    }


def _fields(found: Front, point: Point) -> FrontPoint:
    values = {each.metric: value for each, value in zip(found.objectives, point.values, strict=True)}
    return {"number": point.number, "values": values, "params": point.params}
