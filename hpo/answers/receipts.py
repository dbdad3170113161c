"""Why was a trial proposed, and did what was predicted come true? The answer of `hpo explain` as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from hpo.answers.plain import Number
from hpo.statistics.rates import rate_interval
from hpo.tuning.prune_reasons import halving_reason_of, reason_of
from hpo.tuning.receipts import Receipt, fell_inside, receipt_of
from storage.history import StudySummary, TrialRecord


class LeansOn(TypedDict):
    """How much a past study counts in a proposal."""

    study: str
    weight: float


class ProposalReason(TypedDict):
    """Why a trial was proposed and pruned, and whether what was predicted came true."""

    number: int
    state: str
    value: Number
    proposer: str  # hindsight, user, another sampler, unknown
    role: str | None
    role_text: str
    why: str | None
    predicted: Number
    interval90: tuple[float, float] | None  # of the next value
    best_case: Number  # with 5% the value is better than this, noise left out
    inside: bool | None  # whether the value fell into the interval
    improvement_probability: Number
    incumbent: Number  # the best value when it was proposed
    history_weight: Number  # 0 to 1
    leans_on: list[LeansOn]
    without_history: Mapping[str, Any] | None  # what would have been tried
    pending: int | None  # trials that ran beside it
    seconds: Number  # that the proposal took
    cost: str | None  # what a trial costs, where that counts: seconds, or a user attribute
    predicted_cost: Number
    cost_interval90: tuple[float, float] | None
    ignored: tuple[str, ...]  # sentences: what of the history did not count, and why
    pruned_because: dict[str, Any] | None


class TrialReason(ProposalReason):
    """The same of one trial, with what it is of."""

    study: str
    metric: str | None
    params: Mapping[str, Any]


class IntervalsRight(TypedDict):
    """How many values fell inside their intervals."""

    inside: int
    judged: int
    share: Number
    share_interval95: tuple[float, float] | None


class StudyReasons(TypedDict):
    """Why the trials of a study were proposed."""

    study: str
    metric: str | None
    interval90: IntervalsRight
    trials: list[ProposalReason]


def trial_explanation(study: StudySummary, trial: TrialRecord) -> TrialReason:
    """One trial of a study."""
    reason = receipt_fields(receipt_of(study, trial), trial)
    return {"study": study.name, "metric": study.metric, "params": trial.params, **reason}


def study_explanation(study: StudySummary, trials: Sequence[TrialRecord]) -> StudyReasons:
    """All trials of a study, and how often the value fell into its interval."""
    receipts = [receipt_of(study, trial) for trial in trials]
    judged = [fell_inside(receipt, trial) for receipt, trial in zip(receipts, trials, strict=True)]
    inside, total = sum(verdict is True for verdict in judged), sum(verdict is not None for verdict in judged)
    calibration: IntervalsRight = {
        "inside": inside,
        "judged": total,
        "share": inside / total if total else None,
        "share_interval95": rate_interval(inside, total) if total else None,
    }
    rows = [receipt_fields(receipt, trial) for receipt, trial in zip(receipts, trials, strict=True)]
    return {"study": study.name, "metric": study.metric, "interval90": calibration, "trials": rows}


def receipt_fields(receipt: Receipt, trial: TrialRecord) -> ProposalReason:
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
