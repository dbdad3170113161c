"""What does it save to stop trials early, and what does it lose? Pruners on recorded curves.

    python -m tests.benchmarks.decisions.pruning FOLDER --tables lcbench,taskset --seeds 5 --trials 50

The tuner is fixed: each pruner sees the same recorded trials of a task in the same random order, one after the other,
through Optuna's own interface. A pruner that learns has the curves of the other tasks of the table (some trials of
each, drawn at random), never those of the task itself. Losses are those of the curves; a trial's value is its last
report. What was asked for is written to tests/benchmarks/results: pruning.md, and with all runs pruning.json.

epochs saved: the share of all reports that were not trained. regret: of the best complete trial at the end, less that
of the best trial of all, in shares of best to worst (min-max) and best to median. best lost: the share of studies whose
best trial was stopped. early ends: of the stopped trials, how many would have beaten the incumbent of their time.
area: the mean median regret of the incumbent over the epochs that the study would have taken without pruning, 1 before
the first trial is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import optuna
import pyarrow.parquet as pq
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner, WilcoxonPruner

from hpo.past_curves import CURVES_OF_A_STUDY
from hpo.priors.curves import Curve, End
from hpo.priors.foresight import Foresight, PastCurves, learn
from hpo.pruner import HistoryPruner
from hpo.replay.scores import bootstrap_means

RESULTS = Path(__file__).parents[1] / "results"
OURS = "history"
PROMISED = 0.05
ON_THE_WAY = 200  # points at which the area under the regret is read


class Taught(HistoryPruner):
    """Our pruner with a past that does not come from a store."""

    def __init__(self, past: Sequence[PastCurves]) -> None:
        super().__init__(None, false_prunes=PROMISED)  # type: ignore[arg-type]
        self._taught = _learned(tuple(past))

    def _foresight(self, study: optuna.Study, end: End) -> Foresight:
        return self._taught


@cache
def _learned(past: tuple[PastCurves, ...]) -> Foresight:
    return learn(past, "last", false_prunes=PROMISED)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A recorded task: n configurations."""

    name: str
    losses: Sequence[np.ndarray]  # n curves, of the lengths that they had
    steps: Sequence[np.ndarray]

    @property
    def ends(self) -> np.ndarray:
        ends = np.array([curve[-1] for curve in self.losses])
        return np.where(np.isfinite(ends), ends, ends[np.isfinite(ends)].max())


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pruner on one task and order."""

    table: str
    task: str
    seed: int
    pruner: str
    saved: float
    regret: float  # min-max
    median_regret: float
    is_best_lost: bool
    stopped: int
    early_ends: int
    area: float
    milliseconds: float  # for an answer, median


def pruners(past: Sequence[PastCurves], horizon: int, seed: int) -> dict[str, Callable[[], BasePruner]]:
    return {
        OURS: lambda: Taught(past),
        "no history": lambda: Taught(()),
        "median": MedianPruner,
        "halving": SuccessiveHalvingPruner,
        "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=horizon, reduction_factor=3),
        "wilcoxon": _wilcoxon,
        "none": optuna.pruners.NopPruner,
    }


def _wilcoxon() -> BasePruner:
    """Made for the instances of a problem, not for epochs; it pairs the reports of the same step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WilcoxonPruner(p_threshold=0.1)


# Running


