"""Does each optimizer, by its name, go downhill, and take the options that it says?"""

from __future__ import annotations

import re

import pytest
import torch

from trainers.errors import ParameterMismatchError
from trainers.optimization.optimizers import OPTIMIZERS, chosen_options, make_optimizer

STEPS = 20


def quadratic(weights: torch.Tensor) -> torch.Tensor:
    """With its minimum at 0, and curvatures 1 and 10."""
    return (weights**2 * torch.tensor([1.0, 10.0])).sum()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_quadratic(name: str) -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = make_optimizer(name, [weights])
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = quadratic(weights)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    losses.append(float(quadratic(weights.detach())))
    assert losses[1] < losses[0]
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_reaches_the_optimizer(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.ones(2, 2))]
    options = {option: value / 2 if value else 0.25 for option, value in OPTIMIZERS[name].options.items()}
    (group,) = make_optimizer(name, parameters, **options).param_groups
    told = {**group, **dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))}
    assert {option: told[option] for option in options} == pytest.approx(options)


def test_groups_of_parameters_keep_their_own_options() -> None:
    first, second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    groups = make_optimizer("adamw", [{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1).param_groups
    assert [group["lr"] for group in groups] == [0.1, 0.5]


def test_nesterov_looks_ahead_and_plain_sgd_has_no_momentum() -> None:
    parameters = [torch.nn.Parameter(torch.ones(1))]
    assert make_optimizer("nesterov", parameters).param_groups[0]["nesterov"]
    assert make_optimizer("sgd", parameters).param_groups[0]["momentum"] == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamww", {}, "there is no optimizer 'adamww'; did you mean 'adamw'?"),
        ("zzz", {}, "there is no optimizer 'zzz'; choose from sgd, momentum, nesterov, adagrad"),
        ("adam", {"beta3": 0.9}, "optimizer adam has no option 'beta3'; did you mean"),
        ("lion", {"rho": 0.9}, "optimizer lion has no option 'rho'; choose from lr, beta1, beta2, weight_decay"),
    ],
)
def test_what_there_is_not(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterMismatchError, match=re.escape(message)):
        make_optimizer(name, [torch.nn.Parameter(torch.ones(1))], **options)


def test_the_options_of_what_was_chosen() -> None:
    config = {
        "optimizer": "adamw",
        "optimizer.adamw.lr": 0.1,
        "optimizer.sgd.lr": 0.2,
        "width": 3,
        "schedule": "cosine",
    }
    assert chosen_options("optimizer", config) == {"lr": 0.1}
    assert chosen_options("schedule", config) == {}
