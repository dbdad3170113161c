"""The commands themselves; each imports what it needs when it runs, so that `hpo --help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.database import db
from hpo.cli.history import history as history_commands
from hpo.cli.login import EXAMPLES as LOGIN_EXAMPLES
from hpo.cli.login import login, logout
from hpo.cli.options import (
    Executor,
    Json,
    Launch,
    LaunchHost,
    Mlflow,
    RayAddress,
    Runs,
    Server,
    Storage,
    existing_store,
)
from hpo.cli.replay import EXAMPLES as REPLAY_EXAMPLES
from hpo.cli.replay import replay
from hpo.cli.serve import EXAMPLES as SERVE_EXAMPLES
from hpo.cli.serve import serve
from hpo.cli.tokens import tokens as token_commands
from hpo.cli.worker import EXAMPLES as WORKER_EXAMPLES
from hpo.cli.worker import worker

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
app.add_typer(history_commands, name="history")
app.add_typer(db, name="db")
app.add_typer(token_commands, name="tokens")


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
    from hpo.studies.example import write_study_file

    write_study_file(path, recipe=recipe, model=model, data=data, force=force)
    show.written(path, as_json=json)


@app.command(epilog="Example: hpo recipes")
def recipes(server: Server = None, json: Json = False) -> None:
    """List the ready tasks, on data that comes with what is installed, or on your files of MNIST."""
    from hpo.cli import show
    from hpo.cli.source import ready_tasks

    show.recipes(ready_tasks(server), as_json=json)


@app.command(
    epilog="Examples: hpo tune study.yaml --jobs 2 | hpo tune study.yaml --trials 50 --resume | "
    "hpo tune study.yaml --stop gain=0.002 | hpo tune study.yaml --executor ray --ray-address auto --jobs 8 | "
    "hpo tune study.yaml --launch 'srun --nodes=2 --ntasks-per-node=4 {command}' --launch-host $(hostname) | "
    "hpo tune study.yaml --storage postgresql://tuner@db/history --mlflow http://mlflow:5000"
)
def tune(
    study_file: Annotated[Path, typer.Argument(help="The study file (YAML).", metavar="STUDY.yaml")],
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; overrides the file's budget.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side.")] = 1,
    study: Annotated[str | None, typer.Option(help="Name of the study; overrides the file's.")] = None,
    stop: Annotated[
        str | None,
        typer.Option(
            help="End before the budget when what is left to gain is below the noise (auto), below so much of the "
            "metric (gain=0.002) or not worth its price (cost); overrides the file's.",
            metavar="auto|gain=G|cost|none",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study that is there.")] = False,
    executor: Executor = "local",
    ray_address: RayAddress = None,
    launch: Launch = None,
    launch_host: LaunchHost = None,
    storage: Storage = None,
    server: Server = None,
    mlflow: Mlflow = None,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Run a study: propose, train, prune and record until its budget is spent.

    Ctrl-C leaves a study that --resume continues with nothing lost or doubled. With --server the study runs there, in
    the service's projects folder, and Ctrl-C only stops looking on.
    """
    from hpo.cli.source import server_to_ask
    from hpo.running.executors import Placement

    placement = Placement(executor=executor, ray_address=ray_address, launch=launch, launch_host=launch_host)
    if (address := server_to_ask(storage, server, mlflow=mlflow, runs=runs)) is not None:
        from hpo.cli.remote_tuning import tune_on_server

        tune_on_server(
            study_file,
            address,
            trials=trials,
            jobs=jobs,
            name=study,
            stop=stop,
            resume=resume,
            placement=placement,
            as_json=json,
        )
        return
    from hpo.cli.tuning import tune_with_progress

    tune_with_progress(
        study_file,
        trials=trials,
        jobs=jobs,
        name=study,
        stop=stop,
        resume=resume,
        storage=storage,
        mlflow=mlflow,
        runs=runs,
        placement=placement,
        as_json=json,
    )


