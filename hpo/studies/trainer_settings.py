"""What do the trainers get of a study file?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.spaces.space import SearchSpace
from hpo.studies.lightning_project import read_project
from hpo.studies.spec import CategoricalParameter, Component, StudySpec
from storage.distributions import fields_of
from trainers.job import FOLD, FOLDS, STALL_MINUTES, TrainerConfig
from trainers.recipes import find_recipe


def trainer_config(
    spec: StudySpec,
    *,
    folder: Path,
    threads: int = 1,
    trials_per_device: int = 1,
    compress: Mapping[str, Any] | None = None,
) -> TrainerConfig:
    """The settings of a study's trainer.

    folder: of the study file, which is searched for the user's modules. threads: where the file says nothing.
    trials_per_device: what the file's comes to (`hpo.running.gpu_sharing`).
    compress: the file's section with its teacher found (`hpo.studies.teachers`).
    """
    trainer = spec.training
    model, data = components(spec)
    project = read_project(trainer.cli.config, folder=folder) if trainer.cli else None
    return TrainerConfig(
        model=None if model is None else model.class_path,
        data=None if data is None else data.class_path,
        cli=None if project is None else str(project.config),
        cli_class=None if trainer.cli is None else trainer.cli.class_path,
        function=trainer.function,
        model_args={} if model is None else dict(model.init_args),
        data_args={} if data is None else dict(data.init_args),
        trainer_args=dict(trainer.arguments),
        max_epochs=trainer.max_epochs,
        devices=trainer.devices or (project.devices if project else 1),
        nodes=trainer.nodes or (project.nodes if project else 1),
        accelerator=trainer.accelerator,
        strategy={"name": "auto", **(project.strategy if project else {}), **trainer.strategy},
        strategy_choices=_strategy_choices(spec),
        report=trainer.report,
        stall_minutes=trainer.stall_minutes or (math.inf if trainer.function else STALL_MINUTES),
        trials_per_device=trials_per_device,
        on_out_of_memory=trainer.on_out_of_memory,
        threads=trainer.threads or threads,
        scale_rule=None if trainer.scale_lr is None else trainer.scale_lr.rule,
        scale_batch=256 if trainer.scale_lr is None else trainer.scale_lr.batch,
        folds=trainer.folds,
        sample=sample(spec.search_space()) | ({FOLD: 0, FOLDS: trainer.folds} if trainer.folds > 1 else {}),
        is_measured=bool(spec.task.against),
        compress=None if compress is None else dict(compress),
        python_path=tuple(dict.fromkeys((str(folder), str(Path.cwd())))),
    )


def components(spec: StudySpec) -> tuple[Component | None, Component | None]:
    """The model and the data module that the study file names, or the recipe's."""
    trainer = spec.training
    if trainer.recipe is None:
        return trainer.model, trainer.data
    recipe, variant = find_recipe(trainer.recipe)
    given = {} if trainer.data is None else trainer.data.init_args
    data = Component(class_path=recipe.data, init_args={"variant": variant, **given})
    return Component(class_path=recipe.model), data


def describe_data(spec: StudySpec, *, folder: Path) -> Any:
    """What a study says of its data, as plain data; None where the model or the function brings them."""
    if spec.training.cli is not None:
        project = read_project(spec.training.cli.config, folder=folder)
        return project.data if spec.training.data is None else [spec.training.data.class_path, project.data]
    _, data = components(spec)
    return None if data is None else data.model_dump()


def sample(space: SearchSpace) -> dict[str, Any]:
    """One configuration: of every active parameter the first choice, or the lower end of its range."""
    params: dict[str, Any] = {}
    for name, distribution in space.distributions.items():
        if space.is_active(name, params):
            fields = fields_of(distribution)
            params[name] = fields["choices"][0] if "choices" in fields else fields["low"]
    return params


def _strategy_choices(spec: StudySpec) -> dict[str, list[Any]]:
    """What the space may choose of the strategy's name and options."""
    return {
        name.removeprefix("strategy."): list(parameter.choices)
        for name, parameter in spec.space.items()
        if name.startswith("strategy.") and isinstance(parameter, CategoricalParameter)
    }
