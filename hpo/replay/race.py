"""What does each method reach on each task? Methods are replayed, in several processes, and what is done is kept.

The unit of work is one task with one method and all its seeds, one after the other, so that a method learns from a
history once. Each run is kept as soon as it has ended; the same race goes on from there.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hpo.errors import SettingsError, StudyFailedError
from hpo.replay.methods import load_method
from hpo.replay.problem import Choice, Method, Problem
from hpo.replay.regimes import Problems
from hpo.replay.runs import Key, Run, append_run, kept_interval, kept_number, read_runs, select
from hpo.replay.tables import RecordedFamily, RecordedTask

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # one each: processes are what runs side by side

Progress = Callable[[int, int], None]
"""Told how many runs are done, and how many there are in all."""


class MethodFailedError(StudyFailedError):
    """A method that raised an error, or chose a row that it must not choose."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Race:
    """What is to be run: every method on every task with every seed."""

    tasks: Sequence[tuple[RecordedFamily, RecordedTask]]
    methods: Sequence[str]
    regime: str
    budget: int  # choices in a run
    seeds: Sequence[int]
    rows: int  # as the families were read

    def __post_init__(self) -> None:
        """Raises SettingsError where a task has fewer rows than the budget."""
        fewest = min(self.tasks, key=lambda pair: len(pair[1].losses))[1]
        if self.budget > len(fewest.losses):
            raise SettingsError(
                f"--budget {self.budget}: task {fewest.name} has only {len(fewest.losses)} rows to choose from; "
                f"give --budget {len(fewest.losses)} or less, or leave the task out by --tasks"
            )

    @property
    def units(self) -> Iterator[_Unit]:
        """The pieces of work, in order."""
        for number in range(len(self.tasks)):
            for method in self.methods:
                yield _Unit(task=number, method=method, seeds=tuple(self.seeds))

    def key(self, task: int, method: str, seed: int) -> Key:
        """The key of a run."""
        family, recorded = self.tasks[task]
        return (
            family.table, family.family.name, recorded.name, self.regime, method, seed, self.budget, self.rows,
            family.fingerprint,
        )  # fmt: skip

    @property
    def keys(self) -> list[Key]:
        """The keys of all runs, in order."""
        return [self.key(unit.task, unit.method, seed) for unit in self.units for seed in unit.seeds]


@dataclass(frozen=True, kw_only=True)
class _Unit:
    task: int  # its place in the race
    method: str
    seeds: tuple[int, ...]


def run_race(
    race: Race, *, jobs: int = 1, kept: Path | None = None, fresh: bool = False, progress: Progress | None = None
) -> list[Run]:
    """All runs of the race, in order: those that a file has already, and the others, which are added to it.

    The result is the same for any number of `jobs`, but for the seconds. fresh: run again what the file has.
    Raises MethodFailedError, SettingsError; what has been run until then is kept.
    """
    for method in race.methods:
        load_method(method)  # says what is wrong before anything starts
    done = {run.key: run for run in (read_runs(kept) if kept is not None and not fresh else ())}
    wanted = race.keys
    units = [
        _Unit(task=unit.task, method=unit.method, seeds=missing)
        for unit in race.units
        if (missing := tuple(seed for seed in unit.seeds if race.key(unit.task, unit.method, seed) not in done))
    ]
    tell = progress or (lambda _done, _all: None)
    count = len(wanted) - sum(len(unit.seeds) for unit in units)
    tell(count, len(wanted))
    work = _in_processes(race, units, min(jobs, len(units))) if jobs > 1 and len(units) > 1 else _here(race, units)
    for run in work:
        if kept is not None:
            append_run(kept, run)
        done[run.key] = run
        count += 1
        tell(count, len(wanted))
    return select(done.values(), wanted)


# One piece of work


