"""The tuner at work on recorded tasks, one study each: what two of the measurements start from."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hpo.replay.race import Race, run_race
from hpo.replay.runs import Run
from hpo.replay.tables import chosen_tasks, read_source

RESULTS = Path(__file__).parents[1] / "results"
KEPT = RESULTS / "runs" / "tuned.jsonl"  # what has been run is not run again
ROWS = 300  # of a task, to choose from
QUICK_TABLES = ("hpobench_mlp8", "taskset_rnn_adam8p")


def parser(description: str) -> argparse.ArgumentParser:
    """What both measurements may be asked for."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("HPO_TABLES")
    found.add_argument("folder", nargs="?", default=default, type=Path, help="of recorded tables (default $HPO_TABLES)")
    found.add_argument("--tables", default=None, help="only these, with commas")
    found.add_argument("--tasks", default="20", help="of each table, drawn at random but always the same (default 20)")
    found.add_argument("--budget", type=int, default=30, help="trials of a study (default 30)")
    found.add_argument("--seeds", type=int, default=1, help="studies of each task (default 1)")
    found.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    found.add_argument("--kept", type=Path, default=KEPT, help="file of runs to go on from")
    found.add_argument("--quick", action="store_true", help="two small tables, 6 tasks of each")
    return found


def tuned(options: argparse.Namespace, method: str = "history", regime: str = "full") -> dict[str, list[Run]]:
    """The runs of each table, by a method and with a history of `hpo replay`."""
    if options.folder is None:
        raise SystemExit("name the folder of the recorded tables, or set HPO_TABLES")
    names = options.tables.split(",") if options.tables else QUICK_TABLES if options.quick else None
    folders = [each.parent for each in sorted(options.folder.glob("*/space.json"))]
    found: dict[str, list[Run]] = {}
    options.kept.parent.mkdir(parents=True, exist_ok=True)
    for table in [each for each in folders if names is None or each.name in names]:
        families = read_source(str(table), family=None, rows=ROWS, say=lambda note: None)
        race = Race(
            tasks=chosen_tasks(families, "6" if options.quick else options.tasks),
            methods=(method,),
            regime=regime,
            budget=options.budget,
            seeds=range(options.seeds),
            rows=ROWS,
        )
        found[table.name] = run_race(
            race, jobs=options.jobs, kept=options.kept, progress=_tell(f"{table.name}, {method}, {regime}")
        )
    if not found:
        raise SystemExit(f"there are no recorded tables in {options.folder}")
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)) + "\n"


def _tell(what: str):
    said = -1

    def tell(done: int, in_all: int) -> None:
        nonlocal said
        if in_all and 4 * done // in_all > said:
            said = 4 * done // in_all
            print(f"{what}: {done} of {in_all} studies", file=sys.stderr, flush=True)

    return tell
