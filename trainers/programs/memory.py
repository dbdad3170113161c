"""Did memory run out, and how does a trial take less of it?"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from trainers.errors import TrainerError
from trainers.programs import ACCUMULATED, LightningProgram
from trainers.programs.modules import ModuleProgram

BATCH_SIZE = "batch_size"
SAYS_SO = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|std::bad_alloc|ALLOC_FAILED", re.IGNORECASE
)  # CUDA, HIP and MPS; torch's allocator for CPUs and the system; torch on Windows; C++; cuBLAS and cuDNN


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device, or this machine, had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and SAYS_SO.search(str(error)) is not None


def check_halving(program: LightningProgram, names: Collection[str]) -> None:
    """Whether the batch of every trial can be halved. Raises TrainerError."""
    if not _named(names) and not _fixed(program):
        raise TrainerError(
            "trainer.on_out_of_memory: halve_batch, but there is no batch to halve: neither the data module nor the "
            f"model takes an argument `{BATCH_SIZE}`; give one of them, or put its key "
            f"(as `data.init_args.{BATCH_SIZE}`) into the space, or use `on_out_of_memory: fail`"
        )


def halve_batch(program: LightningProgram, params: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A trial's parameters with half the batch and twice as many accumulated; and that in words.

    Raises TrainerError where there is nothing to halve.
    """
    whole = {name: params[name] for name in _named(params)} or _fixed(program)
    halves = {name: size // 2 for name, size in whole.items()}
    accumulated = 2 * program.accumulates(params)
    told = " and ".join(f"{name} = {size}" for name, size in halves.items())
    if not halves or min(halves.values()) < 1:
        what = " and ".join(f"{name} = {size}" for name, size in whole.items()) or f"there is no `{BATCH_SIZE}`"
        raise TrainerError(f"it ran out of memory, and its batch cannot be halved: {what}")
    return (
        {**params, **halves, f"trainer.{ACCUMULATED}": accumulated},
        f"ran with {told} and {ACCUMULATED} = {accumulated}: it had run out of memory",
    )


def _named(names: Collection[str]) -> list[str]:
    """The parameters that are a batch size: `batch_size`, `data.batch_size`, `data.init_args.batch_size`."""
    return [name for name in names if name.rpartition(".")[2] == BATCH_SIZE]


def _fixed(program: LightningProgram) -> dict[str, int]:
    """Batch sizes that the study fixes, or that a constructor has by default, as parameters."""
    if not isinstance(program, ModuleProgram):
        return {}
    classes, config = program.classes, program.config
    found = {}
    for role, constructor, given in (
        ("data", classes.data, config.data_args),
        ("model", classes.model, config.model_args),
    ):
        argument = inspect.signature(constructor).parameters.get(BATCH_SIZE) if constructor else None
        size = given.get(BATCH_SIZE, None if argument is None else argument.default)
        if isinstance(size, int):
            found[f"{role}.{BATCH_SIZE}"] = size
    return found
