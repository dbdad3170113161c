"""What do the trainers get of a study file?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.spec import CategoricalParameter, Component, StudySpec
from trainers.job import TrainerConfig
from trainers.recipes import find_recipe


def trainer_config(
    spec: StudySpec,
    *,
    folder: Path,
    threads: int = 1,
    compress: Mapping[str, Any] | None = None,
) -> TrainerConfig:
    """The settings of a study's trainer.

    folder: of the study file, which is searched for the user's modules. threads: where the file says nothing.
    compress: the file's section with its teacher found (`hpo.teachers`).
    """
    trainer = spec.trainer
    model, data = components(spec)
    return TrainerConfig(
        model=model.class_path,
        data=None if data is None else data.class_path,
        model_args=dict(model.init_args),
        data_args={} if data is None else dict(data.init_args),
        trainer_args=dict(trainer.arguments),
        max_epochs=trainer.max_epochs,
        devices=trainer.devices,
        nodes=trainer.nodes,
        accelerator=trainer.accelerator,
        strategy={"name": "auto", **trainer.strategy},
        strategy_choices=_strategy_choices(spec),
        report=trainer.report,
        stall_minutes=trainer.stall_minutes,
        threads=trainer.threads or threads,
        compress=None if compress is None else dict(compress),
        python_path=tuple(dict.fromkeys((str(folder), str(Path.cwd())))),
    )


def components(spec: StudySpec) -> tuple[Component, Component | None]:
    """The model and the data module, the user's own or the recipe's."""
    trainer = spec.trainer
    if trainer.model is not None:
        return trainer.model, trainer.data
    assert trainer.recipe is not None  # a valid file has one of both
    recipe, variant = find_recipe(trainer.recipe)
    return Component(class_path=recipe.model), Component(class_path=recipe.data, init_args={"variant": variant})


def _strategy_choices(spec: StudySpec) -> dict[str, list[Any]]:
    """What the space may choose of the strategy's name and options."""
    return {
        name.removeprefix("strategy."): list(parameter.choices)
        for name, parameter in spec.space.items()
        if name.startswith("strategy.") and isinstance(parameter, CategoricalParameter)
    }
