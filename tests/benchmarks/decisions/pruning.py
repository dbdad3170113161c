"""What does it save to stop trials early, and what does it lose? Pruners on recorded curves.

    python -m tests.benchmarks.decisions.pruning FOLDER --tables lcbench,taskset --seeds 5 --trials 50

The tuner is fixed: each pruner sees the same recorded trials of a task in the same random order, one after the other,
Optuna's through Optuna's interface. A pruner that learns has the curves of the other tasks of the table (some trials of
each, drawn at random), never those of the task itself. Losses are those of the curves; a trial's value is its last
report. What was asked for is written to tests/benchmarks/results: pruning.md, and with all runs pruning.json.

epochs saved: the share of all reports that were not trained. regret: of the best complete trial at the end, less that
of the best trial of all, in shares of best to worst (min-max) and best to median. best lost: the share of studies whose
best trial was stopped. early ends: of the stopped trials, how many would have beaten the incumbent of their time.
area: the mean median regret of the incumbent over the epochs that the study would have taken without pruning, 1 before
the first trial is complete.

    python -m tests.benchmarks.decisions.pruning --generated 4000

measures `GENERATED_LOSSES` of `hpo.priors.foresight` anew, on so many generated studies, in about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import optuna
import pyarrow.parquet as pq
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.trial import TrialState

from hpo.priors import foresight as foresights
from hpo.priors.curves import Curve, is_probe, standing
from hpo.priors.foresight import GENERATED_LOSSES, GENERATED_TRIALS, SHARES, Foresight, PastCurves, learn
from hpo.priors.generated_curves import generated_losses
from hpo.priors.rungs import Rungs, at_rungs, compare, learn_rungs
from hpo.replay.scores import bootstrap_means
from hpo.tuning.past_curves import CURVES_OF_A_STUDY

RESULTS = Path(__file__).parents[1] / "results"
OURS = "history"
PROMISED = 0.05
PROMISED_BY_HALVING = 0.1
ON_THE_WAY = 200  # points at which the area under the regret is read


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


RIVALS: dict[str, Callable[[int], BasePruner]] = {  # of the longest curve
    "median": lambda horizon: MedianPruner(),
    "halving": lambda horizon: SuccessiveHalvingPruner(),
    "hyperband": lambda horizon: HyperbandPruner(min_resource=1, max_resource=horizon, reduction_factor=3),
    "wilcoxon": lambda horizon: _wilcoxon(),
}


def _wilcoxon() -> BasePruner:
    """Made for the instances of a problem, not for epochs; it pairs the reports of the same step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WilcoxonPruner(p_threshold=0.1)


# Running


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """Some trials of a task in the order in which they are tried."""

    table: str
    task: str
    seed: int
    curves: Sequence[Curve]
    ends: np.ndarray  # finite


def order_of(table: str, task: Task, seed: int, trials: int) -> Order:
    rows = np.random.default_rng([crc32(task.name.encode()), seed]).permutation(len(task.losses))[:trials]
    curves = [Curve(steps=task.steps[row], losses=task.losses[row], is_ended=True) for row in rows]
    return Order(table=table, task=task.name, seed=seed, curves=curves, ends=task.ends[rows])


def ours(order: Order, foresight: Foresight) -> list[int | None]:
    """After how many reports each trial is stopped: as `HistoryPruner` does, all reports of a trial at once."""
    stopped: list[int | None] = []
    ended: list[Curve] = []
    for number, curve in enumerate(order.curves):
        now = standing(ended, "last")
        at = np.arange(len(curve.steps) - 1)
        stop = None
        if now is not None and len(at) and not is_probe(number):
            places = np.flatnonzero(foresight.stops(now, curve, at, number))
            stop = int(places[0]) + 1 if len(places) else None
        stopped.append(stop)
        if stop is None and not np.isnan(curve.losses[-1]):  # else it fails
            ended.append(curve)
    return stopped


def halved(order: Order, rungs: Rungs) -> list[int | None]:
    """The same as `HistoryHalving` does."""
    stopped: list[int | None] = []
    shown = np.array([at_rungs(curve, rungs.steps, "last") for curve in order.curves])
    leader: int | None = None
    for number, curve in enumerate(order.curves):
        stop = None
        for rung, step in enumerate(rungs.steps):
            place = int(np.searchsorted(curve.steps, step))
            if is_probe(number) or place >= len(curve.steps) - 1:
                break
            best = None if leader is None else float(shown[leader, rung])
            if compare(rungs, rung, float(shown[number, rung]), shown[:number, rung], best).is_lost:
                stop = place + 1
                shown[number, rung + 1 :] = np.inf
                break
        stopped.append(stop)
        if stop is None and (leader is None or order.ends[number] < order.ends[leader]):
            leader = number
    return stopped


def rival(order: Order, pruner: BasePruner) -> list[int | None]:
    """The same of one of Optuna's pruners."""
    study = optuna.create_study(
        study_name=f"{order.table}/{order.task}/{order.seed}",  # Hyperband draws by it
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=pruner,
    )
    stopped: list[int | None] = []
    for curve in order.curves:
        trial, stop = study.ask(), None
        for place, (step, loss) in enumerate(zip(curve.steps, curve.losses, strict=True)):
            trial.report(float(loss), int(step))
            if place + 1 < len(curve.steps) and trial.should_prune():
                stop = place + 1
                break
        stopped.append(stop)
        if stop is not None:
            study.tell(trial, state=TrialState.PRUNED)
        elif np.isnan(curve.losses[-1]):
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, float(curve.losses[-1]))
    return stopped


