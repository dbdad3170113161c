"""How small do models become, at what price? Digits read by a convolutional network, trained anew for each seed.

Compression: pruning and int8 weights against the same trained model. Distillation: a student with and without its
teacher, in pairs of one seed.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from tests.measured import Figure
from trainers.fitting.fit import fit
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.programs.loading import load_program

SEEDS = range(5)
LARGE = {"channels": 32, "depth": 3, "lr": 3e-3}  # 93,962 parameters
STUDENT = {"channels": 9, "depth": 3, "lr": 3e-3}  # 7,804
TAUGHT_TASK = "noisy-20"  # a fifth of the labels is wrong: a student alone learns them by heart, its teacher's are soft
EPOCHS, STUDENT_EPOCHS = 10, 15
SMALL = {"compress.sparsity": 0.8, "compress.quantize": "int8_weight_only"}
INT8_KERNELS = {"compress.quantize": "int8_dynamic"}
TEMPERATURE, MIXING = 4.0, 0.9


def main() -> list[Figure]:
    """The figures with their bars."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # Lightning's, on loaders, and torchao's
        return [*_compression(Path(folder)), *_distillation(Path(folder))]


def _compression(folder: Path) -> list[Figure]:
    small = [train(folder / f"small-{seed}", seed, LARGE | SMALL, compress={"finetune_epochs": 2}) for seed in SEEDS]
    kernels = train(folder / "int8", 0, LARGE | INT8_KERNELS).measured
    ratios = [each.measured["size_bytes_before"] / each.measured["size_bytes"] for each in small]
    gains = [each.value - each.measured["value_before_compression"] for each in small]
    times = [each.measured["latency_ms"] / each.measured["latency_ms_before"] for each in small]
    return [
        Figure(
            what="file of a CNN, 80% pruned, int8 weights",
            ours=statistics.mean(each.measured["size_bytes"] for each in small),
            rival=statistics.mean(each.measured["size_bytes_before"] for each in small),
            rival_name="uncompressed, both by gzip",
            unit="bytes",
            ratio=min(ratios),
            at_least=4.0,
            note=f"times smaller, {len(ratios)} seeds: {min(ratios):.1f} to {max(ratios):.1f}",
        ),
        Figure(
            what="its accuracy less the uncompressed one's, mean",
            ours=statistics.mean(gains),
            at_least=-0.01,
            note=interval(gains),
        ),
        Figure(
            what="its time for one image against the uncompressed one's",
            ours=statistics.median(times),
            unit="x",
            at_most=1.1,
            note=f"{len(times)} seeds: {min(times):.2f} to {max(times):.2f}",
        ),
        Figure(
            what="the same with int8 kernels (int8_dynamic), eager on this CPU",
            ours=kernels["latency_ms"] / kernels["latency_ms_before"],
            unit="x",
        ),
    ]


def _distillation(folder: Path) -> list[Figure]:
    task = {"data_args": {"variant": TAUGHT_TASK}}
    teacher = train(folder / "teacher", 0, LARGE, measure=("n_parameters",), **task)
    taught = {"checkpoint": teacher.checkpoint, "config": make_config(**task).to_json(), "params": LARGE}
    section = {"distil": {"teacher": taught, "temperature": TEMPERATURE, "mixing": MIXING}}
    of_student = {**task, "max_epochs": STUDENT_EPOCHS}
    gains, losses, students = [], [], []
    for seed in SEEDS:
        alone = train(folder / f"alone-{seed}", seed, STUDENT, measure=("n_parameters", "val_loss"), **of_student)
        with_teacher = train(
            folder / f"taught-{seed}", seed, STUDENT, measure=("val_loss",), compress=section, **of_student
        )
        students.append(alone.more_values[0])
        gains.append(with_teacher.value - alone.value)
        losses.append(alone.more_values[1] - with_teacher.more_values[0])
        print(f"  seed {seed}: accuracy alone {alone.value:.4f}, with its teacher {with_teacher.value:.4f}", flush=True)
    low, _ = mean_interval(gains)
    return [
        Figure(
            what="parameters of the student, share of its teacher's",
            ours=students[0] / teacher.more_values[0],
            at_most=0.1,
            note=f"{students[0]:,.0f} and {teacher.more_values[0]:,.0f}",
        ),
        Figure(
            what="accuracy with a teacher less alone, lower end of 95%",
            ours=low,
            at_least=0.0,
            note=f"mean {statistics.mean(gains):.4f}, {interval(gains)}",
        ),
        Figure(what="loss alone less with a teacher, mean", ours=statistics.mean(losses), note=interval(losses)),
    ]


def train(
    folder: Path, seed: int, params: dict[str, Any], *, measure: tuple[str, ...] = (), **settings: Any
) -> Outcome:
    """One trial as a study would train it; `settings` as of `TrainerConfig`."""
    folder.mkdir()
    config = make_config(**settings)
    job = FitJob(
        params=params,
        seed=seed,
        metric="val_accuracy",
        direction="maximize",
        directory=str(folder),
        against=measure,
    )
    return fit(load_program(config), config, job, slot=0, report=_go_on, pulse=lambda: None)


def make_config(**changes: Any) -> TrainerConfig:
    """The digits recipe."""
    fields = {"model": "trainers.recipes.networks.CNN", "data": "trainers.recipes.digits.Digits"}
    return TrainerConfig(**{**fields, "max_epochs": EPOCHS, "accelerator": "cpu", **changes})


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% for the mean, by Student's t."""
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def interval(values: Sequence[float]) -> str:
    """In words."""
    low, high = mean_interval(values)
    return f"95% {low:.4f} to {high:.4f}, {len(values)} seeds"


def _go_on(*, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
    return False
