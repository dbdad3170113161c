"""`hpo replay`: how much the history is worth, measured on the tasks that are in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpo.cli.options import Json, Server

if TYPE_CHECKING:
    from hpo.cli.replay_files import ReplayFiles
    from hpo.replay.race import Race
    from hpo.replay.report import Report
    from hpo.replay.runs import Run
    from hpo.replay.scores import MethodScore

Regime = Literal["full", "thin", "few", "permuted", "reversed", "junk", "rescaled", "shifted-space", "none"]
EXAMPLES = (
    "Examples: hpo replay sqlite:///hpo.db | hpo replay recorded/lcbench --methods history,tpe,random --tasks 10 "
    "--jobs 2 --out lcbench | hpo replay recorded --regime reversed --seeds 3 | "
    "hpo replay --methods history,my_methods:Mine --baseline my_methods:Mine --json | "
    "hpo replay --family churn --seeds 3 --out race --server http://127.0.0.1:8080"
)


def replay(
    source: Annotated[
        str | None,
        typer.Argument(
            help="URL or file of a history, a recorded table, or a folder of such tables; none with --server.",
            envvar="HPO_STORAGE",
            metavar="[STORE|DIR]",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between: history, gp, gp+portfolio, portfolio, tpe, tpe+portfolio, gpsampler, cma, "
            "random, or module:Attribute for one of yours (default history,gp+portfolio,portfolio,tpe,random).",
            metavar="A,B,…",
        ),
    ] = None,
    regime: Annotated[
        Regime,
        typer.Option(
            help="What the history is made of: all other tasks; 3 or 10 of them, 30 runs each; values permuted, "
            "reversed, 30% of the tasks reversed, or on another scale; another search space; nothing."
        ),
    ] = "full",
    budget: Annotated[int, typer.Option(min=1, help="Trials in a run.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method on each task.")] = 10,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = 1,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tune only these again: a number of each family, or names with commas.", metavar="N|A,B,…"),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=10, help="At most so many configurations of a task, drawn at random.")
    ] = 1000,
    family: Annotated[
        str | None, typer.Option(help="Only this family (`hpo history list` lists them).", metavar="NAME")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="What the others are compared with (default history, else the first).", metavar="METHOD"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write FILE.json, FILE.md and FILE.png; go on from FILE.runs.jsonl.", metavar="FILE"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what FILE.runs.jsonl has.")] = False,
    server: Server = None,
    job: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**31 - 1, help="With --server: no new replay, but the one that it does, or did, as this job."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Tune recorded tasks again: how many trials would each method have needed?

    One task at a time is left out; the history holds the others only. A method chooses among the configurations that
    were recorded for the task and is shown what they were worth, so nothing is trained. With --out, Ctrl-C loses
    nothing: the same command goes on. With --server its history is replayed there; Ctrl-C only stops looking on.
    """
    from hpo.cli.replay_files import ReplayFiles
    from hpo.cli.show import print_json
    from hpo.cli.source import server_to_ask
    from hpo.errors import SettingsError
    from hpo.replay.whole import DEFAULT_METHODS, ReplayOptions, known_methods, prepared, reported
    from hpo.settings import storage_url

    if (address := server_to_ask(source, server)) is not None:
        from hpo.cli.remote_replay import check_methods, replay_on_server

        check_methods(methods)
    options = ReplayOptions(
        source=storage_url(None) if source is None else source,
        methods=DEFAULT_METHODS if methods is None else known_methods(methods.split(",")),
        regime=regime,
        budget=budget,
        seeds=seeds,
        jobs=jobs,
        tasks=tasks,
        rows=rows,
        family=family,
        baseline=baseline,
    )
    files = None if out is None else ReplayFiles.of(out)
    if address is not None:
        with _counting() as progress:
            report, runs = replay_on_server(options, address, job=job, files=files, fresh=fresh, progress=progress)
    elif job is not None:
        raise SettingsError(f"--job {job} is a job of a service: name it by --server")
    else:
        race, setting = prepared(options, lambda note: typer.echo(note, err=True))
        runs = _run(race, jobs, files, fresh=fresh)
        report = reported(runs, setting, options)
    written = [] if files is None else files.write(report, runs)
    if json:
        print_json(report.to_json())
    else:
        _show(report)
        if written:
            typer.echo(f"wrote {', '.join([str(written[0]), *(path.name for path in written[1:])])}", err=True)


