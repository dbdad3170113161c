"""How soon does a trial train, on a place that is warm: on this machine, and on Ray?

Measured from the launch of a trial to its last event, less the time of its fit, so that its end counts too; the two
take turns, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.bench_trial_overhead import RECIPE, measure
from tests.measured import Figure
from trainers.executors.local import LocalExecutor
from trainers.executors.ray import RayExecutor
from trainers.job import TrainerConfig
from trainers.recipes import find_recipe

TRIALS = 20
AT_MOST = {"local": 0.5, "Ray": 1.0}  # seconds


def main() -> list[Figure]:
    """A figure for each."""
    recipe, variant = find_recipe(RECIPE)
    config = TrainerConfig(
        model=recipe.model, data=recipe.data, data_args={"variant": variant}, max_epochs=2, accelerator="cpu"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalExecutor(config, jobs=1) as local,
        RayExecutor(config, jobs=1) as on_ray,
    ):
        taken: dict[str, list[float]] = {"local": [], "Ray": []}
        for key in range(TRIALS):
            for name, executor in (("local", local), ("Ray", on_ray)):
                overhead, _ = measure(executor, Path(folder) / name, key)
                taken[name].append(overhead)
    return [
        Figure(
            what=f"a trial beyond its fit, {name}, warm (median)",
            ours=statistics.median(seconds),
            unit="s",
            at_most=AT_MOST[name],
            note=f"{TRIALS} trials, {max(seconds):.2f} s at most",
        )
        for name, seconds in taken.items()
    ]
