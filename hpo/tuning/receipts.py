"""Why was a trial proposed, and did what was predicted come true? Receipts, as they were kept with the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from optuna.trial import TrialState
from typing_extensions import TypedDict

from storage.history import StudySummary, TrialRecord
from storage.trial_costs import SECONDS

if TYPE_CHECKING:
    from hpo.tuning.proposals import Proposal

RECEIPT = "hindsight:receipt"  # the trial system attribute of `hpo.tuning.sampler`
ENQUEUED = "fixed_params"  # that of Optuna for what a user enqueued
OWN_SOURCES = ("hindsight", "optuna")  # programs that propose; the others were imported as they went

Proposer: TypeAlias = Literal["hindsight", "user", "another sampler", "unknown"]


class KeptSource(TypedDict):
    """A study that a proposal leans on, as it is kept."""

    study: str
    weight: float  # 0 to 1


class KeptReceipt(TypedDict, total=False):
    """A receipt as it is kept with its trial: see `Receipt`. What older versions have kept has fewer fields."""

    role: str
    predicted: float | None
    interval90: list[float] | None
    best_case: float | None
    incumbent: float | None
    improvement_probability: float | None
    history_weight: float | None
    pending: int | None
    leans_on: list[KeptSource]
    without_history: dict[str, Any] | None
    seconds: float
    cost: str | None  # the last three only where a trial's cost counts
    predicted_cost: float | None
    cost_interval90: Sequence[float] | None
    ignored: list[str]
    why: str | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A study that a proposal leans on."""

    study: str
    weight: float  # 0 to 1


