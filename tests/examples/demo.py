"""The whole loop on real data: three related tasks tuned one after the other, and each cold beside it.

The history starts empty, so the first study is cold by nature; the second learns from the first, the third from both.
Every study is repeated with several seeds, the same for cold and with history. Run it with `make demo`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import hpo
from dashboards.figures import RacePanel, race_figure

TASKS = ("digits_mlp/all", "digits_mlp/blurred", "digits_mlp/small")  # all images; blurred ones; only 300 of them
TRIALS, SEEDS = 12, (0, 1, 2)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True, kw_only=True)
class Race:
    """One task and one seed: the incumbent's loss after each trial, without and with history."""

    task: str
    seed: int
    cold: NDArray[np.float64]  # (trials,)
    history: NDArray[np.float64]

    @property
    def trials_cold(self) -> int:
        """Trials that the cold study needed for its own final value."""
        return first_at_most(self.cold, self.cold[-1])

    @property
    def trials_history(self) -> int:
        """Trials that the study with history needed for the same value; one more than it had if it never came there."""
        return first_at_most(self.history, self.cold[-1])


def first_at_most(curve: NDArray[np.float64], target: float) -> int:
    """The first trial (from 1) whose incumbent is at most `target`; len + 1 if there is none."""
    reached = np.flatnonzero(curve <= target)
    return int(reached[0]) + 1 if len(reached) else len(curve) + 1


def run(folder: Path, *, trials: int, seeds: tuple[int, ...], jobs: int) -> list[Race]:
    """Run every study; studies of different seeds share nothing, so `jobs` of them run side by side."""
    work = []
    for seed in seeds:
        work.append((seed, "history", TASKS))
        work += [(seed, "cold", (task,)) for task in TASKS[1:]]  # the first is cold with an empty history
    started = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        chains = [pool.submit(tune_chain, folder, seed, kind, tasks, trials) for seed, kind, tasks in work]
        curves: dict[tuple[str, str, int], NDArray[np.float64]] = {}
        for (seed, kind, _), chain in zip(work, chains, strict=True):
            curves |= {(task, kind, seed): curve for task, curve in chain.result().items()}
            console.print(f"  {time.monotonic() - started:4.0f} s  seed {seed}, {kind} done")
    for seed in seeds:
        curves[TASKS[0], "cold", seed] = curves[TASKS[0], "history", seed]
    return [
        Race(task=task, seed=seed, cold=curves[task, "cold", seed], history=curves[task, "history", seed])
        for task in TASKS
        for seed in seeds
    ]


def tune_chain(
    folder: Path, seed: int, kind: str, tasks: tuple[str, ...], trials: int
) -> dict[str, NDArray[np.float64]]:
    """Tune tasks one after the other in one store; each learns from those before it."""
    curves = {}
    for task in tasks:
        label = kind if kind == "history" else f"cold-{task.rpartition('/')[2]}"
        study = hpo.tune(
            {
                "study": f"{task} {kind} seed {seed}",
                "trainer": {"recipe": task, "threads": 1},  # studies run side by side
                "budget": {"trials": trials},
                "pruner": "none",  # so that every trial has a value that can be compared
                "seeds": {"tuner": seed, "training": seed},
            },
            storage=f"sqlite:///{folder / f'{label}-seed{seed}.db'}",
            mlflow=f"sqlite:///{folder / 'mlflow.db'}" if seed == SEEDS[0] else "none",
            runs=folder / "runs",
        )
        curves[task] = incumbents(study)
    return curves


def incumbents(study: optuna.Study) -> NDArray[np.float64]:
    """The best value after each trial; infinite before the first that succeeds."""
    values = [
        trial.value if trial.state == TrialState.COMPLETE and trial.value is not None else math.inf
        for trial in study.get_trials(deepcopy=False)
    ]
    return np.minimum.accumulate(values)


def speed_up(races: list[Race]) -> tuple[float, tuple[float, float]]:
    """Geometric mean of trials cold / trials with history, and its 95% t-interval over tasks and seeds.

    A study with history that never reaches the cold value counts with one trial more than it had: a lower bound of
    what it would have needed, so such races make the ratio look better than it is, and are reported apart.
    """
    logs = np.log([race.trials_cold / race.trials_history for race in races])
    centre, half = float(np.mean(logs)), 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) / math.sqrt(len(logs)))
    return math.exp(centre), (math.exp(centre - half), math.exp(centre + half))


def print_table(races: list[Race]) -> None:
    """Per task the medians over seeds; below it the ratio over all races that had a history."""
    table = Table(box=box.SIMPLE_HEAD, title="Trials to reach the cold study's final val_loss (medians over seeds)",
                  title_justify="left", pad_edge=False)  # fmt: skip
    for column in ("task", "past tasks", "cold", "with history", "best cold", "best with history", "history helped"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for position, task in enumerate(TASKS):
        of_task = [race for race in races if race.task == task]
        cold, history = (np.median([getattr(r, f"trials_{k}") for r in of_task]) for k in ("cold", "history"))
        limit = len(of_task[0].history)
        table.add_row(
            task,
            str(position),
            f"{cold:g}",
            f"{history:g}" if history <= limit else f"more than {limit}",
            f"{np.median([race.cold[-1] for race in of_task]):.4f}",
            f"{np.median([race.history[-1] for race in of_task]):.4f}",
            "- (it had none)" if position == 0 else verdict(cold, history),
        )
    console.print(table)
    informed = [race for race in races if race.task != TASKS[0]]
    ratio, (low, high) = speed_up(informed)
    missed = sum(race.trials_history > len(race.history) for race in informed)
    console.print(
        f"cold / with history: {ratio:.1f} times fewer trials (95% interval {low:.1f} … {high:.1f}, over "
        f"{len(informed)} pairs of studies; in {missed} of them history did not reach the cold value)"
    )


def verdict(cold: float, history: float) -> str:
    """In one word."""
    return "yes" if history < cold else "no" if history > cold else "equal"


def main() -> None:
    """Run the demo in the folder `demo`, which is made anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    seeds = tuple(range(options.seeds))
    console.print(f"Tuning {len(TASKS)} tasks, {options.trials} trials a study, {len(seeds)} seeds")
    races = run(folder, trials=options.trials, seeds=seeds, jobs=options.jobs)
    print_table(races)
    panels = [
        RacePanel(
            title=task,
            cold=np.stack([race.cold for race in races if race.task == task]),
            history=np.stack([race.history for race in races if race.task == task]),
        )
        for task in TASKS
    ]
    race_figure(panels, loss_name="val_loss").savefig(folder / "demo.png", dpi=150)
    (folder / "demo.json").write_text(json.dumps([record(race) for race in races], indent=2))
    shown = options.folder
    console.print(f"figure: {shown / 'demo.png'}   numbers: {shown / 'demo.json'}")
    console.print(f"MLflow: .venv/bin/hpo ui --mlflow sqlite:///{shown / 'mlflow.db'}   (http://127.0.0.1:5000)")
    console.print(f"history: .venv/bin/hpo studies --storage sqlite:///{shown / 'history-seed0.db'}")


def record(race: Race) -> dict[str, object]:
    """A race as plain data."""
    return {
        "task": race.task,
        "seed": race.seed,
        "trials_cold": race.trials_cold,
        "trials_history": race.trials_history,
        "cold": race.cold.tolist(),
        "history": race.history.tolist(),
    }


if __name__ == "__main__":
    main()
