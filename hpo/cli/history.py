"""`hpo history`: past runs are brought in, looked at, asked about, and let go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TextIO

import typer

from hpo.cli.options import Json, Server, Storage

if TYPE_CHECKING:
    from datetime import datetime

    from storage.importers.report import ImportReport, RowByRow, RowReport
    from storage.schema import Store

history = typer.Typer(
    help="Past runs: bring them in, look at them, ask about them.", no_args_is_help=True, rich_markup_mode=None
)
imports = typer.Typer(
    help="Bring in past runs from MLflow, Optuna, tables or Lightning's logs. Each run is taken once, however often "
    "it is imported.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
history.add_typer(imports, name="import")

ROWS_SHOWN = 50
FIELDS_HELP = (
    "task, family, study, source, state, value, number, seed, epochs, cost (seconds), started, finished, metric, "
    "direction, error, worker, code_version, data_fingerprint, hardware, checkpoint, quarantine, params.NAME, "
    "attrs.NAME and tags.NAME"
)


# What there is


@history.command("list", epilog="Examples: hpo history list | hpo history list --json | jq '.sources[].trials'")
def list_sources(storage: Storage = None, server: Server = None, json: Json = False) -> None:
    """List the sources of the history, its families, and what is in quarantine."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        known, families = found.sources()
    history_show.sources(known, families, as_json=json)


