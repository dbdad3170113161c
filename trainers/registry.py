"""How does a trained model get into MLflow's model registry, so that it loads and predicts as its checkpoint does?

Run as a process of its own, `python -m trainers.registry`, which reads a `Registration` as JSON and answers with an
`Entry`, or with what is wrong: the study's code and torch are imported here and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from trainers.compression.inputs import has_forward, inputs_of, one_example
from trainers.compression.reloading import TrainedModel, make_model
from trainers.compression.settings import compression_of, split_params
from trainers.compression.steps import restore
from trainers.errors import TrainerError
from trainers.job import FitJob, TrainerConfig
from trainers.programs.loading import load_program

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"
EXAMPLES = 4  # more than one: an exported model takes batches of any size only if its example is a batch
TOLERANCE = 1e-4  # relative and absolute, between the checkpoint's predictions and those of the registered model
TAG_LENGTH = 5_000
OWN_PACKAGES = ("trainers", "lightning", "torch")  # whose code need not be kept with a pickled model


class RegistryError(TrainerError):
    """A model that cannot be registered."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What is to be registered, and as what."""

    config: dict[str, Any]  # of the trainer
    job: dict[str, Any]  # of the trial
    checkpoint: str
    compressed: str | None  # the model that was made of it, which is registered instead
    name: str  # in the registry
    mlflow_uri: str
    experiment: str  # of a run of its own, where the trial has none
    run_id: str | None  # of the trial
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is in the registry now."""

    name: str
    version: str
    alias: str
    model_uri: str  # of the alias
    serialization: Literal["pt2", "pickle"]
    note: str  # why it is not pt2; else empty
    metrics: dict[str, float]  # of the validation, run again on what was registered
    largest_difference: float  # between the predictions of the checkpoint and of the registered model


def register(order: Registration) -> Entry:
    """Validate the model once more, log it, register it, and see that it predicts the same.

    Raises RegistryError, TrainerError, and whatever the user's code and MLflow raise.
    """
    trained, metrics = _load(order)
    model = trained.model.cpu().eval()
    if not has_forward(trained.model):
        raise RegistryError(f"{type(model).__name__} has no `forward`: a registered model is one that can be called")
    batch = trained.first_batch()
    if batch is None:
        raise RegistryError("the validation has no batch to take an example of the inputs from")
    inputs = one_example(inputs_of(batch), n=EXAMPLES)
    with torch.no_grad():
        outputs = model(inputs)
    _forget_training(model)
    note = _why_not_exported(model, inputs)
    version, model_uri = _log(order, model, inputs, outputs, is_exported=not note)
    difference = _largest_difference(f"models:/{order.name}/{version}", inputs, outputs)
    _client(order.mlflow_uri).set_registered_model_alias(order.name, ALIAS, version)
    return Entry(
        name=order.name,
        version=version,
        alias=ALIAS,
        model_uri=model_uri,
        serialization="pickle" if note else "pt2",
        note=note,
        metrics=metrics,
        largest_difference=difference,
    )


def _load(order: Registration) -> tuple[TrainedModel, dict[str, float]]:
    """The model with its weights, and what its validation logs."""
    config, job = TrainerConfig.from_json(order.config), FitJob.from_json(order.job)
    _, compressed = split_params(job.params)
    compression = compression_of(config.compress, compressed)
    trained = make_model(load_program(config), config, job, hash_ratio=compression.hash_ratio)
    metrics = trained.validate(Path(order.checkpoint))
    if order.compressed is not None:
        restore(trained.model, Path(order.compressed))
        metrics = trained.validate()
    return trained, metrics


def _forget_training(model: nn.Module) -> None:
    """Take off what wraps hooks of the training: it is not part of the model."""
    for name in ("configure_model", "configure_optimizers", "training_step"):
        vars(model).pop(name, None)


def _why_not_exported(model: nn.Module, inputs: Any) -> str:
    """Why the model cannot be kept as a graph (`torch.export`), which needs no code of the user's; empty if it can."""
    if not isinstance(inputs, torch.Tensor):
        return f"its inputs are a {type(inputs).__name__}, not one tensor"
    try:
        any_size = [{0: torch.export.Dim.AUTO}]
        exported = torch.export.export(model, (inputs,), dynamic_shapes=any_size).module()
        exported(inputs[:-1])
    except Exception as error:
        return f"torch.export does not take it: {type(error).__name__}: {error}".splitlines()[0]
    return ""


