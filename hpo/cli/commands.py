"""The commands themselves; each imports what it needs when it runs, so that `hpo --help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.schema import Store

app = typer.Typer(
    help="Hyperparameter tuning that learns from every training run you already have.",
    epilog="A first study: `hpo init study.yaml && hpo tune study.yaml && hpo show digits_mlp/all`. "
    "Every command takes --json for scripts and --debug for a traceback.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
db = typer.Typer(help="The store: its schema and its health.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(db, name="db")

Storage = Annotated[
    str | None,
    typer.Option(
        help="URL of the history: sqlite:///hpo.db or postgresql://user@host/db.", envvar="HPO_STORAGE", metavar="URL"
    ),
]
Mlflow = Annotated[
    str | None,
    typer.Option(
        help="MLflow tracking URI (default sqlite:///mlflow.db), or `none`.",
        envvar="MLFLOW_TRACKING_URI",
        metavar="URI",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"hindsight-hpo {version('hindsight-hpo')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hyperparameter tuning that learns from every training run you already have."""


@app.command(epilog="Example: hpo init study.yaml --recipe digits_cnn/noisy-20")
def init(
    path: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.yaml"),
    recipe: Annotated[
        str, typer.Option(help="A ready task to start from; `hpo recipes` lists them.")
    ] = "digits_mlp/all",
    model: Annotated[str | None, typer.Option(help="Import path of your LightningModule instead.")] = None,
    data: Annotated[str | None, typer.Option(help="Import path of your LightningDataModule.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Write a commented study file."""
    from hpo.cli import show
    from hpo.example import write_study_file

    write_study_file(path, recipe=recipe, model=model, data=data, force=force)
    show.written(path, as_json=json)


@app.command(epilog="Example: hpo recipes")
def recipes(json: Json = False) -> None:
    """List the ready tasks, on data that installs with scikit-learn."""
    from hpo.cli import show
    from trainers.recipes import RECIPES

    show.recipes(list(RECIPES.values()), as_json=json)


@app.command(
    epilog="Examples: hpo tune study.yaml --jobs 2 | hpo tune study.yaml --trials 50 --resume | "
    "hpo tune study.yaml --storage postgresql://tuner@db/history --mlflow http://mlflow:5000"
)
def tune(
    study_file: Annotated[Path, typer.Argument(help="The study file (YAML).", metavar="STUDY.yaml")],
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; overrides the file's budget.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side.")] = 1,
    study: Annotated[str | None, typer.Option(help="Name of the study; overrides the file's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study that is there.")] = False,
    storage: Storage = None,
    mlflow: Mlflow = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and outputs (default hpo-runs).", envvar="HPO_RUNS")
    ] = None,
    json: Json = False,
) -> None:
    """Run a study: propose, train, prune and record until its budget is spent.

    Ctrl-C leaves a study that --resume continues with nothing lost or doubled.
    """
    from hpo.cli.tuning import tune_with_progress

    tune_with_progress(
        study_file,
        trials=trials,
        jobs=jobs,
        name=study,
        resume=resume,
        storage=storage,
        mlflow=mlflow,
        runs=runs,
        as_json=json,
    )


@app.command(epilog="Example: hpo studies --json | jq '.[].best_value'")
def studies(storage: Storage = None, json: Json = False) -> None:
    """List the studies of the history."""
    from hpo.cli import show
    from storage import history

    show.studies(history.list_studies(_existing_store(storage)), as_json=json)


@app.command("show", epilog="Example: hpo show digits_mlp/all")
def show_study(
    study: Annotated[str, typer.Argument(help="Name of the study.")], storage: Storage = None, json: Json = False
) -> None:
    """Show one study: its best trial, its trials, and the curve of the incumbent."""
    from hpo.cli import show
    from storage import history

    store = _existing_store(storage)
    summary = history.get_study(store, study)
    show.study(summary, history.list_trials(store, summary.study_id), as_json=json)


@app.command(epilog="Examples: hpo stats digits_mlp/all | hpo stats val_loss-1a2b3c4d --json")
def stats(
    target: Annotated[
        str, typer.Argument(help="A task or a family (`hpo studies` lists both).", metavar="FAMILY|TASK")
    ],
    storage: Storage = None,
    json: Json = False,
) -> None:
    """What each range of each hyperparameter was worth in past runs.

    Outcomes are put on one scale per task: standard deviations above the task's median, higher is better.
    """
    from hpo.cli import show
    from hpo.past_effects import past_effects

    show.effects(target, past_effects(_existing_store(storage), target), as_json=json)


@app.command(epilog="Examples: hpo ui | hpo ui --port 5001 --mlflow sqlite:///team.db")
def ui(
    mlflow: Mlflow = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; another one is taken if it is busy.")] = 5000,
    json: Json = False,
) -> None:
    """Start the MLflow UI on the right store and print its address; Ctrl-C ends it."""
    from hpo.cli.mlflow_ui import serve

    serve(mlflow, host=host, port=port, as_json=json)


@app.command(epilog="Example: hpo sync")
def sync(storage: Storage = None, json: Json = False) -> None:
    """Send the results that still wait for MLflow."""
    from hpo.cli import show
    from storage import outbox
    from storage.errors import SenderBusyError

    store = _existing_store(storage)
    try:
        sent = outbox.deliver(store)
    except SenderBusyError:
        show.sync_is_busy(outbox.pending(store), as_json=json)
        return
    waiting = outbox.pending(store)
    show.synced(sent, waiting, as_json=json)
    if waiting:
        raise typer.Exit(1)


@db.command(epilog="Example: hpo db upgrade --storage sqlite:///hpo.db")
def upgrade(storage: Storage = None, json: Json = False) -> None:
    """Bring the store's schema to this version's (a new store is made if there is none)."""
    from hpo.cli import show
    from hpo.settings import storage_url
    from storage import schema

    url = storage_url(storage)
    schema.upgrade(url)
    show.schema_state(schema.schema_state(url), as_json=json)


@db.command(epilog="Example: hpo db check")
def check(storage: Storage = None, json: Json = False) -> None:
    """Whether the store can be opened and its schema fits this version; exit code 3 where it does not."""
    from hpo.cli import show
    from storage import schema

    url = _existing_url(storage)
    show.schema_state(schema.schema_state(url), as_json=json)
    schema.open_store(url, upgrade=False)  # says what is to be done where the schema does not fit


def _existing_store(storage: str | None) -> Store:
    from storage.schema import open_store

    return open_store(_existing_url(storage), upgrade=False)


def _existing_url(storage: str | None) -> str:
    """The store's URL; a question never creates a store."""
    from hpo.errors import SettingsError
    from hpo.settings import storage_url

    url = storage_url(storage)
    scheme, _, path = url.partition(":///")
    if scheme.startswith("sqlite") and path and not Path(path).exists():
        raise SettingsError(f"there is no history at {path} yet; `hpo tune` makes one, or name another by --storage")
    return url
