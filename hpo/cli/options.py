"""Options that several commands share, and what they stand for when nobody gives them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.schema import Store

Storage = Annotated[
    str | None,
    typer.Option(
        help="URL of the history: sqlite:///hpo.db or postgresql://user@host/db.", envvar="HPO_STORAGE", metavar="URL"
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Ask the service at this URL instead of a history (its token: HPO_TOKEN, or `hpo login URL`).",
        envvar="HPO_SERVER",
        metavar="URL",
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
Runs = Annotated[
    Path | None, typer.Option(help="Folder for checkpoints and outputs (default hpo-runs).", envvar="HPO_RUNS")
]
Executor = Annotated[str, typer.Option(help="Where trials run.", metavar="local|ray")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="A Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default RAY_ADDRESS, else one on this machine).",
        metavar="ADDRESS",
    ),
]
Launch = Annotated[
    str | None,
    typer.Option(
        help="Run each trial by this command line, which starts {command} once for each of its devices on each "
        "of its nodes; {slot} numbers the trials side by side.",
        metavar="COMMANDLINE",
    ),
]
LaunchHost = Annotated[
    str | None, typer.Option(help="Address at which they reach this machine (default 127.0.0.1).", metavar="HOST")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FIGURE_ENDINGS = (".png", ".svg", ".pdf", ".html")


def check_figure(figure: Path | None, *, force: bool, option: str = "--figure") -> None:
    """Refuse a figure that could not be drawn, before the work for it is done. Raises SettingsError."""
    from hpo.errors import SettingsError

    if figure is None:
        return
    if figure.suffix.lower() not in FIGURE_ENDINGS:
        raise SettingsError(f"{option} {figure}: the ending tells the format, one of {', '.join(FIGURE_ENDINGS)}")
    if figure.exists() and not force:
        raise SettingsError(f"{figure} is there already; --force overwrites it")


def existing_store(storage: str | None) -> Store:
    """The history, opened; a question never creates one."""
    from storage.schema import open_store

    return open_store(existing_url(storage), upgrade=False)


def existing_url(storage: str | None) -> str:
    """The URL of a history that is there. Raises SettingsError."""
    from hpo.errors import SettingsError
    from hpo.settings import storage_url

    url = storage_url(storage)
    scheme, _, path = url.partition(":///")
    if scheme.startswith("sqlite") and path and not Path(path).exists():
        raise SettingsError(
            f"there is no history at {path} yet; `hpo tune` or `hpo history import` makes one, "
            "or name another by --storage"
        )
    return url