def judged(order: Order, name: str, stopped: Sequence[int | None]) -> Run:
    lengths = np.array([len(curve.steps) for curve in order.curves])
    trained, best, early = 0, np.inf, 0
    incumbents = []  # reports trained so far, best loss
    for length, end, stop in zip(lengths, order.ends, stopped, strict=True):
        trained += int(length) if stop is None else stop
        if stop is None:
            best = min(best, float(end))
            incumbents.append((trained, best))
        else:
            early += int(end < best)
    low, middle, high = order.ends.min(), float(np.median(order.ends)), order.ends.max()
    return Run(
        table=order.table,
        task=order.task,
        seed=order.seed,
        pruner=name,
        saved=float(1.0 - trained / lengths.sum()),
        regret=float((min(best, high) - low) / (high - low)),
        median_regret=float(np.clip((min(best, high) - low) / max(middle - low, 1e-12), 0.0, 1.0)),
        is_best_lost=bool(best > low),
        stopped=sum(stop is not None for stop in stopped),
        early_ends=early,
        area=_area(incumbents, int(lengths.sum()), low, middle),
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


# Generated studies


def lost_of_generated(studies: int) -> np.ndarray:
    """The rate at which generated studies lose their best trial under each of the shares of `GENERATED_LOSSES`.

    They are looked at by the classifier that has learned from other generated studies alone.
    """
    rng = np.random.default_rng(12345)
    classifier = foresights._classifier(foresights._generated("last"))
    lost = np.zeros(len(SHARES))
    for _ in range(studies):
        curves = [foresights._ended(losses) for losses in generated_losses(GENERATED_TRIALS, rng)]
        for task in foresights._replay([PastCurves(name="generated", curves=curves)], 1, "last", rng):
            lost += foresights._lost_of(task, classifier)
    return np.asarray(np.interp(np.array(GENERATED_LOSSES)[:, 0], SHARES, lost / studies))


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
    header += ["early ends", "area", "area less ours, 95%"]
    rows = [
        [
            *(line.table, line.pruner, str(line.tasks), f"{line.saved:.3f}", f"{line.regret:.5f}"),
            f"{line.median_regret:.5f}",
            f"{line.best_lost:.3f} ({line.best_lost_interval[0]:.3f} to {line.best_lost_interval[1]:.3f})",
            f"{line.early_ends:.4f}",
            f"{line.area:.4f}",
            f"{line.area_less_ours:+.4f} ({line.area_less_ours_interval[0]:+.4f} to "
            f"{line.area_less_ours_interval[1]:+.4f})",
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
    parser.add_argument("--tasks", type=int, help="of each table at most, spread over it; the others stay in the past")
    parser.add_argument("--seeds", type=int, default=5, help="orders of a task's trials, at least")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--runs", type=int, default=60, help="of a table, at least: few tasks get more orders")
    parser.add_argument("--without", default="", help="pruners to leave out, with commas between")
    parser.add_argument("--generated", type=int, metavar="STUDIES", help="measure `GENERATED_LOSSES` instead")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    if asked.generated:
        for (share, _), lost in zip(GENERATED_LOSSES, lost_of_generated(asked.generated), strict=True):
            print(f"({share:g}, {lost:.4f})")
        return 0
    if asked.folder is None:
        parser.error("name the folder of the recorded tables, or set HPO_TABLES")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    wanted = (asked.tables or "").split(",")
    folders = [path.parent for path in sorted(asked.folder.glob("*/curves.parquet"))]
    folders = [folder for folder in folders if any(part in folder.name for part in wanted)]
    runs: list[Run] = []
    text = "no table with curves"
    cold = learn([], "last", false_prunes=PROMISED)
    for folder in folders:
        tasks = recorded(folder)
        targets = tasks[:: max(1, len(tasks) // (asked.tasks or len(tasks)))][: asked.tasks]
        seeds = max(asked.seeds, -(-asked.runs // len(targets)))
        for task in targets:
            past = past_of(tasks, task)
            taught = learn(past, "last", false_prunes=PROMISED)
            rungs = learn_rungs(past, "last", false_prunes=PROMISED_BY_HALVING)
            for seed in range(seeds):
                order = order_of(folder.name, task, seed, asked.trials)
                runs.append(judged(order, OURS, ours(order, taught)))
                runs.append(judged(order, "no history", ours(order, cold)))
                if rungs is not None:
                    runs.append(judged(order, "halving, history", halved(order, rungs)))
                runs.append(judged(order, "none", [None] * len(order.curves)))
                horizon = max(len(curve.steps) for curve in order.curves)
                for name, make in RIVALS.items():
                    if name not in asked.without.split(","):
                        runs.append(judged(order, name, rival(order, make(horizon))))
            print(f"{folder.name}: {task.name}", file=sys.stderr, flush=True)
            text = _write(asked, runs)  # after each task: it takes long
    print(text)
    return 0 if runs else 2


def _write(asked: argparse.Namespace, runs: Sequence[Run]) -> str:
    found = lines(runs)
    setting = {"trials": asked.trials, "orders of a task": f"at least {asked.seeds}", "promised": PROMISED}
    asked.results.mkdir(parents=True, exist_ok=True)
    text = markdown(found, setting)
    (asked.results / "pruning.md").write_text(text, encoding="utf-8")
    content = {"setting": setting, "lines": [asdict(line) for line in found], "runs": [asdict(each) for each in runs]}
    (asked.results / "pruning.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return text


if __name__ == "__main__":
    sys.exit(main())
