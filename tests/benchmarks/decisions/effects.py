"""Are the intervals for effects right, and is importance? And how long does it take to say so?

    python -m tests.benchmarks.decisions.effects FOLDER --parts intervals,runs,recorded,importance,speed

intervals: effects of 3 to 100 simulated tasks, normal and with the tails of Student's t with 3 degrees of freedom, that
differ by half, once and twice their errors. An interval should hold in 93 to 97 of 100 cases. Its width is compared
with that of somebody who knows each variance: once if he uses Student's quantile for so many tasks (the bar: at most
1.25 times as wide), once if he knows the spread of the tasks as well.
runs: the same from simulated runs that a tuner chose near the best it had seen; the width for a new task is compared
with the range in which 95% of such tasks truly are.
recorded: tasks of recorded tables, of which a tuner saw 60 rows each; one in ten tasks is left out, and what all its
rows say is compared with what the others predict.
importance: against Optuna's fANOVA, on functions and on recorded tables, and the time that it takes.
speed: `hpo stats` on a family of 1,000,000 trials (HPO_BENCH_TRIALS). All is done by one thread; where a bar is for
processor time, it is so that the other work of a machine does not count.
What was measured is written to tests/benchmarks/results: effects.md and effects.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from scipy.special import ndtri, stdtrit
from scipy.stats import kendalltau
from scipy.stats.qmc import Sobol

from hpo.decisions.past_effects import past_effects
from hpo.replay.tables import RecordedFamily, read_source
from hpo.statistics.effects import Adjustment, Runs, best_of, on_task_scales, range_counts
from hpo.statistics.importance import importance
from hpo.statistics.random_effects import random_effects
from storage.database import Store
from storage.families import list_families
from storage.schema import open_store
from tests.benchmarks.bench_arrays import fill
from tests.measured import Figure, keep, table

RESULTS = Path(__file__).parents[1] / "results"
PARTS = ("intervals", "runs", "recorded", "importance", "speed")
TASKS = (3, 5, 10, 30, 100)
RANGES = 4
COVERAGE = {"at_least": 0.93, "at_most": 0.97}
SEEN_ROWS = 60  # of a recorded task
Draw = Callable[[tuple[int, ...]], np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the results; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="effects", description=__doc__)
    default = os.environ.get("HPO_TABLES")
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="of recorded tables (or $HPO_TABLES)")
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args(arguments)
    figures: list[Figure] = []
    for name in options.parts.split(","):
        for figure in measured(name, options.folder):
            print(table([figure]).splitlines()[1], flush=True)
            figures.append(figure)
    RESULTS.mkdir(exist_ok=True)
    keep(figures, RESULTS / "effects.json")
    (RESULTS / "effects.md").write_text(f"# Effects and importance\n\n```\n{table(figures)}\n```\n")
    return 0 if all(figure.is_met for figure in figures) else 1


def measured(part: str, folder: Path | None) -> Iterator[Figure]:
    """The figures of one part."""
    if part in ("recorded", "importance") and folder is None:
        print(f"{part}: name the folder of the recorded tables, or set HPO_TABLES", file=sys.stderr)
    if part == "intervals":
        yield from intervals()
    elif part == "runs":
        yield from simulated_runs()
    elif part == "recorded" and folder is not None:
        yield from recorded(folder)
    elif part == "importance":
        yield from importances(folder)
    elif part == "speed":
        yield from speed()


# Tasks whose effects are known


def _tails(name: str, rng: np.random.Generator) -> Draw:
    if name == "normal":
        return lambda shape: rng.normal(size=shape)
    return lambda shape: rng.standard_t(3, size=shape) / np.sqrt(3.0)


def intervals(repeats: int = 2000) -> Iterator[Figure]:
    """Coverage and width with known variances, each over three spreads of the tasks."""
    for tails in ("normal", "t3"):
        for t in TASKS:
            rng = np.random.default_rng(t)
            draw = _tails(tails, rng)
            held, widths = [], []
            for tau in (0.5, 1.0, 2.0):
                v = rng.chisquare(4, size=(t, repeats)) / 4.0
                d = tau * draw((t, repeats)) + np.sqrt(v) * rng.normal(size=(t, repeats))
                found = random_effects(d, v)
                new = tau * draw((repeats,))
                se = 1.0 / np.sqrt((1.0 / (v + tau**2)).sum(0))
                held.append((_holds(found.interval, 0.0), _holds(found.prediction, new)))
                oracle = np.array([2 * se.mean(), 2 * np.sqrt(tau**2 + se**2).mean()])
                width = np.array([np.diff(found.interval).mean(), np.diff(found.prediction).mean()])
                widths.append((width / oracle / stdtrit(t - 1, 0.975), width / oracle / ndtri(0.975)))
            coverage, (students, normals) = np.mean(held, axis=0), np.mean(widths, axis=0)
            for place, what in enumerate(("mean", "new task")):
                name = f"{what}, {t} tasks, {tails}"
                note = f"{normals[place]:.2f} times that of one who knows the spread of the tasks"
                yield Figure(what=f"coverage: {name}", ours=float(coverage[place]), **COVERAGE)
                yield Figure(what=f"width: {name}", ours=float(students[place]), unit="x", at_most=1.25, note=note)
                yield Figure(what=f"width, spread known: {name}", ours=float(normals[place]), unit="x")


def _holds(ends: np.ndarray, truth: np.ndarray | float) -> float:
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


def simulated_runs() -> Iterator[Figure]:
    """Coverage, width and error of adjusted effects of runs that a tuner chose; the fewer tasks, the more repeats."""
    for tails in ("normal", "t3"):
        for t, n, repeats in ((3, 40, 400), (5, 30, 200), (10, 40, 120), (30, 30, 80), (100, 30, 40)):
            rng = np.random.default_rng(t)
            means, news, ours, raw, widths = [], [], [], [], []
            for _ in range(repeats):
                world = World(rng, tails, d=4)
                runs, truth, new = world.runs(t, n), world.effects, world.effects_of_new_tasks(100)
                adjusted = Adjustment.of(runs, *_uniform((0,) * 4)).of_ranges()
                widths.append(
                    (np.diff(adjusted.prediction).mean(), np.diff(np.quantile(new, (0.025, 0.975), 0), axis=0).mean())
                )
                _, along = range_counts(runs)
                means.append(_holds(adjusted.interval, truth))
                news.append(np.mean([_holds(adjusted.prediction, each) for each in new]))
                ours.append(np.sqrt(np.mean((adjusted.mean - truth) ** 2)))
                centred = along.mean - np.repeat(along.mean.reshape(-1, RANGES).mean(1), RANGES)
                raw.append(np.sqrt(np.mean((centred - truth) ** 2)))
            name = f"{t} tasks of {n} runs, {tails}"
            yield Figure(what=f"runs: coverage of the mean, {name}", ours=float(np.mean(means)), **COVERAGE)
            yield Figure(what=f"runs: coverage of a new task, {name}", ours=float(np.mean(news)), **COVERAGE)
            wide, least = np.mean(widths, axis=0).tolist()
            yield Figure(
                what=f"runs: width for a new task, {name}",
                ours=wide,
                rival=least,
                rival_name="95% of such tasks",
                ratio=wide / least,
            )
            error, other = float(np.mean(ours)), float(np.mean(raw))
            yield Figure(
                what=f"runs: error, {name}", ours=error, rival=other, rival_name="went along", ratio=error / other
            )


class World:
    """Tasks whose outcomes are smooth in each parameter, with products of two, and differ from task to task."""

    def __init__(self, rng: np.random.Generator, tails: str, d: int, spread: float = 0.4) -> None:
        self.rng, self.draw, self.d, self.spread = rng, _tails(tails, rng), d, spread
        self.slopes, self.bends = rng.normal(size=d), -2.0 * np.abs(rng.normal(size=d))
        self.products = 0.3 * np.triu(rng.normal(size=(d, d)), 1)

    @property
    def effects(self) -> np.ndarray:
        """Of the mean task: each range less the whole."""
        return self._effects(self.slopes, self.bends)

    def effects_of_new_tasks(self, count: int) -> list[np.ndarray]:
        return [self._effects(*self._task()) for _ in range(count)]

    def runs(self, t: int, n: int) -> Runs:
        """Six runs anywhere, then seven of ten near the best so far."""
        points, outcomes = [], []
        for _ in range(t):
            slopes, bends = self._task()
            X, y = self.rng.random((n, self.d)), np.empty(n)
            for i in range(n):
                if i > 5 and self.rng.random() < 0.7:
                    X[i] = np.clip(X[np.argmax(y[:i])] + 0.15 * self.rng.normal(size=self.d), 0.0, 1.0)
                Z = X[i] - 0.5
                y[i] = 1.5 * Z @ slopes + 2.0 * Z**2 @ bends + 2.0 * Z @ self.products @ Z + 0.5 * self.rng.normal()
            points.append(X)
            outcomes.append(y)
        return _runs(np.repeat(np.arange(t), n), np.concatenate(points), np.concatenate(outcomes), (0,) * self.d)

    def _task(self) -> tuple[np.ndarray, np.ndarray]:
        return self.slopes + self.spread * self.draw((self.d,)), self.bends + self.spread * self.draw((self.d,))

    def _effects(self, slopes: np.ndarray, bends: np.ndarray) -> np.ndarray:
        z = (np.arange(400) + 0.5) / 400 - 0.5
        curves = 1.5 * z[:, None] * slopes + 2.0 * z[:, None] ** 2 * bends
        return (curves.reshape(RANGES, 100, self.d).mean(1) - curves.mean(0)).T.ravel()


def _runs(tasks: np.ndarray, points: np.ndarray, outcomes: np.ndarray, choices: tuple[int, ...]) -> Runs:
    return Runs(
        tasks=tasks.astype(np.intp),
        outcomes=outcomes,
        ranges=_ranges(points, choices),
        points=points,
        sizes=tuple(count or RANGES for count in choices),
        choices=choices,
    )


def _ranges(points: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    columns = [
        np.where(np.isnan(x), -1, np.clip(np.floor(np.nan_to_num(x) * (1 if c else RANGES)), 0, (c or RANGES) - 1))
        for x, c in zip(points.T, choices, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.int16)


def _uniform(choices: tuple[int, ...], size: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    cube = Sobol(len(choices), rng=np.random.default_rng(0)).random(size)
    points = np.where(np.array(choices) > 0, np.floor(cube * np.maximum(choices, 1)), cube)
    return points, _ranges(points, choices)


# Recorded tasks


def recorded(folder: Path, tasks: int = 30) -> Iterator[Figure]:
    """What tuners saw of other tasks, against all rows of a task that was left out."""
    for family in _families(folder):
        if len(family.tasks) < 8:
            continue
        rng = np.random.default_rng(0)
        names = family.encoding.names
        points, ranges = _recorded_design(family)
        chosen = family.tasks[:tasks]
        full = _recorded_runs(family, chosen, None, rng)
        seen = _recorded_runs(family, chosen, SEEN_ROWS, rng)
        truth = Adjustment.of(full, points, ranges).of_ranges().of_tasks
        held, stated, was_best, errors = [], [], [], []
        for left_out in np.array_split(rng.permutation(len(chosen)), min(10, len(chosen))):
            others = _without(seen, left_out)
            adjusted = Adjustment.of(others, points, ranges).of_ranges()
            _, along = range_counts(others)
            best = best_of(adjusted, seen.sizes, np.random.default_rng(0))
            for task in left_out:
                known = np.isfinite(truth[task]) & np.isfinite(adjusted.prediction).all(axis=1)
                held.append(_holds(adjusted.prediction[known], truth[task][known]))
                for cells in _cells(seen.sizes):
                    named = int(np.nanargmax(best[cells]))
                    stated.append(best[cells][named])
                    was_best.append(int(np.nanargmax(truth[task][cells])) == named)
            mean = np.nanmean(truth, axis=0)
            centred = np.concatenate(
                [along.mean[cells] - np.nanmean(along.mean[cells]) for cells in _cells(seen.sizes)]
            )
            errors.append((np.nanmean((adjusted.mean - mean) ** 2), np.nanmean((centred - mean) ** 2)))
        ours, raw = np.sqrt(np.mean(errors, axis=0)).tolist()
        what = f"{family.table}, {len(chosen)} tasks, {len(names)} parameters"
        yield Figure(what=f"recorded: coverage of a new task, {what}", ours=float(np.mean(held)), **COVERAGE)
        yield Figure(what=f"recorded: error, {what}", ours=ours, rival=raw, rival_name="went along", ratio=ours / raw)
        yield Figure(
            what=f"recorded: best range is best, {what}",
            ours=float(np.mean(was_best)),
            rival=float(np.mean(stated)),
            rival_name="stated",
        )


def _families(folder: Path) -> list[RecordedFamily]:
    return read_source(str(folder), family=None, rows=1000, say=lambda _: None)


def _recorded_design(family: RecordedFamily) -> tuple[np.ndarray, np.ndarray]:
    encoding = family.encoding
    points = encoding.uniform(Sobol(len(encoding.names), rng=np.random.default_rng(0)).random(2048))
    points = np.where(encoding.active(points), points, np.nan)
    return points, _ranges(points, _choices(family))


def _choices(family: RecordedFamily) -> tuple[int, ...]:
    distributions = family.space.distributions.values()
    return tuple(len(of.choices) if isinstance(of, CategoricalDistribution) else 0 for of in distributions)


def _recorded_runs(family: RecordedFamily, tasks: Sequence[object], rows: int | None, rng: np.random.Generator) -> Runs:
    """All rows of each task, or those a tuner sees that stays near the best; on the scale of all rows."""
    places, points, outcomes = [], [], []
    for place, task in enumerate(tasks):
        scaled = on_task_scales(np.zeros(len(task.losses), dtype=np.intp), task.losses, higher_is_better=False)
        active = family.encoding.active(task.points)
        mine = np.arange(len(scaled)) if rows is None else _tuned(task.points, scaled, rows, rng)
        places.append(np.full(len(mine), place))
        points.append(np.where(active, task.points, np.nan)[mine])
        outcomes.append(scaled[mine])
    return _runs(np.concatenate(places), np.concatenate(points), np.concatenate(outcomes), _choices(family))


def _tuned(points: np.ndarray, outcomes: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    seen = rng.permutation(len(outcomes))[:8].tolist()
    left = np.ones(len(outcomes), dtype=bool)
    left[seen] = False
    while len(seen) < min(rows, len(outcomes)):
        free = np.flatnonzero(left)
        nxt = int(rng.choice(free))
        if rng.random() < 0.7:
            best = seen[int(np.argmax(outcomes[seen]))]
            apart = np.abs(points[free] - points[best] + 0.1 * rng.normal(size=points.shape[1])).sum(axis=1)
            nxt = int(free[np.argmin(apart)])
        seen.append(nxt)
        left[nxt] = False
    return np.array(seen)


def _without(runs: Runs, left_out: np.ndarray) -> Runs:
    kept = ~np.isin(runs.tasks, left_out)
    _, tasks = np.unique(runs.tasks[kept], return_inverse=True)
    return _runs(tasks, runs.points[kept], runs.outcomes[kept], runs.choices)


def _cells(sizes: Sequence[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


# Importance


def importances(folder: Path | None) -> Iterator[Figure]:
    """Agreement with Optuna's fANOVA, and the time for 1,000 and 10,000 runs."""
    agreements = []
    for name, function, d in FUNCTIONS:
        rng = np.random.default_rng(0)
        X = rng.random((300, d))
        y = function(X)
        y = y + 0.1 * y.std() * rng.normal(size=len(y))
        agreements.append(_agreement(X, y, (0,) * d))
        yield Figure(what=f"importance: Kendall with fANOVA, {name}", ours=agreements[-1])
    for family in _families(folder) if folder is not None else []:
        rng = np.random.default_rng(0)
        task = family.tasks[0]
        rows = rng.permutation(len(task.losses))[:300]
        always = np.flatnonzero(family.encoding.active(task.points).all(axis=0))
        choices = tuple(_choices(family)[j] for j in always)
        scaled = on_task_scales(np.zeros(len(rows), dtype=np.intp), task.losses[rows], higher_is_better=False)
        agreements.append(_agreement(task.points[rows][:, always], scaled, choices))
        yield Figure(what=f"importance: Kendall with fANOVA, {task.name}", ours=agreements[-1])
    yield Figure(what="importance: Kendall with fANOVA, mean", ours=float(np.mean(agreements)), at_least=0.8)
    for n, seconds in ((1_000, 1.0), (10_000, 5.0)):
        rng = np.random.default_rng(0)
        X = rng.random((n, 8))
        y = X @ np.arange(8.0) + rng.normal(size=n)
        design, _ = _uniform((0,) * 8, 4096)
        for t in (1, 10):
            runs = _runs(np.repeat(np.arange(t), n // t), X, y, (0,) * 8)
            started = time.process_time()
            importance(runs, design, rng)
            taken = time.process_time() - started
            yield Figure(what=f"importance: {n:,} trials of {t} tasks", ours=taken, unit="s", at_most=seconds)


G = np.array([0.0, 0.5, 1.5, 3.0, 5.0, 9.0])
FUNCTIONS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray], int], ...] = (
    (
        "Ishigami",
        lambda X: (
            np.sin(np.pi * (2 * X[:, 0] - 1))
            + 7 * np.sin(np.pi * (2 * X[:, 1] - 1)) ** 2
            + 0.1 * (np.pi * (2 * X[:, 2] - 1)) ** 4 * np.sin(np.pi * (2 * X[:, 0] - 1))
        ),
        3,
    ),
    ("Sobol's g", lambda X: np.prod((np.abs(4 * X - 2) + G) / (1 + G), axis=1), 6),
    (
        "Friedman",
        lambda X: 10 * np.sin(np.pi * X[:, 0] * X[:, 1]) + 20 * (X[:, 2] - 0.5) ** 2 + 10 * X[:, 3] + 5 * X[:, 4],
        6,
    ),
    ("linear", lambda X: X @ np.array([6.0, 4.0, 3.0, 2.0, 1.0]), 5),
)