@app.command(
    epilog="Examples: hpo plan study.yaml | hpo plan study.yaml --trials 100 --jobs 4 --price 2.5 --figure plan.png"
)
def plan(
    study_file: Annotated[Path, typer.Argument(help="The study file (YAML).", metavar="STUDY.yaml")],
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; overrides the file's budget.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side.")] = 1,
    price: Annotated[
        float | None, typer.Option(help="Of an hour that one trial trains.", metavar="PER_HOUR", show_default=False)
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the curve with its band (PNG, SVG, PDF, HTML).", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the figure.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """What a study will reach, how long it will take and what it will cost, by past tasks like it.

    Nothing is trained. Bands are for a new task: how much tasks differ is in them.
    """
    from hpo.cli.plan import plan_study

    plan_study(
        study_file,
        trials=trials,
        jobs=jobs,
        price=price,
        storage=storage,
        server=server,
        figure=figure,
        force=force,
        as_json=json,
    )


@app.command(epilog="Example: hpo studies --json | jq '.[].best_value'")
def studies(storage: Storage = None, server: Server = None, json: Json = False) -> None:
    """List the studies of the history."""
    from hpo.cli import show
    from hpo.cli.source import opened

    with opened(storage, server) as source:
        show.studies(source.studies(), as_json=json)


@app.command("show", epilog="Example: hpo show digits_mlp/all")
def show_study(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show one study: its best trial, its trials, and the curve of the incumbent."""
    from hpo.cli import show
    from hpo.cli.source import opened

    with opened(storage, server) as source:
        show.study(source.study(study), source.trials(study), stopped=source.stopped(study), as_json=json)


@app.command(
    epilog="Examples: hpo stats digits_mlp/all | hpo stats val_loss-1a2b3c4d --parameter lr --figure lr.png | "
    'hpo stats val_loss-1a2b3c4d --where "params.optimizer = adam and source != mlflow:old" --importance | '
    "hpo stats digits_mlp/all --raw-units --pairs --json"
)
def stats(
    target: Annotated[
        str, typer.Argument(help="A task or a family (`hpo studies` lists both).", metavar="FAMILY|TASK")
    ],
    where: Annotated[
        str, typer.Option(help="Only trials that meet a condition, as in `hpo history query`.", metavar="CONDITION")
    ] = "",
    parameter: Annotated[
        list[str] | None, typer.Option(help="Only this parameter; may be given again.", metavar="NAME")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Also the ranges of pairs of parameters.")] = False,
    importance: Annotated[
        bool, typer.Option("--importance", help="Also which parameters, and pairs of them, the outcome depends on.")
    ] = False,
    raw_units: Annotated[bool, typer.Option("--raw-units", help="Outcomes of one task as they were recorded.")] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw the curves of the effects; of one parameter, also what each task says (PNG, SVG, PDF, HTML).",
            metavar="FILE",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the figure.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """What each range of each hyperparameter was worth in past runs, and will be in a new task.

    Outcomes are put on one scale per task: standard deviations above the task's median, higher is better. Two
    estimates stand side by side: what went along with a range, and what is left of it when the other parameters are
    spread evenly. Intervals are 95%: for the mean over tasks, and for a new task. Tasks are left out in turn to see how
    often the latter hold.
    """
    from hpo.cli.source import opened
    from hpo.cli.stats import show_effects

    with opened(storage, server) as source:
        show_effects(
            source,
            target,
            where=where,
            parameters=parameter or [],
            pairs=pairs,
            importance=importance,
            raw_units=raw_units,
            figure=figure,
            force=force,
            as_json=json,
        )


@app.command(epilog="Examples: hpo explain digits_mlp/all 7 | hpo explain digits_mlp/all | hpo explain mine 3 --json")
def explain(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trial: Annotated[
        int | None, typer.Argument(min=0, help="Number of the trial; without it, a line for each.", show_default=False)
    ] = None,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Why a trial was proposed: what was predicted, how it came out, and which past studies it leans on."""
    from hpo.cli import explain as explanations
    from hpo.cli.source import opened

    with opened(storage, server) as source:
        explanations.explain(source.study(study), source.trials(study), trial, as_json=json)


@app.command(
    epilog="Examples: hpo best digits_mlp/all | hpo best digits_mlp/all --against 0 | "
    """hpo best mine --against '{"lr": 0.01, "depth": 3}' --json | hpo best digits_mlp/all --replicates 12 --jobs 2"""
)
def best(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    against: Annotated[
        str | None,
        typer.Option(
            help="What the winner is to beat: a trial, or a configuration in JSON (default: what was enqueued).",
            metavar="TRIAL|JSON",
        ),
    ] = None,
    replicates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train the contenders again on fresh seeds, so often in all, or until one is the best with 95%.",
            metavar="K",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Replicates side by side.")] = 1,
    executor: Executor = "local",
    ray_address: RayAddress = None,
    launch: Launch = None,
    launch_host: LaunchHost = None,
    storage: Storage = None,
    server: Server = None,
    mlflow: Mlflow = None,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Which configuration is best, what it is really worth, and how sure that is.

    The best of many noisy values is too good: it was lucky as well. The figure to publish is the mean of fresh
    replicates. Ctrl-C loses none; the same command goes on.
    """
    from hpo.cli.best import best_of_study
    from hpo.running.executors import Placement

    best_of_study(
        study,
        against=against,
        replicates=replicates,
        jobs=jobs,
        placement=Placement(executor=executor, ray_address=ray_address, launch=launch, launch_host=launch_host),
        storage=storage,
        server=server,
        mlflow=mlflow,
        runs=runs,
        as_json=json,
    )


@app.command(
    epilog="Examples: hpo front small-cnn | hpo front small-cnn --figure front.png | hpo front small-cnn --json"
)
def front(
    study: Annotated[str, typer.Argument(help="Name of a study of several objectives.")],
    figure: Annotated[
        Path | None, typer.Option(help="Draw the front (PNG, SVG, PDF, HTML).", metavar="FILE", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the figure.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """The trials of a study of several objectives that no other beats in everything: what one costs of the others."""
    from hpo.cli.front import show_front
    from hpo.cli.source import opened

    with opened(storage, server) as source:
        show_front(source, study, figure=figure, force=force, as_json=json)


@app.command(
    epilog="Examples: hpo promote churn-mlp | hpo promote churn-mlp --trial 7 --name churn | "
    "hpo promote small-cnn --trial 12 --mlflow http://mlflow:5000 --json"
)
def promote(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Its number (default: the best, as `hpo best` judges).", metavar="N"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model in the registry (default: the task's).", show_default=False)
    ] = None,
    storage: Storage = None,
    server: Server = None,
    mlflow: Mlflow = None,
    json: Json = False,
) -> None:
    """Put a trial's model into MLflow's model registry, with its signature, its evaluation and the alias `champion`.

    Of a study of several objectives, say which trial of its front. The model is loaded from its checkpoint, validated
    once more, and registered in a form that loads without your code wherever torch can export it; that it then
    predicts the same is checked before it gets the alias.
    """
    from hpo.cli.promote import promote_and_tell
    from hpo.cli.source import opened

    with opened(storage, server, mlflow=mlflow) as source:
        promote_and_tell(source, study, trial=trial, name=name, as_json=json)


@app.command(
    epilog="Examples: hpo compare digits/new digits/old | hpo compare 'new/*' 'old/*' --figure new.png | "
    "hpo compare digits_mlp/all#3 digits_mlp/all#7 | hpo compare new tpe random --json"
)
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="Studies, patterns of their names, or trials; the first against each other.", metavar="A B …"
        ),
    ],
    figure: Annotated[
        Path | None, typer.Option(help="Draw the pairs with the interval (PNG, SVG, PDF, HTML).", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the drawing.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Is one study better than another, or one trial (STUDY#TRIAL) than another, and is that enough to say so?

    Studies are compared by their incumbents after equally many trials, in pairs of the same task and seed; trials by
    their replicates (`hpo best STUDY --replicates K`), in pairs of the same seed.
    """
    from hpo.cli.compare import compare_and_draw
    from hpo.cli.source import opened

    with opened(storage, server) as source:
        compare_and_draw(source, sides, figure=figure, force=force, as_json=json)


@app.command(
    epilog="Examples: hpo advise digits_mlp/all | hpo advise val_loss-1a2b3c4d --plot advice.png | "
    "hpo advise val_loss-1a2b3c4d --together --write study.yaml --force"
)
def advise(
    target: Annotated[
        str, typer.Argument(help="A task or a family (`hpo studies` lists both).", metavar="TASK|FAMILY")
    ],
    together: Annotated[
        bool, typer.Option("--together", help="Wider: so that good configurations lie inside all regions at once.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(help="A study file to put the advice into, as `likely` values.", metavar="STUDY.yaml"),
    ] = None,
    hard: Annotated[bool, typer.Option("--hard", help="Narrow its ranges instead: nothing else is tried.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what each task found good (PNG, SVG, PDF, HTML).", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Change the study file; overwrite the drawing.")] = False,
    storage: Storage = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Where a good value of each hyperparameter lies for a new task, by what differs between past tasks.

    A region is the smallest that holds a good value for 9 of 10 tasks like those of the past. For a task, its family
    gives the advice: its own runs count as one task like the others.
    """
    from hpo.cli.advise import advise_and_write
    from hpo.cli.source import opened

    with opened(storage, server) as source:
        advise_and_write(
            source,
            target,
            together=together,
            write=write,
            hard=hard,
            plot=plot,
            force=force,
            as_json=json,
        )


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
def sync(storage: Storage = None, runs: Runs = None, json: Json = False) -> None:
    """Send what still waits: results to the history, messages to MLflow.

    Results wait on disk where a study ended while its history could not be reached.
    """
    from hpo.cli import show
    from hpo.running.results import FOLDER, deliver
    from hpo.settings import runs_folder
    from storage import outbox
    from storage.errors import SenderBusyError
    from storage.spool import Spool

    store = existing_store(storage)
    for notice in deliver(store, Spool(runs_folder(runs) / FOLDER)):
        typer.echo(notice, err=True)
    try:
        sent = outbox.deliver(store)
    except SenderBusyError:
        show.sync_is_busy(outbox.pending(store), as_json=json)
        return
    waiting = outbox.pending(store)
    show.synced(sent, waiting, as_json=json)
    if waiting:
        raise typer.Exit(1)


app.command(epilog=REPLAY_EXAMPLES)(replay)
app.command(epilog=LOGIN_EXAMPLES)(login)
app.command(epilog="Example: hpo logout http://127.0.0.1:8080")(logout)
app.command(epilog=SERVE_EXAMPLES)(serve)
app.command(epilog=WORKER_EXAMPLES)(worker)
