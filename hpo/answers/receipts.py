"""Why was a trial proposed, and did what was predicted come true? The answer of `hpo explain` as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpo.statistics.rates import rate_interval
from hpo.tuning.prune_reasons import halving_reason_of, reason_of
from hpo.tuning.receipts import Receipt, fell_inside, receipt_of
from storage.history import StudySummary, TrialRecord


def trial_explanation(study: StudySummary, trial: TrialRecord) -> dict[str, Any]:
    """One trial of a study."""
    said = {"study": study.name, "metric": study.metric, "params": trial.params}
    return said | receipt_fields(receipt_of(study, trial), trial)


def study_explanation(study: StudySummary, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """All trials of a study, and how often the value fell into its interval."""
    receipts = [receipt_of(study, trial) for trial in trials]
    judged = [fell_inside(receipt, trial) for receipt, trial in zip(receipts, trials, strict=True)]
    inside, total = sum(verdict is True for verdict in judged), sum(verdict is not None for verdict in judged)
    calibration = {
        "inside": inside,
        "judged": total,
        "share": inside / total if total else None,
        "share_interval95": rate_interval(inside, total) if total else None,
    }
    rows = [receipt_fields(receipt, trial) for receipt, trial in zip(receipts, trials, strict=True)]
    return {"study": study.name, "metric": study.metric, "interval90": calibration, "trials": rows}


def receipt_fields(receipt: Receipt, trial: TrialRecord) -> dict[str, Any]:
    """The receipt of a trial, and how it came out."""
    reason = reason_of(trial.system_attrs) or halving_reason_of(trial.system_attrs)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "proposer": receipt.proposer,
        "role": receipt.role,
        "role_text": receipt.role_text,
        "why": receipt.why,
        "predicted": receipt.predicted,
        "interval90": receipt.interval90,
        "best_case": receipt.best_case,
        "inside": fell_inside(receipt, trial),
        "improvement_probability": receipt.improvement_probability,
        "incumbent": receipt.incumbent,
        "history_weight": receipt.history_weight,
        "leans_on": [{"study": name, "weight": weight} for name, weight in receipt.leans_on],
        "without_history": receipt.without_history,
        "pending": receipt.pending,
        "seconds": receipt.seconds,
        "cost": receipt.cost,
        "predicted_cost": receipt.predicted_cost,
        "cost_interval90": receipt.cost_interval90,
        "ignored": receipt.ignored,
        "pruned_because": None if reason is None else reason.to_json(),
    }