def _agreement(X: np.ndarray, y: np.ndarray, choices: tuple[int, ...]) -> float:
    points, _ = _uniform(choices, 4096)
    ours = importance(_runs(np.zeros(len(y)), X, y, choices), points, np.random.default_rng(0))
    assert ours is not None
    return float(kendalltau(ours.shares, fanova(X, y, choices)).statistic)


def fanova(X: np.ndarray, y: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    """Optuna's fANOVA importances of the parameters."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = [f"x{j:02d}" for j in range(X.shape[1])]
    space = {
        name: CategoricalDistribution(tuple(range(count))) if count else FloatDistribution(-0.1, 1.1)
        for name, count in zip(names, choices, strict=True)
    }
    study = optuna.create_study()
    for x, value in zip(X, y, strict=True):
        params = {name: int(v) if c else float(v) for name, v, c in zip(names, x, choices, strict=True)}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=float(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = FanovaImportanceEvaluator(seed=0).evaluate(study)
    return np.array([found[name] for name in names])


# Speed


def speed() -> Iterator[Figure]:
    """`hpo stats` in a new process, and the same question again in one that has asked before."""
    trials = int(os.environ.get("HPO_BENCH_TRIALS", "1000000"))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        url = f"sqlite:///{folder}/history.db"
        store = open_store(url)
        fill(store, 0, trials)
        family = list_families(store)[0].name
        store.dispose()
        command = [sys.executable, "-m", "hpo", "stats", family, "--storage", url]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = [_seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(3)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(taken)
        what = f"hpo stats, {trials:,} trials, new process"
        yield Figure(what=f"{what}, processor time", ours=worked, unit="s", at_most=5.0)
        yield Figure(what=what, ours=min(taken), unit="s", note=f"the load of the machine was {os.getloadavg()[0]:.1f}")
        store = Store(url)
        _ask(store, family)
        again = _seconds(lambda: _ask(store, family))
        yield Figure(what=f"effects of {trials:,} trials, asked again", ours=again, unit="s", at_most=1.0)
        store.dispose()


def _ask(store: Store, family: str) -> None:
    found = past_effects(store, family)
    assert found.went_along is not None
    assert found.adjusted is not None
    assert found.best is not None


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
