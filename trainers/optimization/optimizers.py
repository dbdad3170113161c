"""Which optimizer does a name mean, and which options does it take?

Every option has one name throughout: `lr`, `momentum`, `weight_decay` (decoupled in AdamW and Lion, a penalty on the
squared weights elsewhere), `beta1` and `beta2`, and those that only one optimizer has. The ranges to search are in
`hpo.spaces.space_macros`. Muon is not among them: it is for the matrices of hidden layers only, and which those are
cannot be told from the parameters of a network.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, optim

from trainers.errors import ParameterMismatchError

BETAS = ("beta1", "beta2")  # one argument, `betas`, of the classes


@dataclass(frozen=True, kw_only=True)
class _Optimizer:
    make: Callable[..., optim.Optimizer]
    options: Mapping[str, float]  # with their defaults
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _lion(parameters: Any, **options: Any) -> optim.Optimizer:
    """Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023; torch has no Lion."""
    from pytorch_optimizer import Lion  # noqa: PLC0415  almost a second, for those who want it

    return Lion(parameters, **options)


# The defaults are those of torch and, for Lion, of its paper.
OPTIMIZERS: dict[str, _Optimizer] = {
    "sgd": _Optimizer(make=optim.SGD, options={"lr": 1e-2, "momentum": 0.0, "weight_decay": 0.0}),
    "momentum": _Optimizer(make=optim.SGD, options={"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.0}),
    "nesterov": _Optimizer(
        make=optim.SGD, options={"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.0}, fixed={"nesterov": True}
    ),
    "adagrad": _Optimizer(make=optim.Adagrad, options={"lr": 1e-2, "lr_decay": 0.0, "weight_decay": 0.0}),
    "rmsprop": _Optimizer(
        make=optim.RMSprop, options={"lr": 1e-2, "alpha": 0.99, "momentum": 0.0, "eps": 1e-8, "weight_decay": 0.0}
    ),
    "adadelta": _Optimizer(make=optim.Adadelta, options={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}),
    "adafactor": _Optimizer(make=optim.Adafactor, options={"lr": 1e-2, "beta2_decay": -0.8, "weight_decay": 0.0}),
    "adam": _Optimizer(
        make=optim.Adam, options={"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    ),
    "adamax": _Optimizer(
        make=optim.Adamax, options={"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    ),
    "adamw": _Optimizer(
        make=optim.AdamW, options={"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2}
    ),
    "nadam": _Optimizer(
        make=optim.NAdam, options={"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    ),
    "radam": _Optimizer(
        make=optim.RAdam, options={"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    ),
    "lion": _Optimizer(make=_lion, options={"lr": 1e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}),
}


def make_optimizer(
    name: str, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], **options: float
) -> optim.Optimizer:
    """The optimizer of that name, e.g. `make_optimizer("adamw", self.parameters(), lr=1e-3, weight_decay=0.01)`.

    parameters: tensors, or groups of them as torch takes. Options left out have the defaults of `OPTIMIZERS`.
    Raises ParameterMismatchError for a name or an option that there is not.
    """
    check_options(name, options)
    kind = OPTIMIZERS[name]
    given = {**kind.options, **options}
    arguments: dict[str, Any] = {option: value for option, value in given.items() if option not in BETAS}
    if "beta1" in given:
        arguments["betas"] = (given["beta1"], given["beta2"])
    return kind.make(parameters, **arguments, **kind.fixed)


def chosen_options(role: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of what a configuration chose: where its `optimizer` is adamw, those of `optimizer.adamw.`.

    role: `optimizer` or `schedule`: `make_optimizer(config["optimizer"], ..., **chosen_options("optimizer", config))`.
    """
    start = f"{role}.{config[role]}."
    return {name.removeprefix(start): value for name, value in config.items() if name.startswith(start)}


def check_options(name: str, options: Iterable[str]) -> None:
    """Whether there is an optimizer of that name with these options. Raises ParameterMismatchError."""
    check_choice("optimizer", name, options, {each: kind.options for each, kind in OPTIMIZERS.items()})


def check_choice(what: str, name: str, options: Iterable[str], known: Mapping[str, Iterable[str]]) -> None:
    """Whether a name is known, and has these options. Raises ParameterMismatchError."""
    if name not in known:
        raise ParameterMismatchError(f"there is no {what} {name!r}; {nearest(name, known)}")
    for option in options:
        if option not in known[name]:
            raise ParameterMismatchError(f"{what} {name} has no option {option!r}; {nearest(option, known[name])}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice for a name that is none of the known ones."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known) or 'none'}"
