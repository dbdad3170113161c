"""Which constructor takes which parameter?"""

from __future__ import annotations

from typing import Any

import lightning
import pytest

from trainers.errors import ParameterMismatchError
from trainers.job import TrainerConfig
from trainers.optimization.chosen import Choice, Optimization
from trainers.programs.build import Arguments, build, check_names, route
from trainers.programs.imports import UserClasses


class Model(lightning.LightningModule):
    def __init__(self, width: int, *, lr: float = 0.1) -> None:
        super().__init__()
        self.width = width


class Open(lightning.LightningModule):
    def __init__(self, lr: float = 0.1, **rest: Any) -> None:
        super().__init__()


class Data(lightning.LightningDataModule):
    def __init__(self, batch_size: int = 8, lr: float = 0.0) -> None:
        super().__init__()
        self.batch_size = batch_size


BOTH = UserClasses(model=Model, data=Data)


def config(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"model": "m.Model", "data": "m.Data", "max_epochs": 1, **changes})


def test_a_bare_name_goes_to_all_that_name_it() -> None:
    arguments = route(BOTH, config(), {"width": 3, "lr": 0.5, "batch_size": 16})
    assert arguments == Arguments(model={"width": 3, "lr": 0.5}, data={"lr": 0.5, "batch_size": 16}, trainer={})


def test_a_prefix_names_the_constructor() -> None:
    arguments = route(BOTH, config(), {"model.width": 3, "model.lr": 0.5, "data.lr": 1.0, "trainer.max_epochs": 2})
    assert arguments == Arguments(model={"width": 3, "lr": 0.5}, data={"lr": 1.0}, trainer={"max_epochs": 2})


def test_what_nobody_names_goes_to_the_rest_of_the_model() -> None:
    arguments = route(UserClasses(model=Open, data=Data), config(), {"depth": 3, "batch_size": 16})
    assert arguments.model == {"depth": 3}
    assert arguments.data == {"batch_size": 16}


def test_a_parameter_wins_over_a_fixed_argument() -> None:
    arguments = route(BOTH, config(model_args={"width": 3, "lr": 1.0}, data_args={"batch_size": 2}), {"lr": 0.5})
    assert arguments == Arguments(model={"width": 3, "lr": 0.5}, data={"batch_size": 2, "lr": 0.5}, trainer={})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depth": 3}, "parameter 'depth': the model takes `width`, `lr`, the data module takes `batch_size`, `lr`"),
        ({"model.depth": 3}, "parameter 'model.depth', but the model takes `width`, `lr`"),
        ({"trainer.depth": 3}, "parameter 'trainer.depth', but the Trainer takes `accelerator`"),
        ({"trainer.gradient_clip": 3}, "parameter 'trainer.gradient_clip'; did you mean `gradient_clip_val`"),
        ({"trainer.devices": 2}, "'trainer.devices', which a study cannot set: set `trainer.devices`"),
        ({"lr": 0.1}, "Model needs `width`: add it to the space or to `model.init_args`"),
    ],
)
def test_a_mismatch_says_what_would_be_right(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterMismatchError, match=message):
        route(BOTH, config(), params)


def test_without_a_data_module_nothing_goes_to_it() -> None:
    classes = UserClasses(model=Model, data=None)
    with pytest.raises(ParameterMismatchError, match=r"'data.batch_size', but the study has no data module"):
        route(classes, config(), {"width": 1, "data.batch_size": 2})
    with pytest.raises(ParameterMismatchError, match="parameter 'batch_size': the model takes `width`, `lr`;"):
        route(classes, config(), {"width": 1, "batch_size": 2})


def test_names_can_be_checked_before_there_are_values() -> None:
    check_names(BOTH, config(), ["lr", "trainer.gradient_clip_val"])
    with pytest.raises(ParameterMismatchError, match=r"`data.init_args` has 'shuffle', but the data module takes"):
        check_names(BOTH, config(data_args={"shuffle": True}), ["lr"])


def test_max_epochs_has_a_key_of_its_own() -> None:
    with pytest.raises(ParameterMismatchError, match=r"`trainer.arguments` has 'max_epochs': set `trainer.max_epochs`"):
        check_names(BOTH, config(trainer_args={"max_epochs": 3}), [])


def test_build_makes_both_or_only_the_model() -> None:
    model, data = build(BOTH, Arguments(model={"width": 3}, data={"batch_size": 2}))
    assert isinstance(model, Model)
    assert isinstance(data, Data)
    assert (model.width, data.batch_size) == (3, 2)
    assert build(UserClasses(model=Model, data=None), Arguments(model={"width": 3}))[1] is None


class Choosy(lightning.LightningModule):
    def __init__(self, optimizer: str = "sgd", schedule: str = "none") -> None:
        super().__init__()


CHOSEN = {"optimizer": "adamw", "optimizer.adamw.lr": 0.1, "optimizer.adamw.beta1": 0.8}


def test_a_chosen_optimizer_and_schedule_go_to_no_constructor() -> None:
    arguments = route(BOTH, config(scale_rule="sqrt"), {"width": 3, **CHOSEN, "schedule": "cosine"})
    assert (arguments.model, arguments.data, arguments.trainer) == ({"width": 3}, {}, {})
    assert arguments.optimization == Optimization(
        optimizer=Choice(name="adamw", options={"lr": 0.1, "beta1": 0.8}),
        schedule=Choice(name="cosine", options={}),
        scale_rule="sqrt",
    )


def test_what_a_model_takes_itself_stays_its_own_unless_options_are_searched() -> None:
    classes = UserClasses(model=Choosy, data=None)
    own = route(classes, config(), {"optimizer": "adam", "schedule": "cosine"})
    assert own.model == {"optimizer": "adam", "schedule": "cosine"}
    assert own.optimization == Optimization()
    chosen = route(classes, config(), {**CHOSEN, "schedule": "step", "schedule.step.gamma": 0.5})
    assert chosen.model == {}
    assert chosen.optimization.optimizer == Choice(name="adamw", options={"lr": 0.1, "beta1": 0.8})
    assert chosen.optimization.schedule == Choice(name="step", options={"gamma": 0.5})