def run(table: str, task: Task, seed: int, trials: int, name: str, pruner: BasePruner) -> Run:
    rows = np.random.default_rng([crc32(task.name.encode()), seed]).permutation(len(task.losses))[:trials]
    ends, lengths = task.ends[rows], np.array([len(task.losses[row]) for row in rows])
    study = optuna.create_study(
        study_name=f"{table}/{task.name}/{seed}", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner
    )
    trained, best, stopped, early, seconds = 0, np.inf, 0, 0, []
    incumbents = []  # epochs trained so far, best loss
    for place, row in enumerate(rows):
        trial = study.ask()
        steps, losses = task.steps[row], task.losses[row]
        is_stopped = False
        for step, loss in zip(steps, losses, strict=True):
            trained += 1
            trial.report(float(loss), int(step))
            if step == steps[-1]:
                break
            started = time.perf_counter()
            is_stopped = trial.should_prune()
            seconds.append(time.perf_counter() - started)
            if is_stopped:
                break
        if is_stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            stopped, early = stopped + 1, early + int(ends[place] < best)
        else:
            end = float(losses[-1])
            if np.isnan(end):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, end)
            best = min(best, float(ends[place]))
            incumbents.append((trained, best))
    low, middle, high = ends.min(), np.median(ends), ends.max()
    return Run(
        table=table,
        task=task.name,
        seed=seed,
        pruner=name,
        saved=1.0 - trained / lengths.sum(),
        regret=float((min(best, high) - low) / (high - low)),
        median_regret=float(np.clip((min(best, high) - low) / max(middle - low, 1e-12), 0.0, 1.0)),
        is_best_lost=bool(best > low),
        stopped=stopped,
        early_ends=early,
        area=_area(incumbents, lengths.sum(), low, middle),
        milliseconds=1000.0 * float(np.median(seconds)) if seconds else 0.0,
    )


def _area(incumbents: Sequence[tuple[int, float]], budget: int, low: float, middle: float) -> float:
    points = np.linspace(0.0, budget, ON_THE_WAY)
    regrets = np.ones(ON_THE_WAY)
    for trained, best in incumbents:
        regrets[points >= trained] = np.clip((best - low) / max(middle - low, 1e-12), 0.0, 1.0)
    return float(regrets.mean())


def past_of(tasks: Sequence[Task], target: Task) -> list[PastCurves]:
    found = []
    for task in tasks:
        if task.name != target.name:
            rows = np.random.default_rng(crc32(task.name.encode())).permutation(len(task.losses))[:CURVES_OF_A_STUDY]
            curves = [Curve(steps=task.steps[row], losses=task.losses[row], is_ended=True) for row in rows]
            found.append(PastCurves(name=task.name, curves=curves))
    return found


def recorded(folder: Path) -> list[Task]:
    space = json.loads((folder / "space.json").read_text())
    sign = -1.0 if space["direction"] == "maximize" else 1.0
    table = pq.read_table(folder / "curves.parquet")
    names = np.array(table["task"].to_pylist())
    configs, steps = table["config"].to_numpy(), table["step"].to_numpy().astype(float)
    values = sign * table["value"].to_numpy(zero_copy_only=False).astype(float)
    tasks = []
    for name in sorted(set(names.tolist())):
        mine = np.flatnonzero(names == name)
        mine = mine[np.lexsort((steps[mine], configs[mine]))]
        ends = np.flatnonzero(np.diff(configs[mine])) + 1
        tasks.append(Task(name=name, losses=np.split(values[mine], ends), steps=np.split(steps[mine], ends)))
    return tasks


# What is said


@dataclass(frozen=True, kw_only=True)
class Line:
    """One pruner on one table: means over tasks of the means over orders, with 95% intervals over tasks."""

    table: str
    pruner: str
    tasks: int
    saved: float
    regret: float
    median_regret: float
    best_lost: float
    best_lost_interval: tuple[float, float]
    early_ends: float  # of the stopped trials
    area: float
    area_less_ours: float
    area_less_ours_interval: tuple[float, float]  # above 0: ours is better
    milliseconds: float


def lines(runs: Sequence[Run]) -> list[Line]:
    found = []
    for table in dict.fromkeys(run.table for run in runs):
        ours = _by_task([run for run in runs if run.table == table and run.pruner == OURS], "area")
        for name in dict.fromkeys(run.pruner for run in runs if run.table == table):
            mine = [run for run in runs if run.table == table and run.pruner == name]
            lost, area = _by_task(mine, "is_best_lost"), _by_task(mine, "area")
            stopped = sum(run.stopped for run in mine)
            found.append(
                Line(
                    table=table,
                    pruner=name,
                    tasks=len(lost),
                    saved=float(_by_task(mine, "saved").mean()),
                    regret=float(_by_task(mine, "regret").mean()),
                    median_regret=float(_by_task(mine, "median_regret").mean()),
                    best_lost=float(lost.mean()),
                    best_lost_interval=_interval(lost),
                    early_ends=sum(run.early_ends for run in mine) / max(stopped, 1),
                    area=float(area.mean()),
                    area_less_ours=float((area - ours).mean()),
                    area_less_ours_interval=_interval(area - ours),
                    milliseconds=float(np.median([run.milliseconds for run in mine])),
                )
            )
    return found


