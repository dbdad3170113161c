"""What does a trial cost beyond its training?

Each trial is a process of its own. Its overhead is the time from the launch to its last event, less the time of the
fit and less what it waited for answers (`Outcome.seconds`). Measured warm, as in a study, with one trial at a time;
and cold, as if each trial imported torch, Lightning and the user's code anew.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from trainers.executors import Executor
from trainers.executors.local import LocalExecutor
from trainers.job import Failed, Finished, FitJob, Reported, TrainerConfig
from trainers.recipes import find_recipe

RECIPE = "digits_mlp/all"
WARM_TRIALS = 20
COLD_TRIALS = 3
TARGET_SECONDS = 0.5


def main() -> None:
    """Print both, and fail where the warm overhead misses its target."""
    recipe, variant = find_recipe(RECIPE)
    config = TrainerConfig(
        model=recipe.model,
        data=recipe.data,
        data_args={"variant": variant},
        max_epochs=recipe.max_epochs,
        accelerator="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        cold = [measure_cold(config, Path(folder)) for _ in range(COLD_TRIALS)]
        with LocalExecutor(config, jobs=1) as executor:
            warm = [measure(executor, Path(folder), key) for key in range(WARM_TRIALS)]
    overheads, fits = zip(*warm, strict=True)
    print(f"{RECIPE}: fit {statistics.median(fits):.2f} s (median of {WARM_TRIALS})")
    print(f"overhead, warm: {statistics.median(overheads):.3f} s median, {max(overheads):.3f} s at most")
    print(f"overhead, cold: {statistics.median(cold):.3f} s median of {COLD_TRIALS}")
    assert statistics.median(overheads) <= TARGET_SECONDS, f"the target is {TARGET_SECONDS} s"


def measure_cold(config: TrainerConfig, folder: Path) -> float:
    started = time.monotonic()
    with LocalExecutor(config, jobs=1) as executor:
        overhead, _ = measure(executor, folder, key=-1, started=started)
    return overhead


def measure(executor: Executor, folder: Path, key: int, *, started: float | None = None) -> tuple[float, float]:
    """Seconds of overhead and of the fit."""
    started = time.monotonic() if started is None else started
    directory = str(folder / str(key))
    executor.launch(key, FitJob(params={}, seed=0, metric="val_loss", direction="minimize", directory=directory))
    while True:
        for event in executor.poll(1.0):
            match event:
                case Reported():
                    executor.answer(key, prune=False)
                case Finished(outcome=outcome):
                    return time.monotonic() - started - outcome.seconds, outcome.seconds
                case Failed():
                    raise RuntimeError(f"{event.reason}\n{event.output_tail}")


if __name__ == "__main__":
    main()