class Runner:
    """Does pieces of a race, and keeps what several of them share."""

    def __init__(self, race: Race) -> None:
        self._race = race
        self._problems: dict[str, Problems] = {}
        self._methods: dict[str, Method] = {}

    def runs(self, unit: _Unit) -> Iterator[Run]:
        """The runs of a piece. Raises MethodFailedError."""
        race = self._race
        family, task = race.tasks[unit.task]
        if family.fingerprint not in self._problems:
            self._problems[family.fingerprint] = Problems(family, race.regime)
        if unit.method not in self._methods:
            self._methods[unit.method] = load_method(unit.method)
        for seed in unit.seeds:
            problem = self._problems[family.fingerprint].of(task, seed)
            with threadpool_limits(limits=1):
                chosen, seconds, choices = replay(
                    self._methods[unit.method], problem, task, seed=seed, budget=race.budget, name=unit.method
                )
            yield Run(
                table=family.table,
                family=family.family.name,
                task=task.name,
                regime=race.regime,
                method=unit.method,
                seed=seed,
                budget=race.budget,
                rows=race.rows,
                data=family.fingerprint,
                chosen=tuple(chosen),
                losses=tuple(task.losses[chosen].tolist()),
                seconds=tuple(round(second, 6) for second in seconds),
                intervals=tuple(kept_interval(choice.interval90) for choice in choices),
                best_cases=tuple(kept_number(choice.best_case) for choice in choices),
                history_weights=tuple(kept_number(choice.history_weight) for choice in choices),
                least=float(task.losses.min()),
                median=float(np.median(task.losses)),
                greatest=float(task.losses.max()),
            )


def replay(
    method: Method, problem: Problem, task: RecordedTask, *, seed: int, budget: int, name: str | None = None
) -> tuple[list[int], list[float], list[Choice]]:
    """Let a method choose `budget` rows of a task: the rows, the seconds that each took, the choices themselves.

    name: of the method, as errors call it. Raises MethodFailedError where it raises, or chooses what is not there or
    was tried.
    """
    rows: list[int] = []
    seconds: list[float] = []
    choices: list[Choice] = []
    where = f"method {name or method.name} failed on task {task.name} with seed {seed}"
    begun = time.perf_counter()
    try:
        chooser = method.begin(problem, seed)
        for _ in range(budget):
            choice = chooser.choose(tuple(rows), task.losses[rows])
            now = time.perf_counter()
            seconds.append(now - begun)
            begun = now
            row = int(choice.row)
            if not 0 <= row < len(task.losses) or row in rows:
                what = "it was tried before" if row in rows else f"there are {len(task.losses)}"
                raise MethodFailedError(f"{where}: it chose row {row}; {what}")
            rows.append(row)
            choices.append(choice)
    except MethodFailedError:
        raise
    except Exception as error:
        raise MethodFailedError(f"{where} at choice {len(rows) + 1}: {type(error).__name__}: {error}") from error
    return rows, seconds, choices


# Here, or in several processes


def _here(race: Race, units: Iterable[_Unit]) -> Iterator[Run]:
    runner = Runner(race)
    for unit in units:
        yield from runner.runs(unit)


def _in_processes(race: Race, units: Sequence[_Unit], jobs: int) -> Iterator[Run]:
    """The runs as they end. Each process is given a piece when it has done another."""
    context = get_context("spawn")  # a process that has threads must not be forked
    processes = []
    waiting = iter(units)
    try:
        with _one_thread_each():
            for _ in range(jobs):
                connection, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, race), daemon=True)
                process.start()
                theirs.close()
                processes.append((process, connection))
        working = [connection for _, connection in processes]
        while working:
            for ready in wait(working):
                connection = cast(Connection, ready)
                message = _received(connection)
                if isinstance(message, Run):
                    yield message
                    continue
                unit = next(waiting, None)
                connection.send(unit)
                if unit is None:
                    working.remove(connection)
    finally:
        for process, connection in processes:
            connection.close()
            process.terminate()  # it is idle, or we have failed or been interrupted
            process.join()


def _received(connection: Connection) -> Any:
    """What a process says. Raises MethodFailedError where it has failed or died."""
    try:
        message = connection.recv()
    except (EOFError, OSError):
        raise MethodFailedError("a process that replayed methods has died; was it out of memory?") from None
    if isinstance(message, _Failure):
        raise MethodFailedError(message.said) from RuntimeError(message.traceback)
    return message


@dataclass(frozen=True, kw_only=True)
class _Failure:
    said: str
    traceback: str


_READY = "ready"


def _work(connection: Connection, race: Race) -> None:
    """Ask for pieces of work until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is interrupted ends us
    runner = Runner(race)
    try:
        connection.send(_READY)
        while (unit := connection.recv()) is not None:
            for run in runner.runs(unit):
                connection.send(run)
            connection.send(_READY)
    except (EOFError, OSError):
        return  # nobody listens any more
    except Exception as error:
        connection.send(_Failure(said=str(error), traceback=traceback.format_exc()))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
