"""Do `type: optimizer` and `type: schedule` become the parameters that they promise?"""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import SpaceError, SpecError
from hpo.spaces.space import SearchSpace
from hpo.spaces.space_macros import DEFAULT_CHOICES, RANGES, expand
from hpo.studies.study_file import parse_spec


def test_an_optimizer_is_a_choice_with_the_parameters_of_each() -> None:
    space = SearchSpace.from_json(expand({"optimizer": {"type": "optimizer", "choices": ["sgd", "lion"]}}))
    assert list(space.distributions) == [
        "optimizer",
        *[f"optimizer.sgd.{option}" for option in ("lr", "momentum", "weight_decay")],
        *[f"optimizer.lion.{option}" for option in ("lr", "weight_decay")],
    ]
    assert space.is_active("optimizer.sgd.momentum", {"optimizer": "sgd"})
    assert not space.is_active("optimizer.sgd.momentum", {"optimizer": "lion"})


def test_what_the_user_writes_wins_and_is_active_where_it_belongs() -> None:
    mine = {"type": "float", "low": 0.1, "high": 0.2}
    space = expand(
        {
            "optimizer.adamw.lr": mine,  # before the choice, and after
            "optimizer": {"type": "optimizer", "choices": ["adamw"]},
            "optimizer.adamw.beta2": mine,
            "width": mine,
        }
    )
    when = {"optimizer": ["adamw"]}
    assert space["optimizer.adamw.lr"] == space["optimizer.adamw.beta2"] == {**mine, "when": when}
    assert space["optimizer.adamw.weight_decay"]["when"] == when
    assert space["width"] == mine


def test_choices_may_be_left_out() -> None:
    space = expand({"optimizer": {"type": "optimizer"}, "schedule": {"type": "schedule"}})
    assert space["optimizer"]["choices"] == DEFAULT_CHOICES["optimizer"]
    assert space["schedule"] == {"type": "categorical", "choices": DEFAULT_CHOICES["schedule"]}
    assert space["schedule.one_cycle.warmup"]["when"] == {"schedule": ["one_cycle"]}


def test_other_spaces_stay_as_they_are() -> None:
    space = {"optimizer": {"type": "categorical", "choices": ["sgd"]}, "model.width": {"type": "int"}, "lr": None}
    assert expand(space) == space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim": {"type": "optimizer"}}, "space.optim: a parameter of type optimizer is called `optimizer`"),
        ({"optimizer": {"type": "optimizer", "low": 1}}, "space.optimizer.low: unknown key; known here: type, choices"),
        ({"optimizer": {"type": "optimizer", "choices": "sgd"}}, r"must be a list, as in \[nesterov, adamw, lion\]"),
        (
            {"optimizer": {"type": "optimizer", "choices": ["adamm"]}},
            "there is no optimizer 'adamm'; did you mean 'adam'",
        ),
        (
            {"schedule": {"type": "schedule", "choices": ["up"]}},
            "there is no schedule 'up'; choose from constant, step",
        ),
        ({"optimizer": {"type": "optimizer", "choices": [["sgd"]]}}, r"there is no optimizer \['sgd'\]"),
    ],
)
def test_what_makes_no_sense(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        expand(space)


def study(**space: Any) -> dict[str, Any]:
    return {
        "study": "s",
        "task": {"name": "t", "metric": "val_loss", "direction": "minimize"},
        "trainer": {"model": "m.Net", "max_epochs": 2},
        "space": space,
        "budget": {"trials": 2},
    }


def test_a_study_file_knows_them_and_says_what_is_wrong() -> None:
    spec = parse_spec(study(optimizer={"type": "optimizer", "choices": ["sgd"]}))
    assert set(spec.space) == {"optimizer", "optimizer.sgd.lr", "optimizer.sgd.momentum", "optimizer.sgd.weight_decay"}
    with pytest.raises(SpecError, match=r"study:3: space.optimizer.choices: there is no optimizer 'sdg'"):
        parse_spec(
            study(optimizer={"type": "optimizer", "choices": ["sdg"]}), lines={("space",): 2, ("space", "optimizer"): 3}
        )
    fixed: dict[Any, Any] = {"optimizer": "adamw", "optimizer.adamw.lr": {"type": "float", "low": 0.1, "high": 0.2}}
    for odd in (fixed, {1: {"type": "float"}}, {"x": {"type": ["float"]}}):
        with pytest.raises(SpecError, match=r"study: space\.(optimizer|1|x)"):
            parse_spec({**study(), "space": odd})
    with pytest.raises(SpecError, match=r"optimizer is never 'adam'; it is one of sgd"):
        parse_spec(
            study(
                **{
                    "optimizer": {"type": "optimizer", "choices": ["sgd"]},
                    "optimizer.adam.lr": {"type": "float", "low": 0.1, "high": 0.2},
                }
            )
        )


@pytest.mark.parametrize("kind", RANGES)
def test_every_range_is_of_an_option_that_there_is(kind: str) -> None:
    from trainers.optimization.optimizers import OPTIMIZERS
    from trainers.optimization.schedules import SCHEDULES

    known: Any = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}[kind]
    assert set(RANGES[kind]) == set(known)
    assert all(set(options) <= set(known[name].options) for name, options in RANGES[kind].items())
    SearchSpace.from_json(expand({kind: {"type": kind, "choices": list(RANGES[kind])}}))
    for name, options in RANGES[kind].items():
        for option, given in options.items():
            default = known[name].options[option]
            assert default == 0 or given["low"] <= default <= given["high"], (name, option)
