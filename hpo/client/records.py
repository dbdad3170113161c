"""What does a service's JSON say of studies, trials and results? The same types that the functions here return.

JSON has no NaN: where a curve has null, there was no number. What the service does not tell, such as the distributions
that a trial was drawn from, is empty.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

from optuna.trial import TrialState
from pydantic import TypeAdapter, ValidationError

from hpo.errors import ServiceError
from hpo.studies.front import Front, Objective, Point
from hpo.tuning.receipts import RECEIPT
from storage.history import StudySummary, TrialRecord
from storage.studies import NOTES_ATTRIBUTE

T = TypeVar("T")


def study_of(told: Mapping[str, Any]) -> StudySummary:
    """A study at a glance."""
    counts = {TrialState[state.upper()]: count for state, count in told["trials"].items()}
    return StudySummary(
        study_id=told["id"],
        name=told["name"],
        task=told["task"],
        metric=told["metric"],
        directions=tuple(told["directions"]),
        objectives=tuple(told["objectives"]),
        family=told["family"],
        source=told["source"],
        counts=dict.fromkeys(TrialState, 0) | counts,
        best=told["best_value"],
        created_at=datetime.fromisoformat(told["created_at"]),
        finished_at=_time(told["finished_at"]),
        space=told.get("space"),
        spec=told.get("spec"),
        mlflow_uri=told.get("mlflow_uri"),
        provenance=told.get("provenance"),
    )


def trial_of(told: Mapping[str, Any]) -> TrialRecord:
    """A trial as it went."""
    known = {NOTES_ATTRIBUTE: told["notes"] or None, RECEIPT: told["receipt"]} | (told.get("system_attrs") or {})
    return TrialRecord(
        trial_id=told.get("id", 0),
        number=told["number"],
        state=TrialState[told["state"].upper()],
        value=told["value"],
        values=tuple(told["values"]),
        params=told["params"],
        distributions={},
        started_at=_time(told["started_at"]),
        finished_at=_time(told["finished_at"]),
        attempt=told["attempt"],
        worker=told.get("worker"),
        cost_seconds=told["cost_seconds"],
        epochs=told["epochs"],
        peak_memory_bytes=told.get("peak_memory_bytes"),
        seed=told["seed"],
        code_version=told.get("code_version"),
        data_fingerprint=told.get("data_fingerprint"),
        hardware=told.get("hardware"),
        checkpoint=told["checkpoint"],
        error=told["error"],
        intermediate_values={
            int(step): math.nan if value is None else value for step, value in told["intermediate_values"].items()
        },
        user_attrs=told.get("user_attrs") or {},
        system_attrs={name: value for name, value in known.items() if value is not None},
    )


def front_of(told: Mapping[str, Any]) -> Front:
    """The front of a study."""
    objectives = [Objective(metric=each["metric"], direction=each["direction"]) for each in told["objectives"]]

    def points(side: str) -> tuple[Point, ...]:
        return tuple(
            Point(
                number=each["number"],
                values=tuple(each["values"][objective.metric] for objective in objectives),
                params=each["params"],
            )
            for each in told[side]
        )

    return Front(
        study=told["study"],
        objectives=tuple(objectives),
        points=points("front"),
        beaten=points("beaten"),
        left_out=told["left_out"],
    )


def result_of(kind: type[T], told: Any) -> T:
    """A result as the dataclass that it was. Raises ServiceError where the service speaks of something else."""
    try:
        found: T = _adapter(cast("Hashable", kind)).validate_python(told)
    except ValidationError as error:
        raise ServiceError(
            f"the service tells of a {kind.__name__} in words that are unknown here ({error.error_count()} of them): "
            "is it of another version?"
        ) from error
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
