"""`hpo worker`: a machine that trains what a service hands out."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.options import Json, Runs

EXAMPLES = (
    "Examples: HPO_TOKEN=hpo_… hpo worker --server https://tuning.example.org | "
    "hpo worker --server http://10.0.0.5:8080 --projects ~/code --devices 2 --jobs 2 | "
    "hpo worker --server http://127.0.0.1:8080 --study churn-mlp --once"
)


def worker(
    server: Annotated[
        str | None, typer.Option(help="The service that hands out trials.", envvar="HPO_SERVER", metavar="URL")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="A token that may work; better given by HPO_TOKEN.", envvar="HPO_TOKEN", show_envvar=False),
    ] = None,
    devices: Annotated[
        str, typer.Option(help="Of this machine that trials may have: GPUs, else CPU processes.", metavar="N|auto")
    ] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side.")] = 1,
    study: Annotated[str | None, typer.Option(help="Only trials of the study of this name.", metavar="NAME")] = None,
    projects: Annotated[
        Path,
        typer.Option(
            help="The folder of the code that is trained; nothing else is, but what --package allows.",
            envvar="HPO_PROJECTS",
            exists=True,
            file_okay=False,
        ),
    ] = Path(),
    package: Annotated[
        list[str] | None, typer.Option(help="An installed package whose code may be trained; may be given again.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when there is nothing to train.")] = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Train what a service hands out: trials of the studies that were launched for workers.

    Trials run as with `hpo tune`. While the service is away they go on, and what they bring is told when it is back.
    Ctrl-C gives back what runs; it goes on elsewhere, or here the next time.
    """
    from hpo.cli.show import print_json
    from hpo.client.logins import server_of, token_of
    from hpo.client.transport import TIMEOUT_SECONDS, Transport
    from hpo.settings import runs_folder
    from hpo.worker.devices import devices_for
    from hpo.worker.worker import CALL_SECONDS, Worker, WorkerOptions

    url = server_of(server)
    count, names = devices_for(devices, os.environ)
    options = WorkerOptions(
        projects=projects.resolve(),
        runs=runs_folder(runs),
        packages=frozenset(package or ()),
        devices=count,
        names_of_devices=names,
        jobs=jobs,
        study=study,
        once=once,
    )
    transport = Transport(url, token_of(url, token), patience_seconds=CALL_SECONDS, timeout_seconds=TIMEOUT_SECONDS)
    try:
        print(f"worker for {url}: {', '.join(names)}; code of {options.projects}", file=sys.stderr)
        ended = Worker(transport, options, notice=_say).run()
    except KeyboardInterrupt:
        print("interrupted; what was running has been given back, nothing is lost", file=sys.stderr)
        raise
    finally:
        transport.close()
    if json:
        print_json({"trials": ended})


def _say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
