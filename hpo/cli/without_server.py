"""Which commands take no `--server`, and why?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ON_THE_DATABASE = "it works on the database itself: run it where that can be reached, with --storage"
REASONS: Mapping[str, str] = {  # by command, or by group of commands
    "init": "it writes a file here; `hpo recipes --server URL` lists what a service can train",
    "ui": "a service shows MLflow's UI itself, at /mlflow/",
    "sync": "a service delivers to MLflow by itself; this is for results that wait on this machine",
    "login": "it takes the address as its argument: hpo login URL",
    "logout": "it takes the address as its argument: hpo logout URL",
    "serve": "it is the service",
    "db": ON_THE_DATABASE,
    "tokens": f"{ON_THE_DATABASE}; an admin makes tokens by POST /api/v1/tokens, client.create_token, or its page",
}


def why_without(arguments: Sequence[str]) -> str | None:
    """Why a command line that names a server cannot be meant; None: it can, or names none."""
    if not any(each == "--server" or each.startswith("--server=") for each in arguments):
        return None
    command = next((each for each in arguments if not each.startswith("-")), "")
    return None if command not in REASONS else f"hpo {command} takes no --server: {REASONS[command]}"
