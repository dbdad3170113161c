"""`hpo login` and `hpo logout`: the token of a service is kept, and forgotten."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hpo.cli.options import Json

EXAMPLES = (
    "Examples: hpo login http://127.0.0.1:8080 | hpo login 'http://127.0.0.1:8080/login#token=hpo_…' | "
    "pass tuning-token | hpo login https://tuning.example.org"
)
Url = Annotated[
    str | None,
    typer.Argument(help="The service; the link that `hpo serve` printed will do.", envvar="HPO_SERVER", metavar="URL"),
]


def login(url: Url = None, json: Json = False) -> None:
    """Keep the token of a service, so that --server finds it; nobody else can read the file.

    The token is asked for, or read from standard input, or taken from the link.
    """
    from hpo.cli.show import print_json
    from hpo.cli.source import PATIENCE_SECONDS
    from hpo.cli.text import visible
    from hpo.client.client import Client
    from hpo.client.logins import keep_token, server_of

    server = server_of(url)
    token = _token_in(url or "") or _asked(server)
    with Client(server, token, patience_seconds=PATIENCE_SECONDS) as client:
        who = client.whoami()
    path = keep_token(server, token)
    if json:
        print_json({"server": server, "owner": who["owner"], "role": who["role"], "file": path})
    else:
        print(f"logged in at {server} as {visible(who['owner'])} ({who['role']}); the token is in {path}")


def logout(url: Url = None, json: Json = False) -> None:
    """Forget the token of a service. It stays valid: `hpo tokens revoke` ends it."""
    from hpo.cli.show import print_json
    from hpo.client.logins import forget_token, server_of

    server = server_of(url)
    was_there = forget_token(server)
    if json:
        print_json({"server": server, "forgotten": was_there})
    else:
        print(f"forgot the token of {server}" if was_there else f"no token was kept for {server}")


def _token_in(link: str) -> str | None:
    """The token of a login link."""
    _, _, fragment = link.partition("#token=")
    return fragment.strip() or None


def _asked(server: str) -> str:
    from hpo.errors import SettingsError

    if sys.stdin.isatty():
        return str(typer.prompt(f"token for {server}", hide_input=True, err=True)).strip()
    token = sys.stdin.readline().strip()
    if not token:
        raise SettingsError("no token came in on standard input: pipe it in, or give the link that has it")
    return token
