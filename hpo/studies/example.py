"""The commented study file that `hpo init` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hpo.errors import SettingsError
from hpo.studies.spec import is_import_path
from trainers.recipes import Recipe, find_recipe

_HEAD = """\
# A study file: what to tune, how to train it, over which space, for how long.
# Run it:  hpo tune {file}          Look at it:  hpo show {study}   hpo ui
study: {study}

task:                     # studies of the same or of related tasks learn from each other
  name: {task}
  metric: {metric:<16} # as the model logs it with self.log(...)
  direction: {direction:<13} # minimize or maximize

trainer:
"""

_RECIPE = """\
  recipe: {recipe:<21} # a ready task (`hpo recipes` lists them); for your own code write instead:
{needs}  # model: my_package.my_module.MyLightningModule     # import path; this file's folder is searched first
  # data: my_package.my_module.MyDataModule           # leave out if the model has its own dataloaders
  # model: {{class_path: my_module.MyModel, init_args: {{width: 64}}}}   # the same with fixed arguments
  # cli: config.yaml      # or an existing LightningCLI project; the space is over keys such as model.init_args.lr
  # function: my_module.train     # or a plain function train(config, report), without max_epochs
"""

_OWN = """\
  model: {model}     # import path of a LightningModule; this file's folder is searched first
{data}  # with fixed arguments:  model: {{class_path: {model}, init_args: {{width: 64}}}}
"""

_TRAINER_TAIL = """\
  max_epochs: {max_epochs}
  devices: 1              # per trial; how several work together:
  # strategy: ddp         # or fsdp, tensor_parallel, …; with options: {{name: ddp, communication: fp16}}
  # stall_minutes: 30     # a trial without a step for so long is ended, and goes on from its last checkpoint
  # accelerator: gpu      # cpu, gpu, …; by default whatever is there
  # trials_per_device: 2  # that share a GPU; auto: as many as fit by the memory of past trials; by default none shares
  # on_out_of_memory: halve_batch   # once more at half the batch_size, accumulating twice as many; by default: fail
  # folds: 5              # cross-validation: the mean over as many fits; the data module takes `fold` and `folds`
  # threads: 1            # of torch, per trial; by default the cores, shared among --jobs
  # arguments: {{gradient_clip_val: 1.0}}   # further arguments of lightning.Trainer; callbacks, loggers by class_path
  # scale_lr: {{rule: linear, batch: 256}}  # the learning rate grows with the effective batch

# Each parameter goes to the constructor that names it, the model's or the data module's;
# `model.lr`, `data.batch_size` or `trainer.gradient_clip_val` say which. In place of the model's own optimizer:
# `optimizer: {{type: optimizer, choices: [sgd, adamw, lion]}}`, `schedule: {{type: schedule}}`
space:
"""

_TAIL = """
budget:
  trials: 30              # complete, pruned and failed ones together
  # hours: 2              # no new trial starts after that

pruner: median            # none, or history, which learns from past curves what to stop; with options:
# pruner: {name: history, false_prunes: 0.05}    # at most 5% of studies may lose their best trial
# pruner: {name: median, startup_trials: 5, warmup_epochs: 2}
# pruner: halving         # for 100 trials and more: successive halving at the epochs that past curves call telling

stop: none                # before the budget is spent: auto (what is left to gain is below the noise), gain=0.002 (of
                          # the metric), or by price: {rule: cost, price_per_hour: 2.5, worth: 4000} (of 1.0 of it)

# cost: seconds           # trials differ in how long they take: what is gained per second counts, not per trial

seeds:
  tuner: 0
  training: 0
"""

_OWN_SPACE: dict[str, dict[str, Any]] = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
}


def write_study_file(path: Path, *, recipe: str, model: str | None, data: str | None, force: bool) -> None:
    """Write an example for a recipe, or for the user's own `model` and `data`. Never overwrites without `force`."""
    if path.exists() and not force:
        raise SettingsError(f"{path} is there already; name another file, or overwrite it with --force")
    if model is None and data is not None:
        raise SettingsError("--data goes with --model: a recipe brings its own data")
    for option, path_given in (("--model", model), ("--data", data)):
        if path_given is not None and not is_import_path(path_given):
            raise SettingsError(f"{option} {path_given!r} is no import path; write package.module.ClassName")
    text = _own_example(path, model, data) if model is not None else _recipe_example(path, recipe)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error


def _recipe_example(path: Path, text: str) -> str:
    recipe: Recipe
    recipe, variant = find_recipe(text)
    name = f"{recipe.name}/{variant}"
    head = _HEAD.format(file=path, study=name, task=name, metric=recipe.metric, direction=recipe.direction)
    needs = f"  data: {_flow({'init_args': recipe.needs})}    # where your files are\n" if recipe.needs else ""
    trainer = _RECIPE.format(recipe=name, needs=needs) + _TRAINER_TAIL.format(max_epochs=recipe.max_epochs)
    return head + trainer + _space_lines(recipe.space) + _TAIL


def _own_example(path: Path, model: str, data: str | None) -> str:
    name = model.rpartition(".")[2].rpartition(":")[2].lower()
    head = _HEAD.format(file=path, study=name, task=name, metric="val_loss", direction="minimize")
    data_line = (
        f"  data: {data}\n"
        if data
        else "  # data: import path of a LightningDataModule, if the model has no dataloaders\n"
    )
    trainer = _OWN.format(model=model, data=data_line) + _TRAINER_TAIL.format(max_epochs=10)
    return head + trainer + _space_lines(_OWN_SPACE) + _TAIL


def _space_lines(space: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per parameter, in the flow style that a person would write."""
    return "".join(f"  {name}: {_flow(fields)}\n" for name, fields in space.items())


def _flow(fields: Mapping[str, Any]) -> str:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).strip()
