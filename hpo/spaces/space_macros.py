"""What do `type: optimizer` and `type: schedule` in a search space stand for?

    space:
      optimizer: {type: optimizer, choices: [sgd, adamw, lion]}

is a categorical parameter `optimizer` with these choices and, for each, the parameters that it has, such as
`optimizer.adamw.lr`, active where that optimizer is chosen. A range that the user writes for one of these names wins,
and further options of an optimizer (`optimizer.adamw.beta2`) may be added in the same way. What the names and options
mean is in `trainers.optimization.optimizers` and `trainers.optimization.schedules`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from hpo.errors import SpaceError

Range = dict[str, Any]


def _log(low: float, high: float) -> Range:
    return {"type": "float", "low": low, "high": high, "log": True}


def _linear(low: float, high: float) -> Range:
    return {"type": "float", "low": low, "high": high}


# The bounds are heuristic: two decades on each side of the defaults and of usual values, about as wide as the spaces of
# Schmidt et al., Descending through a Crowded Valley, ICML 2021. Weight decay as a penalty is around 5e-4 as a rule,
# decoupled around .01 (Loshchilov and Hutter, ICLR 2019); Lion wants learning rates 3 to 10 times smaller than AdamW's,
# and weight decays as much larger (Chen et al., NeurIPS 2023).
_PENALTY = _log(1e-6, 1e-2)
_SGD = {"lr": _log(1e-4, 1.0), "momentum": _linear(0.5, 0.99), "weight_decay": _PENALTY}
_ADAM = {"lr": _log(1e-5, 1e-1), "weight_decay": _PENALTY}
OPTIMIZER_RANGES: dict[str, dict[str, Range]] = {
    "sgd": {**_SGD, "momentum": _linear(0.0, 0.99)},
    "momentum": _SGD,
    "nesterov": _SGD,
    "adagrad": {"lr": _log(1e-4, 1.0), "weight_decay": _PENALTY},
    "rmsprop": {"lr": _log(1e-5, 1e-1), "alpha": _linear(0.8, 0.999), "weight_decay": _PENALTY},
    "adadelta": {"lr": _log(1e-2, 10.0), "rho": _linear(0.8, 0.99), "weight_decay": _PENALTY},
    "adafactor": {"lr": _log(1e-4, 1e-1), "weight_decay": _PENALTY},
    "adam": _ADAM,
    "adamax": _ADAM,
    "adamw": {"lr": _log(1e-5, 1e-1), "weight_decay": _log(1e-4, 0.5)},
    "nadam": _ADAM,
    "radam": _ADAM,
    "lion": {"lr": _log(1e-6, 1e-2), "weight_decay": _log(1e-3, 5.0)},
}
# Shares of the training (heuristic): warm-up of 5% is usual, and 30% of one cycle is torch's default.
_WARMUP = _log(0.01, 0.2)
SCHEDULE_RANGES: dict[str, dict[str, Range]] = {
    "constant": {},
    "step": {"gamma": _log(0.05, 0.5), "drops": {"type": "int", "low": 1, "high": 3}},
    "cosine": {},
    "one_cycle": {"warmup": _linear(0.1, 0.5)},
    "warmup": {"warmup": _WARMUP},
    "warmup_cosine": {"warmup": _WARMUP},
}
RANGES = {"optimizer": OPTIMIZER_RANGES, "schedule": SCHEDULE_RANGES}
DEFAULT_CHOICES = {
    "optimizer": ["nesterov", "adamw", "lion"],  # of each kind, momentum, adaptive and sign, one that does well
    "schedule": ["constant", "cosine", "one_cycle", "warmup_cosine"],
}
KEYS = ("type", "choices", "when", "likely")


def expand(space: Mapping[str, Any]) -> dict[str, Any]:
    """The space without the two types: parameters as in a study file. Raises SpaceError."""
    expanded: dict[str, Any] = {}
    for name, fields in space.items():
        kind = fields.get("type") if isinstance(fields, Mapping) else None
        if not isinstance(kind, str) or kind not in RANGES:
            expanded[name] = _with_condition(name, fields, space)
            continue
        choices = _choices(name, kind, fields)
        expanded[name] = {**fields, "type": "categorical", "choices": choices}
        for choice in choices:
            for option, given in RANGES[kind][choice].items():
                inner = f"{kind}.{choice}.{option}"
                expanded.setdefault(inner, _with_condition(inner, space.get(inner, given), space))
    return expanded


def _choices(name: str, kind: str, fields: Mapping[str, Any]) -> list[str]:
    if name != kind:
        raise SpaceError(f"space.{name}: a parameter of type {kind} is called `{kind}`")
    for key in fields:
        if key not in KEYS:
            raise SpaceError(f"space.{name}.{key}: unknown key; known here: {', '.join(KEYS)}")
    choices = fields.get("choices", DEFAULT_CHOICES[kind])
    if not isinstance(choices, list) or not choices:
        raise SpaceError(f"space.{name}.choices: must be a list, as in [{', '.join(DEFAULT_CHOICES[kind])}]")
    for choice in choices:
        if not isinstance(choice, str) or choice not in RANGES[kind]:
            near = difflib.get_close_matches(str(choice), RANGES[kind], n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(RANGES[kind])}"
            raise SpaceError(f"space.{name}.choices: there is no {kind} {choice!r}; {advice}")
    return choices


def _with_condition(name: str, fields: Any, space: Mapping[str, Any]) -> Any:
    """A parameter of one choice, such as `optimizer.adamw.lr`, is active where that is chosen, whoever wrote it."""
    kind, choice, *options = [*str(name).split("."), ""]
    chosen = space.get(kind)
    is_chosen = kind in RANGES and isinstance(chosen, Mapping) and chosen.get("type") == kind
    if not is_chosen or len(options) != 2 or not isinstance(fields, Mapping) or "when" in fields:
        return fields
    return {**fields, "when": {kind: [choice]}}
