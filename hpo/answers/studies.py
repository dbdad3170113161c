"""What a study is at a glance, as plain data."""

from __future__ import annotations

from typing import Any

from storage.history import StudySummary


def study_fields(summary: StudySummary) -> dict[str, Any]:
    """The fields of a study by name."""
    return {
        "name": summary.name,
        "task": summary.task,
        "family": summary.family,
        "metric": summary.metric,
        "objectives": summary.objectives,
        "directions": summary.directions,
        "source": summary.source,
        "trials": {state.name.lower(): count for state, count in summary.counts.items() if count},
        "best_value": summary.best if len(summary.directions) == 1 else None,
        "created_at": summary.created_at,
        "finished_at": summary.finished_at,
    }