# How it is run


def _run(race: Race, jobs: int, files: ReplayFiles | None, *, fresh: bool) -> list[Run]:
    from hpo.replay.race import run_race

    kept = None if files is None else files.runs
    try:
        with _counting() as progress:
            return run_race(race, jobs=jobs, kept=kept, fresh=fresh, progress=progress)
    except KeyboardInterrupt:
        what = (
            "nothing is kept without --out" if kept is None else f"what was run is in {kept}; the same command goes on"
        )
        typer.echo(f"interrupted; {what}", err=True)
        raise


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line for each tenth."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("replaying"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    tenths = -1

    def tell(done: int, of_all: int) -> None:
        nonlocal tenths
        bar.update(task, completed=done, total=of_all)
        if not console.is_terminal and of_all and 10 * done // of_all > tenths:
            tenths = 10 * done // of_all
            typer.echo(f"{done}/{of_all} runs", err=True)

    with bar:
        task = bar.add_task("", total=None)
        yield tell


# What is shown


def _show(report: Report) -> None:
    from hpo.cli.show import open_console
    from hpo.cli.text import escape
    from hpo.replay.report import in_a_sentence

    console = open_console()
    for name, scores in report.families.items():
        _print_scores(scores, title=escape(name))
    _print_scores(report.overall, title=f"{report.tasks} tasks" if report.families else None)
    _print_intervals(report.overall)
    _print_comparisons(report)
    console.print(escape(in_a_sentence(report)), soft_wrap=True)


def _print_scores(scores: Sequence[MethodScore], title: str | None) -> None:
    from hpo.cli.show import open_console, simple_table
    from hpo.cli.text import escape
    from hpo.replay.report import label
    from hpo.replay.scores import CLOSE

    for kind, words in (("minmax", "min-max regret"), ("median", "median regret")):
        points = [str(n) for n in scores[0].regret[kind]]
        ranks = [f"rank {n}" for n in scores[0].rank]
        last = [f"trials to {CLOSE:g}", "reached", *ranks, "s p50", "s p95"]
        table = simple_table(
            "method", *points, *last, title=f"{title}: {words}" if title else words, numbers=(*points, *last)
        )
        for score in scores:
            table.add_row(
                escape(label(score.method)),
                *(f"{value:.3f}" for value in score.regret[kind].values()),
                f"{score.trials_to_close[kind]:.1f}",
                f"{score.reached[kind]:.0%}",
                *(f"{rank:.2f}" for rank in score.rank.values()),
                f"{score.seconds['p50']:.3f}",
                f"{score.seconds['p95']:.3f}",
            )
        open_console().print(table)


def _print_intervals(scores: Sequence[MethodScore]) -> None:
    from hpo.cli.show import open_console, simple_table
    from hpo.cli.text import escape
    from hpo.replay.report import bucket_name, label

    given = [score for score in scores if score.intervals is not None]
    if not given:
        return
    columns = ["all", *(bucket_name(each.first, each.last) for each in given[0].buckets)]
    table = simple_table("method", *columns, title="90% intervals: how many held the next loss (and their width)")
    for score in given:
        assert score.intervals is not None
        table.add_row(
            escape(label(score.method)),
            *(
                "-" if each.coverage is None or each.width is None else f"{each.coverage:.2f} ({each.width:.2f})"
                for each in (score.intervals, *score.buckets)
            ),
        )
    open_console().print(table)


def _print_comparisons(report: Report) -> None:
    from hpo.cli.show import open_console, simple_table
    from hpo.cli.text import escape
    from hpo.replay.report import difference_text, label, ratio_text
    from hpo.replay.scores import CLOSE

    if not report.comparisons:
        return
    base = escape(label(report.baseline))
    for kind, words in (("minmax", "min-max regret"), ("median", "median regret")):
        points = [each.at for each in report.comparisons[0].differences if each.kind == kind]
        table = simple_table(
            f"less {base}",
            *(f"at {n}" for n in points),
            f"trials to {CLOSE:g}, ratio",
            title=f"difference in {words} from {base}: 95% over tasks, p after Holm",
        )
        for comparison in report.comparisons:
            texts = [difference_text(each) for each in comparison.differences if each.kind == kind]
            table.add_row(escape(label(comparison.method)), *texts, ratio_text(comparison, kind))
        open_console().print(table)
