"""Is the tuner better than its rivals? A race on recorded tables: `make bench-tuner`.

    python -m tests.benchmarks.tuner FOLDER --tables lcbench,svm --regimes full,thin --methods history,rgpe --seeds 3

In the folder each recorded table has one of its own (without an argument: the environment variable HPO_TABLES). One
task at a time is left out, and a method chooses among its recorded rows. What has been run is kept and not run again,
so a race can be cut into parts; `--again` runs methods anew whose code has changed. What was asked for is written to
the folder tests/benchmarks/results: one table in tuner.md, and with all comparisons in tuner.json; and a picture of
each regime.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from hpo.answers.plain import jsonable
from hpo.replay.methods import METHODS
from hpo.replay.plot import plot_curves
from hpo.replay.race import Race, run_race
from hpo.replay.regimes import REGIMES
from hpo.replay.report import Report, Setting, difference_text, report_on
from hpo.replay.runs import Run
from hpo.replay.scores import MethodScore
from hpo.replay.tables import RecordedFamily, chosen_tasks, read_source
from tests.benchmarks.rivals import OPTIONAL, RIVALS

RESULTS = Path(__file__).parent / "results"
BASELINE = "plain-gp+portfolio"  # the honest one
NOT_BY_DEFAULT = ("cma", "gpsampler", "tpe+portfolio")  # weaker forms of rivals that are there
SHOWN = {  # in pictures
    "history": "Hindsight with history",
    "gp": "Hindsight without",
    "optuna-gp": "Optuna GPSampler",
    "optuna-tpe": "Optuna TPESampler",
    "plain-gp+portfolio": "Gaussian process after a portfolio",
    "rgpe": "RGPE",
}
DEFAULT_REGIMES = ("full", "thin", "few", "permuted", "reversed", "junk", "rescaled", "shifted-space")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is to be run."""

    folder: Path
    tables: Sequence[str] | None  # None: all in the folder
    regimes: Sequence[str]
    methods: Sequence[str]
    again: Sequence[str]  # methods of which nothing kept is used
    tasks: str | None  # a number of each family, or names
    seeds: int
    budget: int
    rows: int
    jobs: int
    results: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the race, or a part of it, and write the results; 2 where there are no tables."""
    part = _part(arguments)
    folders = list(_tables(part))
    if not folders:
        print(f"there are no recorded tables in {part.folder}", file=sys.stderr)
        return 2
    notes: list[str] = []
    families = [
        family for table in folders for family in read_source(str(table), family=None, rows=part.rows, say=notes.append)
    ]
    (part.results / "runs").mkdir(parents=True, exist_ok=True)
    reports = []
    for regime in part.regimes:
        runs = _run(part, families, regime)
        baseline = BASELINE if BASELINE in part.methods else None
        setting = Setting(
            source=", ".join(table.name for table in folders),
            regime=regime,
            budget=part.budget,
            seeds=part.seeds,
            rows=part.rows,
            recorded={f"{each.table}: {each.family.name}": f"{len(each.tasks)} tasks" for each in families},
            skipped=notes,
        )
        reports.append(report_on(runs, setting, baseline=baseline, now=datetime.now(UTC)))
        _write(part.results, reports)  # after each regime: a race takes hours
        _draw(part.results / f"{regime}.png", runs, regime)
    print((part.results / "tuner.md").read_text(encoding="utf-8"))
    return 0


def _run(part: Part, families: Sequence[RecordedFamily], regime: str) -> list[Run]:
    """The runs of a regime, those of rivals under their short names."""
    tasks = chosen_tasks(families, part.tasks)
    kept = part.results / "runs" / f"{regime}.jsonl"

    def race(methods: Sequence[str]) -> Race:
        loadable = [RIVALS.get(method, method) for method in methods]
        return Race(
            tasks=tasks, methods=loadable, regime=regime, budget=part.budget, seeds=range(part.seeds), rows=part.rows
        )

    if part.again:
        run_race(race(part.again), jobs=part.jobs, kept=kept, fresh=True, progress=_tell(f"{regime}, again"))
    runs = run_race(race(part.methods), jobs=part.jobs, kept=kept, progress=_tell(regime))
    names = {loadable: name for name, loadable in RIVALS.items()}
    return [replace(run, method=names.get(run.method, run.method)) for run in runs]


def _tell(what: str):
    """Say each tenth of the way."""
    said = -1

    def tell(done: int, in_all: int) -> None:
        nonlocal said
        if in_all and 10 * done // in_all > said:
            said = 10 * done // in_all
            print(f"{what}: {done} of {in_all} runs", file=sys.stderr, flush=True)

    return tell


# What is said


def _write(results: Path, reports: Sequence[Report]) -> None:
    (results / "tuner.md").write_text(markdown(reports), encoding="utf-8")
    content = json.dumps(jsonable([report.to_json() for report in reports]), indent=1, ensure_ascii=False)
    (results / "tuner.json").write_text(f"{content}\n", encoding="utf-8")


def _draw(path: Path, runs: Sequence[Run], regime: str) -> None:
    tasks = len({(run.table, run.family, run.task) for run in runs})
    seeds = len({run.seed for run in runs})
    tables = len({run.table for run in runs})
    title = f"{tasks} recorded tasks of {tables} tables, {seeds} seeds: each tuned again with the others as its history"
    shown = [replace(run, method=SHOWN.get(run.method, run.method)) for run in runs]
    plot_curves(shown, path, title=title if regime == "full" else f"{title} ({regime})")


def markdown(reports: Sequence[Report]) -> str:
    """One table: a line for each regime, table and method."""
    first = reports[0]
    minmax, median = first.overall[0].regret["minmax"], first.overall[0].regret["median"]
    header = ["regime", "table", "method", *(f"at {n}" for n in minmax), "trials to .05"]
    header += [*(f"median at {n}" for n in median), *(f"rank at {n}" for n in first.overall[0].rank)]
    header += ["coverage", "s p50", "s p95", f"at 10 less {first.baseline}"]
    lines = [
        f"{first.date:%Y-%m-%d}, {first.code}, {first.setting.seeds} seeds, {first.setting.budget} trials, at most "
        f"{first.setting.rows:,} rows a task, {first.tasks} tasks, {first.machine}.",
        "",
        "Mean min-max regret after so many trials, mean trials to a regret of .05 (one more than the budget where it "
        "was not reached), mean median regret, mean rank, how many of the 90% intervals held, seconds for a choice, "
        "and the difference in min-max regret with its 95% interval over tasks (p after Holm).",
        "",
        _row(header),
        _row(["---"] * len(header)),
    ]
    for report in reports:
        differences = {
            comparison.method: difference_text(each)
            for comparison in report.comparisons
            for each in comparison.differences
            if each.kind == "minmax" and each.at == 10
        }
        for score in report.overall:
            lines.append(_line(report, "all", score, differences.get(score.method, "")))
        for label, scores in report.families.items():
            lines += [_line(report, label.partition(":")[0], score, "") for score in scores]
    return "\n".join([*lines, ""])


def _line(report: Report, table: str, score: MethodScore, difference: str) -> str:
    coverage = None if score.intervals is None else score.intervals.coverage
    cells = [report.setting.regime, table, score.method, *(f"{value:.3f}" for value in score.regret["minmax"].values())]
    cells += [f"{score.trials_to_close['minmax']:.1f}", *(f"{value:.3f}" for value in score.regret["median"].values())]
    cells += [*(f"{rank:.2f}" for rank in score.rank.values()), "" if coverage is None else f"{coverage:.2f}"]
    cells += [f"{score.seconds['p50']:.3f}", f"{score.seconds['p95']:.3f}", difference]
    return _row(cells)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# What is asked for


def _part(arguments: Sequence[str] | None) -> Part:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tuner", description=__doc__.splitlines()[0])
    default = os.environ.get("HPO_TABLES")
    parser.add_argument("folder", nargs="?", default=default, type=Path, help="of tables (default: $HPO_TABLES)")
    parser.add_argument("--tables", type=_names, help="of the folder, with commas between (default: all)")
    parser.add_argument("--regimes", type=_names, default=DEFAULT_REGIMES, help=f"of {', '.join(REGIMES)}")
    parser.add_argument("--methods", type=_names, default=_default_methods(), help=f"of {', '.join(_known())}")
    parser.add_argument("--again", type=_names, default=(), help="methods to run anew, whatever is kept of them")
    parser.add_argument("--tasks", help="to be tuned again: a number of each table, or names (default: all)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=30, help="trials in a run")
    parser.add_argument("--rows", type=int, default=1000, help="of a task at most, drawn at random")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    asked = parser.parse_args(arguments)
    if asked.folder is None:
        parser.error("name the folder of the recorded tables, or set HPO_TABLES")
    for name, given, known in (("regimes", asked.regimes, REGIMES), ("methods", asked.methods, _known())):
        if unknown := [each for each in given if each not in known and ":" not in each]:
            parser.error(f"--{name}: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    if missing := [each for each in asked.again if each not in asked.methods]:
        parser.error(f"--again {','.join(missing)}: not among the methods")
    return Part(**vars(asked))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _known() -> list[str]:
    return [*METHODS, *RIVALS]


def _default_methods() -> tuple[str, ...]:
    """All that can run here, but for weaker forms of the same."""
    missing = {name for name, module in OPTIONAL.items() if find_spec(module) is None}
    return tuple(name for name in _known() if name not in NOT_BY_DEFAULT and name not in missing)


def _tables(part: Part) -> Iterator[Path]:
    """The folders of the tables. Exits where one is not there."""
    there = {space.parent.name: space.parent for space in sorted(part.folder.glob("*/space.json"))}
    for name in part.tables or there:
        if name not in there:
            sys.exit(f"--tables {name}: {part.folder} has {', '.join(there) or 'none'}")
        yield there[name]


if __name__ == "__main__":
    sys.exit(main())
