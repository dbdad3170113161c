"""Why was a trial stopped early? The reason that is kept with it, and read again for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

PRUNED_BECAUSE = "hindsight:pruned_because"  # the trial system attribute of `hpo.tuning.pruner`
HALVED_BECAUSE = "hindsight:halved_because"  # that of `hpo.tuning.halving`
NAMED = 8  # past studies that are named at most


@dataclass(frozen=True, kw_only=True)
class PruneReason:
    """What was known when a trial was to be stopped; values are of the metric."""

    step: float  # the last that it had reported
    value: float | None  # there; None if it was no number
    predicted: float  # at its end
    interval90: tuple[float, float]
    incumbent: float  # the best value of a trial that went to its end
    chance: float  # that it would have ended better than the incumbent
    least_chance: float  # below which a trial was stopped then
    false_prunes: float  # the promised rate of studies that lose their best trial
    proven: float  # a rate that is not exceeded if this study is like the past ones; 1 where there are none
    past_studies: int  # that it was learned from
    named: tuple[str, ...]  # some of them

    def to_json(self) -> dict[str, Any]:
        """As it is kept with the trial."""
        return asdict(self) | {"interval90": list(self.interval90), "named": list(self.named[:NAMED])}

    @property
    def sentence(self) -> str:
        """In words, without the values."""
        past = (
            f"what {self.past_studies} past {'study' if self.past_studies == 1 else 'studies'} taught of curves"
            if self.past_studies
            else "what learning curves are like in general (no past study has curves of this metric)"
        )
        promise = f"at most {self.false_prunes:.0%} of studies are to lose their best trial"
        proof = f" (proven: {self.proven:.0%}, if it is like the past ones)" if self.proven < 1.0 else ""
        return f"From {past}, and from this study's own complete trials; {promise}{proof}."


@dataclass(frozen=True, kw_only=True)
class HalvingReason:
    """How a trial stood at a rung where it was to be stopped; the value is of the metric."""

    step: float  # of the rung's report
    value: float | None  # there; None if it was no number
    better: float  # share of all trials that were better there, a few past ones included
    allowed: float  # share that may be
    compared: int  # trials of the study itself
    false_prunes: float  # the promised rate of studies that lose their best trial
    past_studies: int  # that it was learned from
    named: tuple[str, ...]  # some of them

    def to_json(self) -> dict[str, Any]:
        """As it is kept with the trial."""
        return asdict(self) | {"named": list(self.named[:NAMED])}

    @property
    def sentence(self) -> str:
        """In words, without the value."""
        plural = "study" if self.past_studies == 1 else "studies"
        return (
            f"Of {self.compared} other trials there and a few of {self.past_studies} past {plural}, {self.better:.0%} "
            f"were better; from {self.allowed:.0%} on a trial is stopped, as the past's curves have it (at most "
            f"{self.false_prunes:.0%} of studies are to lose their best trial)."
        )


def halving_reason_of(system_attrs: Mapping[str, Any]) -> HalvingReason | None:
    """The reason kept among the system attributes of a trial; None where there is none, or it does not read as one."""
    content = system_attrs.get(HALVED_BECAUSE)
    if not isinstance(content, Mapping) or any(field.name not in content for field in fields(HalvingReason)):
        return None
    numbers = ("step", "better", "allowed", "compared", "false_prunes", "past_studies")
    if not all(_is_number(content[name]) for name in numbers) or not _are(content["named"], _is_text):
        return None
    return HalvingReason(
        step=float(content["step"]),
        value=float(content["value"]) if _is_number(content["value"]) else None,
        better=float(content["better"]),
        allowed=float(content["allowed"]),
        compared=int(content["compared"]),
        false_prunes=float(content["false_prunes"]),
        past_studies=int(content["past_studies"]),
        named=tuple(content["named"]),
    )


def reason_of(system_attrs: Mapping[str, Any]) -> PruneReason | None:
    """The reason kept among the system attributes of a trial; None where there is none, or it does not read as one."""
    content = system_attrs.get(PRUNED_BECAUSE)
    if not isinstance(content, Mapping) or any(field.name not in content for field in fields(PruneReason)):
        return None
    numbers = [
        content[name] for name in ("step", "predicted", "incumbent", "chance", "least_chance", "false_prunes", "proven")
    ]
    interval, named = content["interval90"], content["named"]
    if not (all(map(_is_number, numbers)) and _are(interval, _is_number, 2) and _are(named, _is_text)):
        return None
    return PruneReason(
        step=float(content["step"]),
        value=float(content["value"]) if _is_number(content["value"]) else None,
        predicted=float(content["predicted"]),
        interval90=(float(interval[0]), float(interval[1])),
        incumbent=float(content["incumbent"]),
        chance=float(content["chance"]),
        least_chance=float(content["least_chance"]),
        false_prunes=float(content["false_prunes"]),
        proven=float(content["proven"]),
        past_studies=int(content["past_studies"]) if _is_number(content["past_studies"]) else 0,
        named=tuple(named),
    )


def _is_number(content: Any) -> bool:
    return isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content)


def _is_text(content: Any) -> bool:
    return isinstance(content, str)


def _are(content: Any, kind: Any, length: int | None = None) -> bool:
    is_list = isinstance(content, Sequence) and not isinstance(content, str)
    return is_list and all(map(kind, content)) and length in (None, len(content))