ROLES = {
    "portfolio": "portfolio: one of the few points that together do well on past studies",
    "exploit": "exploit: the largest improvement is expected here",
    "explore": "explore: little is known here",
    "safety": "safety: chosen by this study's own trials, in case the past misleads",
    "feasible": "feasible: no trial has kept the constraints yet, and this one is the likeliest to",
    "front": "front: the largest gain of all objectives together is expected here",
    "start": "start: a first point that fills the space, without history",
    "guess": "guess: parameter by parameter, for the space was not known yet",
    "gaussian_process": "model: the largest improvement is expected here",
    "cold_start": "start: a first point that fills the space, without history",
}


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is known about the proposal of a trial; nothing of it may be known."""

    proposer: Proposer
    role: str | None
    why: str | None
    predicted: float | None
    interval90: tuple[float, float] | None  # of the next value
    best_case: float | None  # with 5% the value is better than this, noise left out
    improvement_probability: float | None
    incumbent: float | None  # the best value when it was proposed
    history_weight: float | None  # 0 to 1
    leans_on: tuple[tuple[str, float], ...]  # studies and their weights
    without_history: Mapping[str, Any] | None
    pending: int | None  # trials that ran beside it
    seconds: float | None  # that the proposal took
    cost: str | None  # what a trial costs, where that counts: seconds, or a user attribute
    predicted_cost: float | None
    cost_interval90: tuple[float, float] | None  # of the trial's cost
    ignored: tuple[str, ...]  # sentences: what of the history did not count, and why

    @property
    def role_text(self) -> str:
        """The role in words."""
        if self.role is not None:
            return ROLES.get(self.role, self.role)
        return {
            "user": "enqueued by you",
            "another sampler": "proposed by another sampler, which leaves no receipt",
            "unknown": "recorded elsewhere and imported; who proposed it is not known",
            "hindsight": "proposed by Hindsight, which has not said why",
        }[self.proposer]


def receipt(
    proposal: Proposal,
    *,
    sign: float,
    leans_on: Sequence[Source],
    without_history: Mapping[str, Any] | None,
    cost: str | None,
    ignored: Sequence[str],
) -> dict[str, Any]:
    """A proposal as it is kept with its trial, as `KeptReceipt` says.

    sign: of the metric against its loss. cost: what a trial costs.
    """

    def raw(loss: float | None) -> float | None:
        return None if loss is None else sign * loss

    interval = proposal.interval90
    chance, weight = proposal.improvement_probability, proposal.history_weight
    predicted_cost, cost_interval = proposal.cost or (None, None)
    priced: KeptReceipt = {"cost": cost, "predicted_cost": predicted_cost, "cost_interval90": cost_interval}
    kept: KeptReceipt = {
        "role": proposal.role,
        "predicted": raw(proposal.predicted),
        "interval90": None if interval is None else sorted(sign * end for end in interval),
        "best_case": raw(proposal.best_case),
        "incumbent": raw(proposal.incumbent),
        "improvement_probability": None if chance is None else round(chance, 4),
        "history_weight": None if weight is None else round(weight, 4),
        "pending": proposal.pending,
        "leans_on": [
            {"study": source.study, "weight": round(source.weight, 4)}
            for source in sorted(leans_on, key=lambda source: -source.weight)
        ],
        "without_history": None if without_history is None else dict(without_history),
        "seconds": round(proposal.seconds, 4),
        "ignored": list(ignored),
        "why": proposal.why,
    }
    return {**kept, **(priced if predicted_cost is not None else {})}


def receipt_of(study: StudySummary, trial: TrialRecord) -> Receipt:
    """The receipt of a trial; fields that do not read as what they should be are left out."""
    kept = trial.system_attrs.get(RECEIPT)
    content: Mapping[str, Any] = kept if isinstance(kept, Mapping) else {}
    without = content.get("without_history")
    pending = _number(content.get("pending"))
    return Receipt(
        proposer=_proposer(study, trial, has_receipt=bool(content)),
        role=_text(content.get("role")) or _text(content.get("kind")),
        why=_text(content.get("why")),
        predicted=_number(content.get("predicted")),
        interval90=_interval(content.get("interval90")),
        best_case=_number(content.get("best_case")),
        improvement_probability=_number(content.get("improvement_probability")),
        incumbent=_number(content.get("incumbent")),
        history_weight=_number(content.get("history_weight")),
        leans_on=tuple(_sources(content.get("leans_on"))),
        without_history=dict(without) if isinstance(without, Mapping) else None,
        pending=None if pending is None else int(pending),
        seconds=_number(content.get("seconds")),
        cost=_text(content.get("cost")),
        predicted_cost=_number(content.get("predicted_cost")),
        cost_interval90=_interval(content.get("cost_interval90")),
        ignored=tuple(filter(None, map(_text, _list(content.get("ignored"))))),
    )


def fell_inside(receipt: Receipt, trial: TrialRecord) -> bool | None:
    """Whether the value fell into the interval; None while it is out, where nothing was predicted, or cut short."""
    if receipt.interval90 is None or trial.state != TrialState.COMPLETE or trial.value is None:
        return None
    return math.isfinite(trial.value) and receipt.interval90[0] <= trial.value <= receipt.interval90[1]


def cost_of(receipt: Receipt, trial: TrialRecord) -> float | None:
    """What a complete trial has cost, by the measure of its receipt; None while, or where, that is not known."""
    if trial.state != TrialState.COMPLETE:
        return None
    if receipt.cost != SECONDS:
        return _number(trial.user_attrs.get(receipt.cost)) if receipt.cost is not None else None
    if trial.started_at is None or trial.finished_at is None:
        return trial.cost_seconds
    return (trial.finished_at - trial.started_at).total_seconds()


def _proposer(study: StudySummary, trial: TrialRecord, *, has_receipt: bool) -> Proposer:
    if ENQUEUED in trial.system_attrs:
        return "user"
    if has_receipt:
        return "hindsight"
    return "another sampler" if study.source in OWN_SOURCES else "unknown"


def _sources(content: Any) -> list[tuple[str, float]]:
    sources = []
    for entry in _list(content):
        if isinstance(entry, Mapping):
            name, weight = _text(entry.get("study")), _number(entry.get("weight"))
            if name is not None and weight is not None:
                sources.append((name, weight))
    return sorted(sources, key=lambda source: -source[1])


def _interval(content: Any) -> tuple[float, float] | None:
    ends = [_number(end) for end in _list(content)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def _number(content: Any) -> float | None:
    is_number = isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content)
    return float(content) if is_number else None


def _text(content: Any) -> str | None:
    return content if isinstance(content, str) and content else None


def _list(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list | tuple) else ()