def _log(order: Registration, model: nn.Module, inputs: Any, outputs: Any, *, is_exported: bool) -> tuple[str, str]:
    """Log and register the model in the trial's run; its version, and the URI of the alias."""
    import mlflow  # noqa: PLC0415 - takes seconds
    from mlflow.models import infer_signature  # noqa: PLC0415

    mlflow.set_tracking_uri(order.mlflow_uri)
    client, example = _client(order.mlflow_uri), _arrays(inputs)
    before = None if order.run_id is None else client.get_run(order.run_id).info
    if before is None:
        mlflow.set_experiment(order.experiment)
    try:
        with mlflow.start_run(run_id=order.run_id, run_name=None if order.run_id else f"promote {order.name}"):
            info = mlflow.pytorch.log_model(
                model,
                name="model",
                signature=infer_signature(example, _arrays(outputs)),
                input_example=example,
                serialization_format="pt2" if is_exported else "pickle",
                code_paths=None if is_exported else _code_paths(model),
                pip_requirements=_requirements(model, is_exported=is_exported),
                extra_files=None if order.compressed is None else [Path(order.compressed).resolve().as_uri()],
                registered_model_name=order.name,
            )
    finally:
        if before is not None:  # it has ended when it has ended
            client.set_terminated(before.run_id, before.status, before.end_time)
    version = str(info.registered_model_version)
    client.update_model_version(order.name, version, order.description)
    for tag, value in order.tags.items():
        client.set_model_version_tag(order.name, version, tag, value[:TAG_LENGTH])
    return version, f"models:/{order.name}@{ALIAS}"


def _largest_difference(model_uri: str, inputs: Any, outputs: Any) -> float:
    """Between what a registered model predicts and what is expected. Raises RegistryError where it is not the same."""
    import mlflow  # noqa: PLC0415

    with torch.no_grad():
        found = mlflow.pytorch.load_model(model_uri)(inputs)
    pairs = list(zip(_leaves(found), _leaves(outputs), strict=True))
    for theirs, ours in pairs:
        if not torch.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE):
            raise RegistryError(f"{model_uri} does not predict what the checkpoint does; it is not made the {ALIAS}")
    return max((float((theirs - ours).abs().max()) for theirs, ours in pairs), default=0.0)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient  # noqa: PLC0415

    return MlflowClient(tracking_uri=uri)


def _arrays(tensors: Any) -> Any:
    """Tensors in any nesting as arrays."""
    if isinstance(tensors, torch.Tensor):
        return tensors.detach().cpu().numpy()
    if isinstance(tensors, Mapping):
        return {name: _arrays(each) for name, each in tensors.items()}
    if isinstance(tensors, tuple | list):
        return {f"output {place}": _arrays(each) for place, each in enumerate(tensors)}
    return np.asarray(tensors)


def _leaves(tensors: Any) -> list[torch.Tensor]:
    if isinstance(tensors, torch.Tensor):
        return [tensors]
    nested = tensors.values() if isinstance(tensors, Mapping) else tensors
    return [leaf for each in nested for leaf in _leaves(each)]


def _code_paths(model: nn.Module) -> list[str] | None:
    """The user's file, or the folder of their package, which a pickled model needs to load elsewhere."""
    package = type(model).__module__.partition(".")[0]
    module = sys.modules.get(package)
    if package in OWN_PACKAGES or module is None or module.__file__ is None:
        return None
    file = Path(module.__file__)
    return [str(file.parent if file.name == "__init__.py" else file)]


def _requirements(model: nn.Module, *, is_exported: bool) -> list[str]:
    """What the registered model needs, by the versions that are here."""
    from importlib.metadata import version  # noqa: PLC0415

    names = ["torch", "numpy"]
    if not is_exported:
        names.append("lightning")
        if type(model).__module__.startswith("trainers."):
            names.append("hindsight-hpo")
    if any(type(parameter).__module__.startswith("torchao") for parameter in model.parameters()):
        names.append("torchao")
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def main() -> int:
    """Read an order, answer on what was the standard output; all that is printed goes to standard error."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    warnings.simplefilter("ignore")
    for name in ("mlflow", "alembic", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    order = Registration(**json.load(sys.stdin))
    sys.path[:0] = order.config["python_path"]
    content: dict[str, Any]
    try:
        content = {"entry": asdict(register(order))}
    except TrainerError as error:
        content = {"error": str(error)}
    with answer:
        json.dump(content, answer)
    return 0 if "entry" in content else 1


if __name__ == "__main__":
    sys.exit(main())