def _by_task(runs: Sequence[Run], name: str) -> np.ndarray:
    by_task: dict[str, list[float]] = {}
    for each in runs:
        by_task.setdefault(each.task, []).append(float(getattr(each, name)))
    return np.array([np.mean(values) for values in by_task.values()])


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(bootstrap_means(values), [0.025, 0.975])
    return float(low), float(high)


def markdown(found: Sequence[Line], setting: Mapping[str, object]) -> str:
    header = ["table", "pruner", "tasks", "epochs saved", "more min-max regret", "more median regret", "best lost"]
    header += ["early ends", "area", "area less ours, 95%", "ms"]
    rows = [
        [
            *(line.table, line.pruner, str(line.tasks), f"{line.saved:.3f}", f"{line.regret:.5f}"),
            f"{line.median_regret:.5f}",
            f"{line.best_lost:.3f} ({line.best_lost_interval[0]:.3f} to {line.best_lost_interval[1]:.3f})",
            f"{line.early_ends:.4f}",
            f"{line.area:.4f}",
            f"{line.area_less_ours:+.4f} ({line.area_less_ours_interval[0]:+.4f} to "
            f"{line.area_less_ours_interval[1]:+.4f})",
            f"{line.milliseconds:.1f}",
        ]
        for line in found
    ]
    said = ", ".join(f"{name}: {value}" for name, value in setting.items())
    table = [header, ["---"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"{__doc__.partition(chr(10))[0]}\n\n{said}.\n\n{body}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and write the results; 2 where there are no tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.decisions.pruning")
    parser.add_argument("folder", nargs="?", default=os.environ.get("HPO_TABLES"), type=Path)
    parser.add_argument("--tables", help="parts of their names, with commas between (default: all with curves)")
    parser.add_argument("--seeds", type=int, default=5, help="orders of a task's trials, at least")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--runs", type=int, default=60, help="of a table, at least: few tasks get more orders")
    parser.add_argument("--without", default="", help="pruners to leave out, with commas between")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    if asked.folder is None:
        parser.error("name the folder of the recorded tables, or set HPO_TABLES")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    wanted = (asked.tables or "").split(",")
    folders = [path.parent for path in sorted(asked.folder.glob("*/curves.parquet"))]
    folders = [folder for folder in folders if any(part in folder.name for part in wanted)]
    runs: list[Run] = []
    for folder in folders:
        tasks = recorded(folder)
        seeds = max(asked.seeds, -(-asked.runs // len(tasks)))
        for task in tasks:
            past = past_of(tasks, task)
            horizon = max(len(curve) for curve in task.losses)
            for seed in range(seeds):
                for name, make in pruners(past, horizon, seed).items():
                    if name not in asked.without.split(","):
                        runs.append(run(folder.name, task, seed, asked.trials, name, make()))
            print(f"{folder.name}: {task.name}", file=sys.stderr, flush=True)
        _write(asked, runs)
    return 0 if runs else 2


def _write(asked: argparse.Namespace, runs: Sequence[Run]) -> None:
    found = lines(runs)
    setting = {"trials": asked.trials, "orders of a task": f"at least {asked.seeds}", "promised": PROMISED}
    asked.results.mkdir(parents=True, exist_ok=True)
    text = markdown(found, setting)
    (asked.results / "pruning.md").write_text(text, encoding="utf-8")
    content = {"setting": setting, "lines": [asdict(line) for line in found], "runs": [asdict(each) for each in runs]}
    (asked.results / "pruning.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