@history.command("show", epilog="Examples: hpo history show mlflow:team | hpo history show val_loss-1a2b3c4d --json")
def show(
    name: Annotated[str, typer.Argument(help="A source, a task, a family or a study.", metavar="NAME")],
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show what is in a source, a task, a family or a study: how much, the best of it, its cost, its space."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        named = found.about(name)
    history_show.about(named, as_json=json)


@history.command(
    "query",
    epilog='Examples: hpo history query "task = digits and value < 0.3" --top 5 | hpo history query "params.lr '
    "between 1e-4 and 1e-2 and params.optimizer in ('sgd', 'adam') and state = complete\" --out trials.parquet | "
    'hpo history query "started >= 2026-01-01 and not (source = mlflow:team or tags.team = vision)" --totals | '
    'hpo history query --format csv --columns task,value,params | hpo history query "error is not null" --count',
)
def query(
    where: Annotated[
        str,
        typer.Argument(
            help=f"The condition: fields ({FIELDS_HELP}); = != < <= > >=, in, between, like, ilike, is null; and, or, "
            "not, parentheses. All trials if there is none.",
            metavar="[WHERE]",
            show_default=False,
        ),
    ] = "",
    top: Annotated[
        int | None, typer.Option(min=1, help="Only the K first: the best, if no other order is given.", metavar="K")
    ] = None,
    order_by: Annotated[
        str | None, typer.Option(help="The order: a field, params.NAME or best.", metavar="FIELD")
    ] = None,
    desc: Annotated[bool, typer.Option("--desc", help="The greatest first; without an order, the latest.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    totals: Annotated[bool, typer.Option("--totals", help="Only sums by state and task, cost, the best.")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="The metric along the training, too.")] = False,
    columns: Annotated[
        str | None,
        typer.Option(help="Which columns: fields, params (all), attrs (all), curve.", metavar="A,B,…"),
    ] = None,
    format: Annotated[
        Literal["table", "json", "jsonl", "csv", "parquet"] | None,
        typer.Option(help="The format; that of FILE's ending, or a table.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to a file.", metavar="FILE")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Find trials: which ones, how many, at what cost.

    Texts stand in quotes, unless they are one word; odd names in backticks: params.`my lr`. Patterns of like have % for
    any text and _ for any character. Times are UTC where they have no zone. A comparison with what a trial does not
    have is false.
    """
    from hpo.answers.trial_table import columns_of, format_of, split_names, write_rows
    from hpo.cli import history_show
    from hpo.cli.history_source import past
    from hpo.errors import SettingsError

    chosen = format_of(out, format, as_json=json)
    if out is not None and out.exists() and not force:
        raise SettingsError(f"{out} is there already; --force overwrites it")
    if (count or totals) and (chosen not in ("table", "json") or out is not None):
        raise SettingsError("--count and --totals print a table, or JSON with --json")
    wanted = split_names(columns or "")
    order = order_by or ("best" if top is not None else None)
    limit = ROWS_SHOWN + 1 if chosen == "table" and top is None else top
    with past(storage, server) as history:
        if count:
            history_show.count(history.count(where), as_json=chosen == "json")
            return
        if totals:
            history_show.totals(history.totals(where), as_json=chosen == "json")
            return
        with history.select(
            where, order_by=order, descending=desc, limit=limit, curves=curves or "curve" in wanted
        ) as selection:
            if chosen != "table":
                found = columns_of(selection.parameters, wanted, curves=curves, nested=chosen in ("json", "jsonl"))
                written = write_rows(selection.rows, found, chosen, out)
            elif wanted:
                found = columns_of(selection.parameters, wanted)
                written = history_show.rows(selection.rows, found, limit=top or ROWS_SHOWN)
            else:
                written = history_show.rows_for_a_person(
                    selection.rows, selection.parameters, curves=curves, limit=top or ROWS_SHOWN
                )
        if out is not None:
            typer.echo(f"wrote {written:,} trials to {out}", err=True)
        elif chosen == "table" and top is None and written == ROWS_SHOWN:
            total = history.count(where)
            if total > written:
                history_show.more_rows(written, total)


@history.command("spaces", epilog="Examples: hpo history spaces | hpo history spaces --json | jq '.relations[]'")
def spaces(storage: Storage = None, server: Server = None, json: Json = False) -> None:
    """Show the search space of each family, and how the spaces of near families relate."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past
    from hpo.spaces.related_families import related

    with past(storage, server) as found:
        _, overview = found.sources()
    history_show.spaces(overview.families, related(overview.families), as_json=json)


# What comes in


Metric = Annotated[str | None, typer.Option(help="The metric the runs are judged by; guessed if it is not given.")]
Direction = Annotated[
    Literal["minimize", "maximize"] | None,
    typer.Option(help="Whether less or more of it is better; guessed if it is not given.", show_default=False),
]
Map = Annotated[
    Path | None,
    typer.Option(
        "--map",
        help="YAML file that renames, scales, replaces and drops parameters, values and metrics.",
        metavar="FILE",
    ),
]
SourceName = Annotated[
    str | None, typer.Option("--source", help="What to call this source in the history.", metavar="NAME")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken; write nothing.")]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Write what became of every run, a line of JSON for each: row (what it is called where it comes from), "
        "verdict (taken, skipped or rejected), reason (why it was not taken), task, study, trial (the number that it "
        "got). It is written while the import goes on; a new file.",
        metavar="FILE",
    ),
]
History = Annotated[
    str | None,
    typer.Option(
        "--storage",
        "--history",
        help="URL of the history: sqlite:///hpo.db or postgresql://user@host/db.",
        envvar="HPO_STORAGE",
        metavar="URL",
    ),
]


@imports.command(
    "mlflow",
    epilog="Examples: hpo history import mlflow --uri http://mlflow:5000 --experiment churn --dry-run | "
    "hpo history import mlflow --uri sqlite:///mlflow.db --since 2026-01-01 --metric val_acc --direction maximize | "
    'hpo history import mlflow --uri mlruns --map team.yaml --task "{experiment}/{tag:dataset}"',
)
def import_mlflow(
    uri: Annotated[
        str,
        typer.Option(help="Tracking server, database or folder of runs.", envvar="MLFLOW_TRACKING_URI", metavar="URI"),
    ],
    experiment: Annotated[
        list[str] | None, typer.Option(help="Only this experiment; may be given several times.", metavar="NAME")
    ] = None,
    filter: Annotated[str, typer.Option(help="Only runs that meet this filter, as MLflow writes it.")] = "",
    since: Annotated[
        str | None, typer.Option(help="Only runs that began then or later; UTC if without zone.", metavar="TIME")
    ] = None,
    task: Annotated[
        str, typer.Option(help="What a run's task is called: made of {experiment}, {tag:NAME}, {param:NAME}.")
    ] = "{experiment}",
    metric: Metric = None,
    direction: Direction = None,
    map: Map = None,
    source: SourceName = None,
    dry_run: DryRun = False,
    report: Report = None,
    storage: History = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Bring in MLflow runs of any kind, with their curves and tags.

    With --server, --uri is as the service sees it: an address that its settings allow, or a path among its projects.
    """

    def read(store: Store, metric: str | None, direction: str | None, **told: Any) -> ImportReport:
        from storage.importers import mlflow

        return mlflow.import_mlflow(
            store,
            uri=uri,
            experiments=experiment or (),
            filter=filter,
            since=_time(since),
            metric=metric,
            direction=direction,
            task=task,
            mapping=_mapping(map),
            source=source,
            dry_run=dry_run,
            **told,
        )

    began = _time(since)
    asked = {
        "kind": "mlflow",
        "uri": uri,
        "experiments": experiment or [],
        "filter": filter,
        "since": None if began is None else began.isoformat(),
        "task": task,
    }
    how = _How(asked=asked, map=map, source=source, dry_run=dry_run, report=report, as_json=json)
    _import(read, how, metric=metric, direction=direction, storage=storage, server=server)


@imports.command(
    "optuna",
    epilog="Examples: hpo history import optuna --storage sqlite:///optuna.db | hpo history import optuna --storage "
    "journal.log --study churn | hpo history import optuna --storage mysql://user@host/optuna --dry-run",
)
def import_optuna(
    storage: Annotated[
        str, typer.Option(help="Where Optuna has them: a database URL or a journal file.", metavar="URL|FILE")
    ],
    study: Annotated[
        list[str] | None, typer.Option(help="Only this study; may be given several times.", metavar="NAME")
    ] = None,
    map: Map = None,
    source: SourceName = None,
    dry_run: DryRun = False,
    report: Report = None,
    history: Annotated[
        str | None,
        typer.Option(
            help="URL of the history: sqlite:///hpo.db or postgresql://user@host/db.",
            envvar="HPO_STORAGE",
            metavar="URL",
        ),
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Bring in Optuna studies, with distributions, intermediate values and attributes.

    Here --storage is Optuna's; --history is where they come to. With --server, --storage is as the service sees it.
    """

    def read(store: Store, metric: str | None, direction: str | None, **told: Any) -> ImportReport:
        from storage.importers import optuna

        return optuna.import_optuna(
            store,
            storage=storage,
            studies=study or (),
            mapping=_mapping(map),
            source=source,
            dry_run=dry_run,
            **told,
        )

    asked = {"kind": "optuna", "storage": storage, "studies": study or []}
    how = _How(asked=asked, map=map, source=source, dry_run=dry_run, report=report, as_json=json)
    _import(read, how, metric=None, direction=None, storage=history, server=server)


@imports.command(
    "table",
    epilog="Examples: hpo history import table runs.csv --metric val_loss | hpo history import table sweep.parquet "
    "--task dataset --map sweep.yaml | hpo history import table recorded/lcbench",
)
def import_table(
    path: Annotated[
        Path, typer.Argument(help="A CSV or Parquet file, a recorded table, or a folder of these.", metavar="FILE|DIR")
    ],
    metric: Metric = None,
    direction: Direction = None,
    task: Annotated[
        str | None, typer.Option(help="The column with a row's task, or one name for all.", metavar="COLUMN|NAME")
    ] = None,
    map: Map = None,
    source: SourceName = None,
    dry_run: DryRun = False,
    report: Report = None,
    storage: History = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Bring in a table: a row is a run, with its parameters and its metric. With --server, it is sent there."""

    def read(store: Store, metric: str | None, direction: str | None, **told: Any) -> ImportReport:
        from storage.importers import table

        return table.import_table(
            store,
            path,
            metric=metric,
            direction=direction,
            task=task,
            mapping=_mapping(map),
            source=source,
            dry_run=dry_run,
            **told,
        )

    asked = {"kind": "table", "path": str(path), "task": task}
    how = _How(asked=asked, map=map, source=source, dry_run=dry_run, report=report, as_json=json)
    _import(read, how, metric=metric, direction=direction, storage=storage, server=server)


@imports.command(
    "lightning",
    epilog="Examples: hpo history import lightning lightning_logs | hpo history import lightning runs --metric val_acc "
    '--direction maximize --task "{folder}"',
)
def import_lightning(
    folder: Annotated[
        Path, typer.Argument(help="Where Lightning's CSVLogger or TensorBoardLogger has written.", metavar="DIR")
    ],
    metric: Metric = None,
    direction: Direction = None,
    task: Annotated[
        str | None, typer.Option(help="What a run's task is called: made of {folder}, {param:NAME}; or one name.")
    ] = None,
    map: Map = None,
    source: SourceName = None,
    dry_run: DryRun = False,
    report: Report = None,
    storage: History = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Bring in what Lightning has logged as CSV or for TensorBoard.

    With --server, DIR is a folder among the projects of the service.
    """

    def read(store: Store, metric: str | None, direction: str | None, **told: Any) -> ImportReport:
        from storage.importers import lightning

        return lightning.import_lightning(
            store,
            folder,
            metric=metric,
            direction=direction,
            task=task,
            mapping=_mapping(map),
            source=source,
            dry_run=dry_run,
            **told,
        )

    asked = {"kind": "lightning", "folder": str(folder), "task": task}
    how = _How(asked=asked, map=map, source=source, dry_run=dry_run, report=report, as_json=json)
    _import(read, how, metric=metric, direction=direction, storage=storage, server=server)


# What goes


@history.command(
    "forget", epilog="Examples: hpo history forget mlflow:old --dry-run | hpo history forget runs.csv --yes"
)
def forget(
    source: Annotated[str, typer.Argument(help="A source (`hpo history list` lists them).", metavar="SOURCE")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Remove a source with all its studies and trials, and what was learned from them."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past
    from hpo.cli.text import visible
    from hpo.errors import SettingsError

    with past(storage, server) as found:
        gone = found.forget(source, dry_run=True)
        if not dry_run:
            if not yes:
                what = f"{history_show.sizes(gone)} of {visible(source)}"
                if not sys.stdin.isatty():
                    raise SettingsError(f"{what} would go; say --yes, for nobody can be asked here")
                typer.confirm(f"forget {what}, for good?", abort=True, err=True)
            gone = found.forget(source, dry_run=False)
    history_show.forgotten(source, gone, dry_run=dry_run, as_json=json)


@history.command(
    "delete", epilog="Examples: hpo history delete churn-mlp | hpo history delete churn-mlp --files --mlflow-runs --yes"
)
def delete(
    study: Annotated[str, typer.Argument(help="A study.", metavar="STUDY")],
    files: Annotated[
        bool, typer.Option("--files", help="With its checkpoints and outputs, in hpo-runs or HPO_RUNS.")
    ] = False,
    mlflow_runs: Annotated[
        bool, typer.Option("--mlflow-runs", help="With its runs in MLflow, which marks them as deleted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Delete a study with its trials and their replicates; what stays of it, and where, is said."""
    from hpo.cli import history_deleting
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        if not yes:
            history_deleting.confirm(study, found.size_of(study), files=files, mlflow_runs=mlflow_runs)
        done = found.delete(study, files=files, mlflow_runs=mlflow_runs)
    history_deleting.deleted(done, as_json=json)


@history.command(
    "export", epilog="Examples: hpo history export val_loss-1a2b3c4d tables | hpo history export mlflow:team tables"
)
def export(
    target: Annotated[str, typer.Argument(help="A family, a task, a study or a source.", metavar="TARGET")],
    folder: Annotated[Path, typer.Argument(help="The folder to write to.", metavar="FOLDER")],
    force: Annotated[bool, typer.Option("--force", help="Replace tables that are there.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Write past runs as recorded tables, which `hpo history import table` reads again."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        paths, notes = found.export(target, folder, force=force)
    history_show.exported(paths, notes, as_json=json)


# What is in order


@history.command("verify", epilog="Examples: hpo history verify | hpo history verify --json")
def verify(storage: Storage = None, server: Server = None, json: Json = False) -> None:
    """Look for what is not whole, does not fit together, or is in quarantine; exit code 1 where there is something."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found, _counting("verifying", of_all=True) as progress:
        findings, quarantine = found.verify(progress)
    history_show.verified(findings, quarantine, as_json=json)
    if findings or quarantine:
        raise typer.Exit(1)


@history.command("trust", epilog="Example: hpo history trust mlflow:team/churn")
def trust(
    study: Annotated[str, typer.Argument(help="A study in quarantine (`hpo history list` lists them).")],
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Let the tuner learn again from a study that was put in quarantine."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        reason = found.trust(study)
    history_show.trusted(study, reason, as_json=json)


@history.command(
    "quarantine", epilog='Example: hpo history quarantine mlflow:team/churn --reason "trained on the test set"'
)
def quarantine(
    study: Annotated[str, typer.Argument(help="A study.")],
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the study is.", metavar="TEXT")],
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Let the tuner learn no more from a study, until `hpo history trust`. Nothing of it is lost."""
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        before = found.quarantine(study, reason)
    history_show.quarantined(study, reason, before, as_json=json)


@history.command(
    "accept-late",
    epilog="Examples: hpo history accept-late churn-mlp 7 | hpo history accept-late churn-mlp 7 --result 2",
)
def accept_late(
    study: Annotated[str, typer.Argument(help="A study.")],
    trial: Annotated[
        int,
        typer.Argument(min=0, max=2**31 - 1, help="The number of a trial that has failed, or waits for another try."),
    ],
    result: Annotated[
        int | None,
        typer.Option(min=1, max=1_000, help="Which of several late values, in the order in which they came."),
    ] = None,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Let a value count that a worker brought when it had lost its trial, and no other value came.

    Such a value is kept with its trial and used by nothing. A trial that waits to be tried again ends with it; one that
    has failed stays as it is, and the value counts as one more trial of the study. The audit log says who did it.
    Say which where there are several, or where somebody told it who never had the trial. A model comes with it only
    where that had reached the service before the trial was lost; else it cannot be promoted.
    """
    from hpo.cli import history_show
    from hpo.cli.history_source import past

    with past(storage, server) as found:
        counts = found.accept_late(study, trial, result=result)
    history_show.accepted(study, trial, counts, as_json=json)


# How imports go


class Reader(Protocol):
    """Imports into a store; it tells its progress, and what became of each run."""

    def __call__(
        self,
        store: Store,
        metric: str | None,
        direction: str | None,
        *,
        progress: Callable[[int], None],
        row_by_row: RowByRow | None,
    ) -> ImportReport:
        """What became of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class _How:
    """What all imports are told."""

    asked: Mapping[str, Any]  # of a service, in its words
    map: Path | None
    source: str | None
    dry_run: bool
    report: Path | None
    as_json: bool


def _import(
    read: Reader, how: _How, *, metric: str | None, direction: str | None, storage: str | None, server: str | None
) -> None:
    """Run an import, ask for what cannot be guessed, and say what became of it."""
    from hpo.cli import history_show
    from hpo.cli.source import server_to_ask

    address = server_to_ask(storage, server)
    try:
        if address is not None:
            outcome = _import_there(address, how, metric, direction)
        else:
            with _report_file(how.report) as rows, _store_to_fill(storage, dry_run=how.dry_run) as store:
                outcome = _read_asking(partial(read, store), metric, direction, rows)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on: what is in is not taken twice", err=True)
        raise
    history_show.imported(outcome, as_json=how.as_json)
    if outcome.number_rejected and not outcome.taken and not outcome.number_skipped:  # nothing of it is in the history
        raise typer.Exit(1)


def _import_there(address: str, how: _How, metric: str | None, direction: str | None) -> ImportReport:
    from hpo.cli.history_sending import imported_there
    from hpo.cli.history_source import service_at

    asked = {**how.asked, "mapping": _mapping_in_words(how.map), "source": how.source, "dry_run": how.dry_run}
    with service_at(address) as client:

        def read(
            metric: str | None, direction: str | None, *, progress: Callable[[int], None], **_: Any
        ) -> ImportReport:
            judged = {} if asked["kind"] == "optuna" else {"metric": metric, "direction": direction}
            return imported_there(client, {**asked, **judged}, progress=progress)

        with _report_file(how.report) as rows:
            outcome = _read_asking(read, metric, direction, rows)
            if rows is not None:
                _report_of_service(outcome, rows)
    return outcome


def _report_of_service(outcome: ImportReport, rows: _RowFile) -> None:
    """What a service tells of single runs: the first of those that were not taken."""
    for row in outcome.rows:
        rows.write(row)
    not_taken = outcome.number_skipped + outcome.number_rejected
    if outcome.taken or not_taken > len(outcome.rows):
        typer.echo(
            f"--report: a service tells only of runs that were not taken ({len(outcome.rows)} of {not_taken}); where "
            "the history is, with --storage, it tells of every run",
            err=True,
        )


def _read_asking(
    read: Callable[..., ImportReport], metric: str | None, direction: str | None, rows: _RowFile | None
) -> ImportReport:
    """Import; where the metric or the direction cannot be told, ask whoever sits at the terminal."""
    from storage.errors import ImportFailedError

    while True:
        try:
            tell = None if rows is None else rows.write
            with _counting("importing", of_all=False) as progress:
                return read(metric, direction, progress=progress, row_by_row=tell)
        except ImportFailedError as error:
            problem = str(error)
            asks_metric = metric is None and "--metric" in problem
            asks_direction = direction is None and "--direction" in problem
            if not sys.stdin.isatty() or not (asks_metric or asks_direction):
                raise
            typer.echo(problem, err=True)
        if rows is not None:
            rows.begin_anew()
        if asks_metric:
            metric = typer.prompt("metric", err=True)
        else:
            direction = typer.prompt("direction (minimize or maximize)", err=True, value_proc=_direction)


def _direction(text: str) -> str:
    found = [name for name in ("minimize", "maximize") if text and name.startswith(text.strip().lower())]
    if len(found) != 1:
        raise typer.BadParameter("say minimize or maximize")
    return found[0]


@contextmanager
def _store_to_fill(storage: str | None, *, dry_run: bool) -> Iterator[Store]:
    """The history, made if there is none; a dry run leaves no trace of one."""
    import tempfile

    from hpo.settings import storage_url
    from storage.schema import open_store

    url = storage_url(storage)
    _, _, path = url.partition(":///")
    if dry_run and url.startswith("sqlite") and path and not Path(path).exists():
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(f"sqlite:///{folder}/empty.db")
            yield store
            store.dispose()
    else:
        yield open_store(url)


class _RowFile:
    """A report of an import, row by row: what is in it is true, even if the import did not come to its end."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: RowReport) -> None:
        """Add a row."""
        import json

        self._file.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")

    def begin_anew(self) -> None:
        """Forget the rows of an attempt that took none."""
        self._file.seek(0)
        self._file.truncate()


@contextmanager
def _report_file(path: Path | None) -> Iterator[_RowFile | None]:
    """The file that is to be made; after an error it stays if there is anything in it."""
    from hpo.errors import SettingsError

    if path is None:
        yield None
        return
    try:
        file = path.open("x", encoding="utf-8", errors="backslashreplace")  # which JSON understands
    except FileExistsError:
        raise SettingsError(f"--report {path}: the file is there already; name another") from None
    except OSError as error:
        raise SettingsError(f"--report {path}: it cannot be written: {error.strerror}") from None
    try:
        with file:
            yield _RowFile(file)
    except BaseException:
        if not path.stat().st_size:
            path.unlink()
        raise


def _mapping(path: Path | None) -> Any:
    from storage.importers.mapping import load_mapping

    return None if path is None else load_mapping(path)


def _mapping_in_words(path: Path | None) -> Any:
    """The content of a mapping file, which a service reads as this program does. Raises ImportFailedError."""
    from hpo.answers.plain import jsonable
    from storage.importers.mapping import load_mapping, load_yaml

    if path is None:
        return None
    load_mapping(path)  # what is wrong is told with its line
    return jsonable(load_yaml(path)[0])


def _time(text: str | None) -> datetime | None:
    """A time as a person writes it; UTC where it has no zone. Raises SettingsError."""
    from datetime import UTC, datetime

    from hpo.errors import SettingsError

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SettingsError(f"--since {text}: write a time such as 2026-01-31 or 2026-01-31T14:00+02:00") from None


@contextmanager
def _counting(doing: str, *, of_all: bool) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal, nothing elsewhere. of_all: it is told a share of all; otherwise, how many more are done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    count = TaskProgressColumn() if of_all else TextColumn("{task.completed:,} runs")
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        count,
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(doing, total=1.0 if of_all else None)
        if of_all:
            yield lambda share: bar.update(task, completed=share)
        else:
            yield lambda more: bar.advance(task, more)
