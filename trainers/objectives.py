"""What do the further objectives of a trial come to, beside its metric?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from trainers.job import FitJob, Outcome
from trainers.reports import FitError


def with_further_values(outcome: Outcome, job: FitJob, measured: Mapping[str, float]) -> Outcome:
    """The outcome with the values of `job.against`: what was measured of the best model, or what the trial cost.

    A pruned trial has none. Raises FitError where one is missing or not finite.
    """
    if outcome.pruned:
        return outcome
    costs = {
        "seconds": outcome.seconds,
        "epochs": float(outcome.epochs),
        "peak_memory_bytes": float(outcome.peak_memory_bytes),
    }
    return replace(outcome, more_values=tuple(finite(name, {**costs, **measured}) for name in job.against))


def finite(name: str, measured: Mapping[str, float]) -> float:
    """A number by its name. Raises FitError where it is missing or not finite."""
    if name not in measured:
        there = ", ".join(sorted(measured)) or "nothing"
        raise FitError("missing_metric", f"{name} was not measured of the best epoch's model; there are: {there}")
    if not math.isfinite(measured[name]):
        raise FitError("nan", f"{name} of the best epoch's model is {measured[name]}")
    return measured[name]
