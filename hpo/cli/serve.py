"""`hpo serve`: the service in one command, and what it says when it answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpo.cli.options import Json, Mlflow, Runs, Storage

if TYPE_CHECKING:
    from hpo.service.server import Announcement

EXAMPLES = (
    "Examples: hpo serve | hpo serve --projects ~/models --port 0 | "
    "hpo serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --storage postgresql://tuner@db/history | "
    "hpo serve --behind-proxy 127.0.0.1 --executor ray --ray-address auto --log-format json --log-file hpo.log"
)
INTERRUPTED = 130


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 8080,
    projects: Annotated[
        Path,
        typer.Option(
            help="Folder whose modules studies may train, and from which files are read (default: here).",
            envvar="HPO_PROJECTS",
            metavar="DIR",
            show_default=False,
        ),
    ] = Path(),
    executor: Annotated[
        str, typer.Option(help="Where trials run, unless a study says.", metavar="local|ray")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default RAY_ADDRESS).", metavar="ADDRESS"
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate with its chain, for https (PEM).", metavar="FILE")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, without a password (PEM).", metavar="FILE")] = None,
    behind_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network from which a proxy passes requests on; only its X-Forwarded-For and -Proto are "
            "believed. May be given again.",
            metavar="ADDRESS",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="Limits, allowed packages and hosts (YAML; keys: limits, packages, import_hosts, metrics).",
            envvar="HPO_SETTINGS",
            metavar="FILE",
        ),
    ] = None,
    mlflow_ui: Annotated[bool, typer.Option("--mlflow-ui/--no-mlflow-ui", help="Show MLflow's UI at /mlflow.")] = True,
    log_file: Annotated[
        Path | None, typer.Option(help="Where the log goes (default: standard error).", metavar="FILE")
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="One line of what for each event.")] = "text",
    storage: Storage = None,
    mlflow: Mlflow = None,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Start the service: API, pages, the studies that are launched, and the MLflow UI, at one address.

    The first start prints a link that logs you in. Ctrl-C, or SIGTERM, ends it: requests are answered, studies give
    their trials back and go on at the next start. A second Ctrl-C does not wait.
    """
    from hpo.running.executors import Placement
    from hpo.service import server
    from hpo.service.address import Address
    from hpo.service.logs import logging_to
    from hpo.service.settings import load_settings
    from hpo.settings import mlflow_uri, runs_folder, storage_url

    options = server.ServerOptions(
        address=Address(host=host, port=port, certificate=tls_cert, key=tls_key, proxies=tuple(behind_proxy or ())),
        storage=storage_url(storage),
        mlflow=mlflow_uri(mlflow),
        runs=runs_folder(runs),
        projects=projects.expanduser().resolve(),
        placement=Placement(executor=executor, ray_address=ray_address),
        settings=load_settings(settings),
        has_mlflow_ui=mlflow_ui,
    )
    try:
        with logging_to(log_file, kind=log_format):
            server.serve(options, announce=_print_json if json else _print)
    except KeyboardInterrupt:  # told again while it was ending: what it has started ends by itself
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def _print(announcement: Announcement) -> None:
    from hpo.cli.text import visible

    lines = [f"Hindsight is at {announcement.url}", ""]
    if announcement.login is None:
        lines.append("Log in with your token; `hpo tokens create --role admin` makes another.")
    else:
        lines += [
            "Nobody has an admin's token, so here is one for 90 days, shown this once. The link logs you in:",
            f"  {announcement.login}",
        ]
    at = f", shown at {announcement.url}/mlflow/ in half a minute" if announcement.has_mlflow_ui else ""
    lines += [
        "",
        f"  history    {visible(announcement.storage)}",
        f"  MLflow     {visible(announcement.mlflow or 'none')}{at}",
        f"  runs       {visible(str(announcement.runs))}",
        f"  projects   {visible(str(announcement.projects))}",
        "",
        "Ctrl-C ends it; studies give their trials back and go on at the next start.",
    ]
    print("\n".join(lines), flush=True)


def _print_json(announcement: Announcement) -> None:
    from hpo.cli.show import print_json, vars_of

    print_json(vars_of(announcement))
    sys.stdout.flush()
