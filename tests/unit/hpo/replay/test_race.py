"""Is a race the same however it is run, does it go on where it was left, and does it say what goes wrong?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpo.errors import SettingsError
from hpo.replay.problem import Choice, Problem
from hpo.replay.race import MethodFailedError, run_race
from hpo.replay.runs import Run, append_run, read_runs
from tests.unit.hpo.replay.recorded import family, race

HERE = __name__


class Sure:
    """Goes through the rows, and gives intervals."""

    name = "sure"

    def begin(self, problem: Problem, seed: int) -> Sure:
        return self

    def choose(self, rows: tuple[int, ...], losses: object) -> Choice:
        ends = (float(len(rows)), 9.0) if len(rows) != 2 else (float("-inf"), 9.0)
        return Choice(row=len(rows), interval90=ends if rows else None)


class Stuck:
    name = "stuck"

    def begin(self, problem: Problem, seed: int) -> Stuck:
        return self

    def choose(self, rows: tuple[int, ...], losses: object) -> Choice:
        return Choice(row=0)


class Breaks(Stuck):
    def choose(self, rows: tuple[int, ...], losses: object) -> Choice:
        raise ZeroDivisionError("by the user")


def without_seconds(runs: list[Run]) -> list[Run]:
    return [replace(run, seconds=()) for run in runs]


def test_a_run_says_what_was_chosen_and_what_it_was_worth() -> None:
    recorded = family(rows=20)
    runs = run_race(race(recorded, methods=[f"{HERE}:Sure"], seeds=[3], budget=4))
    assert [run.task for run in runs] == [task.name for task in recorded.tasks]
    run, task = runs[1], recorded.tasks[1]
    assert run.chosen == (0, 1, 2, 3)
    np.testing.assert_array_equal(run.losses, task.losses[:4])
    assert run.intervals == (None, (1.0, 9.0), None, (3.0, 9.0))  # without ends it says nothing
    assert (run.least, run.median, run.greatest) == (task.losses.min(), np.median(task.losses), task.losses.max())
    assert (run.method, run.seed, run.regime, run.data) == (f"{HERE}:Sure", 3, "full", recorded.fingerprint)
    assert len(run.seconds) == 4 and min(run.seconds) >= 0


def test_two_processes_do_what_one_does() -> None:
    asked = race(family(tasks=3), methods=["random", "tpe"], regime="thin", budget=12)
    told: list[tuple[int, int]] = []
    one, two = run_race(asked), run_race(asked, jobs=2, progress=lambda *done: told.append(done))
    assert without_seconds(one) == without_seconds(two)
    assert told == [(number, 12) for number in range(13)]


def test_a_race_goes_on_where_it_was_left(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    recorded = family(tasks=3)
    whole = run_race(race(recorded, methods=["random", "tpe"]))
    first = run_race(race(recorded, methods=["random"], seeds=[1]), kept=kept)
    assert read_runs(kept) == first
    again = run_race(race(recorded, methods=["random", "tpe"]), kept=kept)
    assert without_seconds(again) == without_seconds(whole)
    assert [
        run for run in again if run.seed == 1 and run.method == "random"
    ] == first  # with its seconds: not run again
    size = kept.stat().st_size
    assert run_race(race(recorded, methods=["random", "tpe"]), kept=kept) == again
    assert kept.stat().st_size == size
    assert len(kept.read_text().splitlines()) == len(again)


def test_what_was_run_is_kept_when_it_is_interrupted(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"

    def interrupt(done: int, of_all: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    recorded = family(tasks=3)
    for jobs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run_race(race(recorded), jobs=jobs, kept=kept, fresh=True, progress=interrupt)
    with kept.open("a") as file:
        file.write('{"table": "cut sho')
    assert len(read_runs(kept)) >= 3
    assert without_seconds(run_race(race(recorded), kept=kept)) == without_seconds(run_race(race(recorded)))
    assert len(read_runs(kept)) == 6


def test_other_data_regime_or_budget_is_another_run(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    for number, asked in enumerate(
        (race(family()), race(family(rows=41)), race(family(), budget=7), race(family(), regime="none")), start=1
    ):
        run_race(asked, kept=kept)
        assert len(read_runs(kept)) == 10 * number


def test_fresh_runs_replace_what_was_kept(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    before = run_race(race(family()), kept=kept)
    after = run_race(race(family()), kept=kept, fresh=True)
    assert read_runs(kept) == after
    assert [run.key for run in before] == [run.key for run in after]


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    kept.write_text('{"some": "thing"}\n{"else": 1}\n')
    with pytest.raises(SettingsError, match="line 1"):
        run_race(race(family()), kept=kept)
    assert kept.read_text().count("\n") == 2


def test_a_run_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    (run, *_) = run_race(race(family(), methods=[f"{HERE}:Sure"]))
    append_run(tmp_path / "runs.jsonl", run)
    assert read_runs(tmp_path / "runs.jsonl") == [run]


def test_a_row_must_not_be_chosen_twice() -> None:
    with pytest.raises(MethodFailedError, match=r"Stuck failed on task t/0 with seed 0: it chose row 0; .* before"):
        run_race(race(family(tasks=2), methods=[f"{HERE}:Stuck"]))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_method_is_said_with_its_place(jobs: int) -> None:
    with pytest.raises(MethodFailedError, match=r"Breaks failed on task t/. with seed 0 at choice 1: ZeroDivision"):
        run_race(race(family(tasks=2), methods=[f"{HERE}:Breaks"]), jobs=jobs)


def test_a_budget_beyond_the_rows_is_said_before_anything_runs() -> None:
    with pytest.raises(SettingsError, match=r"--budget 21: task t/0 has only 20 rows"):
        race(family(rows=20), budget=21)
