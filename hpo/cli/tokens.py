"""`hpo tokens`: who may use the service, by the store itself, so that an admin always gets in."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpo.cli.options import Json, Storage

if TYPE_CHECKING:
    from storage.database import Store

tokens = typer.Typer(help="Who may use the service.", no_args_is_help=True, rich_markup_mode=None)

SECONDS_PER_DAY = 86_400.0
CREATED_BY = "hpo tokens"


@tokens.command(
    epilog="Examples: hpo tokens create --role admin | hpo tokens create --owner ann --role operator --days 30 | "
    "hpo tokens create --owner gpu-box --role worker --forever"
)
def create(
    role: Annotated[
        Literal["viewer", "operator", "admin", "worker"],
        typer.Option(help="What it allows: to read; to launch and change studies too; everything; to pull trials."),
    ],
    owner: Annotated[
        str | None, typer.Option(help="The person or machine it is for (default: you).", show_default=False)
    ] = None,
    days: Annotated[float, typer.Option(min=0.001, max=36_500, help="Until it expires.")] = 90.0,
    forever: Annotated[bool, typer.Option("--forever", help="It does not expire.")] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Make a token. It is shown this once: only a digest of it is kept."""
    import getpass

    from hpo.answers.tokens import token_fields
    from hpo.cli.show import print_json
    from storage.audit import Doer
    from storage.tokens import create_token

    secret, token = create_token(
        _store(storage),
        owner=owner or getpass.getuser(),
        role=role,
        created_by=CREATED_BY,
        lifetime_seconds=None if forever else days * SECONDS_PER_DAY,
        doer=Doer(who=CREATED_BY, action="token.create"),
    )
    if json:
        print_json({"secret": secret, **token_fields(token)})
    else:
        until = "for ever" if token.expires_at is None else f"until {_day(token.expires_at)}"
        print(f"token {token.token_id} for {token.owner} ({token.role}), {until}, shown this once:\n{secret}")


@tokens.command("list", epilog="Example: hpo tokens list --json | jq '.[] | select(.is_valid)'")
def list_tokens(storage: Storage = None, json: Json = False) -> None:
    """Which tokens there are, without their secrets."""
    from hpo.answers.tokens import token_fields
    from hpo.cli.show import open_console, print_json, simple_table
    from hpo.cli.text import escape
    from storage import tokens as stored

    found = [token_fields(token) for token in stored.list_tokens(_store(storage))]
    if json:
        print_json(found)
        return
    if not found:
        print("nobody has a token yet; `hpo serve` or `hpo tokens create --role admin` makes one")
        return
    table = simple_table("id", "owner", "role", "ends in", "state", "made by", "last used", numbers=("id",))
    for token in found:
        state = "revoked" if token["revoked_at"] else "valid" if token["is_valid"] else "expired"
        until = f" until {_day(token['expires_at'])}" if state == "valid" and token["expires_at"] else ""
        used = "never" if token["used_at"] is None else f"{token['used_at']:%Y-%m-%d %H:%M}"
        cells = (
            token["id"],
            token["owner"],
            token["role"],
            f"…{token['hint']}",
            state + until,
            token["created_by"],
            used,
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    open_console().print(table)


@tokens.command(epilog="Example: hpo tokens revoke 3")
def revoke(
    token: Annotated[int, typer.Argument(min=1, help="Its id, as `hpo tokens list` shows it.", metavar="ID")],
    storage: Storage = None,
    json: Json = False,
) -> None:
    """End a token at once, and the browser sessions that were opened with it."""
    from hpo.answers.tokens import token_fields
    from hpo.cli.show import print_json
    from hpo.cli.text import visible
    from storage.audit import Doer
    from storage.tokens import revoke_token

    ended = revoke_token(_store(storage), token, doer=Doer(who=CREATED_BY, action="token.revoke"))
    if json:
        print_json(token_fields(ended))
    else:
        print(f"token {token} of {visible(ended.owner)} ({ended.role}) opens nothing any more")


def _store(storage: str | None) -> Store:
    """The history; a new one is made, for the first token may come before the first study."""
    from hpo.settings import storage_url
    from storage.schema import open_store

    return open_store(storage_url(storage))


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"
