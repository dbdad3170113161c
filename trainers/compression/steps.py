"""What is done to a trial's model before and after its fit?

Before: its linear layers share their weights, a teacher joins in. After: it is pruned and quantized, judged by its own
validation, measured beside what it was, and kept. Both work on what any program makes, in one process on one device.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from trainers.compression import pruning, quantization
from trainers.compression.distillation import distil
from trainers.compression.hashing import HashedLinear, hash_layers, share_weights
from trainers.compression.inputs import has_forward, inputs_of, one_example
from trainers.compression.measure import count_parameters, latencies, loaded, packed_bytes
from trainers.compression.reloading import TrainedModel, make_model
from trainers.compression.settings import Compression, Teacher, compression_of, split_params
from trainers.errors import CompressionError
from trainers.job import COMPRESSED_MODEL, FitJob, Outcome, TrainerConfig
from trainers.objectives import finite, with_further_values
from trainers.programs import Parts
from trainers.programs.loading import Program, load_program


def compression_of_trial(config: TrainerConfig, job: FitJob) -> Compression | None:
    """What is to be done in a trial; None where nothing is compressed. Raises CompressionError."""
    _, params = split_params(job.params)
    return None if config.compress is None and not params else compression_of(config.compress, params)


def prepare(parts: Parts, compression: Compression | None) -> None:
    """What comes before the fit. Raises CompressionError, and what loading a teacher raises."""
    if compression is None:
        return
    if compression.hash_ratio < 1:
        share_weights(parts.model, compression.hash_ratio)
    if compression.distil is not None:
        with isolate_rng():  # the student begins as it would alone
            teacher = _load_teacher(compression.distil.teacher, parts.data)
        distil(parts.model, teacher, compression.distil)


@contextmanager
def _alone() -> Iterator[None]:
    """Hide the other ranks, which have nothing to do with it: what gathers a metric from all would wait for them."""
    if not torch.distributed.is_available():
        yield
        return
    everybody = torch.distributed.group.WORLD
    torch.distributed.group.WORLD = None
    try:
        yield
    finally:
        torch.distributed.group.WORLD = everybody  # for the next fold


@_alone()
def finish(
    program: Program,
    config: TrainerConfig,
    job: FitJob,
    outcome: Outcome,
    compression: Compression | None,
    *,
    devices: int | list[int],
    pulse: Callable[[], None],
) -> Outcome:
    """What comes after the fit: the outcome is that of the compressed model, with all that was measured.

    devices: of the fit, whose first is used. pulse: a sign of life, to be given with every batch.
    Nothing is done for a pruned trial, or where neither compression nor a further objective is asked for.
    Raises FitError, CompressionError, and whatever the user's code raises.
    """
    if outcome.pruned or (compression is None and not job.against):
        return outcome
    if outcome.checkpoint is None or Path(outcome.checkpoint).is_dir():
        raise CompressionError("a model is compressed and measured from a checkpoint of one file, and there is none")
    started, hash_ratio = time.monotonic(), compression.hash_ratio if compression else 1.0
    first = devices[:1] if isinstance(devices, list) else 1
    trained = make_model(program, config, job, hash_ratio=hash_ratio, devices=first, pulse=pulse)
    metrics, state = trained.validate(Path(outcome.checkpoint)), {"state_dict": trained.model.state_dict()}
    measured = _counted(trained.model) | {"size_bytes": float(len(packed_bytes(state)))}
    models: dict[str, nn.Module] = {"latency_ms": trained.model}
    value = outcome.value
    if compression is not None and compression.changes_the_trained_model:
        before = {name: measured[name] for name in ("size_bytes", "n_parameters", "n_nonzero_parameters")}
        models["latency_ms_before"] = copy.deepcopy(trained.model)
        kept = _compress(trained, compression)
        metrics = trained.validate()
        value = finite(job.metric, metrics)
        measured |= _counted(kept.model) | {"size_bytes": float(kept.write(Path(job.directory)))}
        measured |= {f"{name}_before": number for name, number in before.items()}
        measured["value_before_compression"] = outcome.value
    measured |= _timed(models, trained)
    seconds = outcome.seconds + time.monotonic() - started
    outcome = replace(outcome, value=value, measured=measured, seconds=seconds)
    return with_further_values(outcome, job, {**metrics, **measured})


# How it is done


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A compressed model as it is written to disk."""

    model: nn.Module  # as it was before it got int8 kernels
    content: Mapping[str, Any]

    def write(self, directory: Path) -> int:
        """Write it at once or not at all; how many bytes it has."""
        data, target = packed_bytes(dict(self.content)), directory / COMPRESSED_MODEL
        draft = target.with_name(f"{target.name}.draft")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        return len(data)


