"""Do jobs and outcomes survive the way between processes?"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trainers.job import FitJob, Outcome, TrainerConfig

CONFIG = TrainerConfig(
    model="a.B", model_args={"width": 3}, max_epochs=2, compress={"sparsity": 0.5}, python_path=("/x", "/y")
)
JOB = FitJob(
    params={"lr": 0.1, "optimizer": "sgd"},
    seed=1,
    metric="loss",
    direction="minimize",
    directory="runs/x",
    against=("size_bytes",),
)
OUTCOME = Outcome(
    value=1.5,
    more_values=(2048.0,),
    measured={"size_bytes": 2048.0},
    best_epoch=1,
    epochs=2,
    seconds=0.5,
    peak_memory_bytes=7,
    checkpoint="/x/best.ckpt",
    pruned=True,
)


@pytest.mark.parametrize("thing", [CONFIG, JOB, OUTCOME])
def test_there_and_back(thing: TrainerConfig | FitJob | Outcome) -> None:
    assert type(thing).from_json(json.loads(json.dumps(thing.to_json()))) == thing


@pytest.mark.parametrize("name", ["max_epochs", "devices", "threads"])
def test_a_config_that_exists_is_valid(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0 is not a positive number"):
        TrainerConfig(**{"model": "a.B", "max_epochs": 1, name: 0})


def test_the_study_process_needs_no_torch() -> None:
    script = (
        "import sys, trainers.executors.local, trainers.job, trainers.recipes, trainers.errors\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
