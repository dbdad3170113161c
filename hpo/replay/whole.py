"""A replay from what was recorded to its report, for the command line and for jobs in the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hpo.errors import SettingsError
from hpo.replay.methods import METHODS, load_method
from hpo.replay.race import Progress, Race, run_race
from hpo.replay.report import Report, Setting, report_on
from hpo.replay.runs import Run, write_runs
from hpo.replay.tables import RecordedFamily, chosen_tasks, read_source
from storage.masking import without_secrets

DEFAULT_METHODS = ("history", "gp+portfolio", "portfolio", "tpe", "random")


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What is to be tuned again, and how."""

    source: str  # URL or file of a history, or a folder of recorded tables
    methods: Sequence[str] = DEFAULT_METHODS
    regime: str = "full"
    budget: int = 30
    seeds: int = 10
    jobs: int = 1
    tasks: str | None = None  # a number of each family, or names with commas
    rows: int = 1_000
    family: str | None = None
    baseline: str | None = None


def prepared(options: ReplayOptions, say: Callable[[str], None]) -> tuple[Race, Setting]:
    """The race, and what is to be said of it. say: told what is left out. Raises SettingsError, NoHistoryError."""
    if options.baseline is not None and options.baseline not in options.methods:
        raise SettingsError(f"--baseline {options.baseline}: it is not among the methods: {', '.join(options.methods)}")
    notes: list[str] = []
    families = read_source(options.source, family=options.family, rows=options.rows, say=notes.append)
    for note in notes:
        say(note)
    chosen = chosen_tasks(families, options.tasks)
    if not chosen:
        raise SettingsError(f"--tasks {options.tasks}: name one task at least")
    race = Race(
        tasks=chosen,
        methods=options.methods,
        regime=options.regime,
        budget=options.budget,
        seeds=range(options.seeds),
        rows=options.rows,
    )
    setting = Setting(
        source=without_secrets(options.source),
        regime=options.regime,
        budget=options.budget,
        seeds=options.seeds,
        rows=options.rows,
        recorded={f"{each.table}: {each.family.name}": _size(each) for each in families},
        skipped=notes,
    )
    return race, setting


def replayed(options: ReplayOptions, *, kept: Path, progress: Progress) -> Report:
    """The report of a replay that goes on from the runs in `kept`, and leaves those there that it is made of.

    Others are of data that have changed since the replay was begun. Raises as `prepared` does.
    """
    race, setting = prepared(options, lambda _note: None)
    runs = run_race(race, jobs=options.jobs, kept=kept, fresh=False, progress=progress)
    write_runs(kept, runs)
    return reported(runs, setting, options)


def reported(runs: Sequence[Run], setting: Setting, options: ReplayOptions) -> Report:
    """What is said about the runs."""
    return report_on(runs, setting, baseline=options.baseline, now=datetime.now(UTC))


def known_methods(methods: Sequence[str]) -> list[str]:
    """The methods, each once. Raises SettingsError for one that is not known."""
    names = list(dict.fromkeys(name.strip() for name in methods if name.strip()))
    if not names:
        raise SettingsError(f"--methods names none; there are {', '.join(METHODS)}")
    for name in names:
        load_method(name)
    return names


def _size(family: RecordedFamily) -> str:
    rows = [len(task.losses) for task in family.tasks]
    drawn = sum(len(task.losses) < task.rows_in_all for task in family.tasks)
    span = f"{min(rows):,}" if min(rows) == max(rows) else f"{min(rows):,} to {max(rows):,}"
    of_more = f", drawn at random from up to {max(task.rows_in_all for task in family.tasks):,}" if drawn else ""
    return f"{len(family.tasks)} tasks, {span} configurations each{of_more}"