def _compress(trained: TrainedModel, compression: Compression) -> _Kept:
    """Prune and quantize in place."""
    model = trained.model

    def finetune(_: nn.Module) -> None:
        if compression.finetune_epochs:
            trained.train(compression.finetune_epochs)

    if compression.is_pruned:
        pruning.compress(model, compression, finetune)
    state: Mapping[str, Any] = model.state_dict()
    if compression.quantize != "none":
        state = quantization.compress(model, compression, finetune)
    plain, uses_int8 = model, compression.quantize == "int8_dynamic"
    content = {"state_dict": dict(state), "hash_ratio": compression.hash_ratio, "int8_kernels": uses_int8}
    if uses_int8:
        plain = copy.deepcopy(model)
        quantization.use_int8_kernels(model)
    return _Kept(model=plain, content=content)


def restore(model: nn.Module, compressed: Path) -> None:
    """Make a model, whose layers are there, the compressed one that a file holds."""
    content = loaded(compressed.read_bytes())
    if content["hash_ratio"] < 1 and not any(isinstance(layer, HashedLinear) for layer in model.modules()):
        hash_layers(model, content["hash_ratio"])
    model.load_state_dict(quantization.unpack(content["state_dict"]))
    if content["int8_kernels"]:
        quantization.use_int8_kernels(model)


def _counted(model: nn.Module) -> dict[str, float]:
    total, nonzero = count_parameters(model)
    return {"n_parameters": float(total), "n_nonzero_parameters": float(nonzero)}


def _timed(models: Mapping[str, nn.Module], trained: TrainedModel) -> dict[str, float]:
    """Latencies on one example of the validation; nothing where the model has no `forward`."""
    batch = trained.first_batch()
    if batch is None or not has_forward(trained.model):
        return {}
    device = trained.device
    inputs = trained.model.transfer_batch_to_device(one_example(inputs_of(batch)), device, 0)
    calls = {name: functools.partial(model.to(device).eval(), inputs) for name, model in models.items()}
    try:
        with torch.inference_mode():
            calls["latency_ms"]()
    except Exception as error:
        print(f"no latency: forward does not take a batch's inputs ({error!r})", file=sys.stderr)  # noqa: T201
        return {}
    found = latencies(calls)
    low, high = found["latency_ms"].interval95
    medians = {name: latency.milliseconds for name, latency in found.items()}
    return medians | {"latency_ms_low95": low, "latency_ms_high95": high}


def _load_teacher(teacher: Teacher, data: lightning.LightningDataModule | None) -> nn.Module:
    """The trained model, which answers for the student's data."""
    config = replace(TrainerConfig.from_json(teacher.config), accelerator="cpu")  # it follows the student from there
    job = FitJob(params=teacher.params, seed=0, metric="", direction="minimize", directory=tempfile.gettempdir())
    own = compression_of_trial(config, job)
    found = make_model(load_program(config), config, job, hash_ratio=own.hash_ratio if own else 1.0, data=data)
    found.read(Path(teacher.checkpoint))
    if not has_forward(found.model):
        raise CompressionError(f"the teacher {type(found.model).__name__} has no `forward` that returns logits")
    return found.model
