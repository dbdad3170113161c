"""Which trials of several objectives does no other beat? The answer of `hpo front` as plain data."""

from __future__ import annotations

from typing import Any

from hpo.studies.front import Front, Point


def front_fields(found: Front) -> dict[str, Any]:
    """A front as plain data."""
    return {
        "study": found.study,
        "objectives": [{"metric": each.metric, "direction": each.direction} for each in found.objectives],
        "front": [_fields(found, point) for point in found.points],
        "beaten": [_fields(found, point) for point in found.beaten],
        "left_out": found.left_out,
    }


def _fields(found: Front, point: Point) -> dict[str, Any]:
    values = {each.metric: value for each, value in zip(found.objectives, point.values, strict=True)}
    return {"number": point.number, "values": values, "params": point.params}
