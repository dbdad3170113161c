"""What does the tuner's look at the past cost? Arrays of a family, and its summary, as the history grows."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from storage.arrays import family_arrays
from storage.database import Store
from storage.distributions import ParameterSets
from storage.families import list_families
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.schema import open_store
from storage.sources import Source
from storage.summaries import Summaries
from tests.measured import Figure, in_turn, table

TRIALS_OF_A_STUDY, PARAMETERS = 100, 8
SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 15
SPACE = {f"x{index}": {"type": "float", "low": 0.0, "high": 1.0} for index in range(PARAMETERS)}


def main() -> Iterator[Figure]:
    """Seconds for the arrays of 100,000 trials, and milliseconds for the summary at every size."""
    largest = int(os.environ.get("HPO_BENCH_TRIALS", SIZES[-1]))
    sizes = [size for size in SIZES if size <= largest]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        small, store = open_store(f"sqlite:///{folder}/small.db"), open_store(f"sqlite:///{folder}/history.db")
        fill(small, 0, sizes[0])
        for before, size in zip([0, *sizes], sizes, strict=False):
            fill(store, before, size)
            look(store, Summaries(ParameterSets()))  # reads what has changed, and keeps it in the database
            fresh = milliseconds(1, {"fresh": lambda: look(store, Summaries(ParameterSets()))})["fresh"]
            yield Figure(what=f"summary of {size:,} trials, new process", ours=fresh, unit="ms", at_most=20.0)
            if size == 100_000:
                cold = milliseconds(1, {"cold": lambda: family_arrays(store, list_families(store)[0].name)})["cold"]
                yield Figure(what=f"arrays of {size:,} trials, cold", ours=cold / 1000, unit="s", at_most=1.0)
        yield flatness(small, store, sizes)
        small.dispose()
        store.dispose()


def flatness(small: Store, large: Store, sizes: Sequence[int]) -> Figure:
    """The same question by a process that has asked before, in turn on the smallest and on the largest history."""
    held = {name: Summaries(ParameterSets()) for name in ("small", "large")}
    asks = {"small": partial(look, small, held["small"]), "large": partial(look, large, held["large"])}
    for ask in asks.values():
        ask()
    taken = milliseconds(20, asks)
    return Figure(
        what=f"summary asked again, {sizes[-1]:,} trials against {sizes[0]:,}",
        ours=taken["large"],
        rival=taken["small"],
        unit="ms",
        ratio=taken["large"] / taken["small"],
        at_most=1.2,
    )


def fill(store: Store, before: int, after: int) -> None:
    rng = np.random.default_rng(before)
    intake = Intake(store, source=Source(name="benchmark", kind="table", location="made up"))
    for index in range(before // TRIALS_OF_A_STUDY, after // TRIALS_OF_A_STUDY):
        name = f"task {index}"
        columns = RunColumns(
            keys=[str(key) for key in range(TRIALS_OF_A_STUDY)],
            names=tuple(SPACE),
            internal=rng.random((TRIALS_OF_A_STUDY, PARAMETERS)),
            values=rng.random(TRIALS_OF_A_STUDY),
        )
        intake.take_table(PastTask(name=name, study=name, metric="loss", direction="minimize", space=SPACE), columns)
    intake.finish()


def look(store: Store, summaries: Summaries) -> None:
    """What is done before a proposal."""
    for family in summaries.families(store):
        summaries.of(store, family)


def milliseconds(repeats: int, actions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median of each action's time, of rounds in which each is done so many times."""

    def timed(action: Callable[[], object]) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            action()
        return 1000 * (time.perf_counter() - started) / repeats

    taken = in_turn(ROUNDS, {name: partial(timed, action) for name, action in actions.items()})
    return {name: statistics.median(times) for name, times in taken.items()}


if __name__ == "__main__":
    print(table(main()))
