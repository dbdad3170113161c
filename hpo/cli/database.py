"""`hpo db`: the store's schema, its health, and how it is saved and brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.options import Json, Storage, existing_url

if TYPE_CHECKING:
    from storage.integrity import Finding

db = typer.Typer(help="The store: its schema, its health, backups.", no_args_is_help=True, rich_markup_mode=None)

FINDINGS_SHOWN = 100


@db.command(epilog="Example: hpo db upgrade --storage sqlite:///hpo.db")
def upgrade(storage: Storage = None, json: Json = False) -> None:
    """Bring the store's schema to this version's.

    A new store is made if there is none.
    """
    from hpo.cli import show
    from hpo.settings import storage_url
    from storage import schema

    url = storage_url(storage)
    schema.upgrade(url)
    show.schema_state(schema.schema_state(url), as_json=json)


@db.command(epilog="Examples: hpo db downgrade 0001 | hpo db backup before.db && hpo db downgrade 0001 --yes")
def downgrade(
    revision: Annotated[str, typer.Argument(help="The schema to go back to; `base` empties the store.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Take the store's schema back to an earlier version's.

    For an older program, say. What is lost on the way is said first, and a person at a terminal is asked.
    """
    from hpo.cli import show
    from storage import schema

    url = existing_url(storage)
    lost = schema.what_is_lost(url, revision)
    typer.echo(
        "\n".join(
            [f"going back to {revision} loses:", *(f"  {line}" for line in lost), "`hpo db backup FILE` keeps it"]
        ),
        err=True,
    )
    if not yes:
        _ask("go back?")
    schema.downgrade(url, revision)
    state = schema.schema_state(url)
    if json:
        show.print_json({"current": state.current, "head": state.head, "is_current": state.is_current})
    else:
        print(f"the store's schema is {state.current or 'gone'}; `hpo db upgrade` brings it to {state.head} again")


@db.command(epilog="Example: hpo db check")
def check(storage: Storage = None, json: Json = False) -> None:
    """Whether the store can be opened, and its schema fits.

    Exit code 3 where it does not: the store was made by another version.
    """
    from hpo.cli import show
    from storage import schema

    url = existing_url(storage)
    show.schema_state(schema.schema_state(url), as_json=json)
    schema.open_store(url, upgrade=False)  # says what is to be done where the schema does not fit


@db.command(
    epilog="Examples: hpo db backup hpo-$(date +%F).db | hpo db backup team.db --storage postgresql://tuner@db/history"
)
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Save the whole history in one file, while studies run.

    The file is a SQLite database, whatever the history is kept in: `--storage sqlite:///FILE` reads it like any other.
    """
    from hpo.cli import show
    from storage.backup import backup as save
    from storage.database import Store

    store = Store(existing_url(storage))
    with _progress_bar("saving") as progress:
        contents = save(store, file, force=force, progress=progress)
    size = contents.path.stat().st_size
    if json:
        fields = {"path": contents.path, "bytes": size, "revision": contents.revision, "rows": contents.rows}
        show.print_json(fields)
    else:
        print(f"saved {_counted(contents.rows)} in {contents.path} ({_megabytes(size)})")


@db.command(
    epilog="Examples: hpo db restore hpo-2026-07-31.db | hpo db restore hpo.db --storage postgresql://tuner@db/history "
    "(moves a history to PostgreSQL) | hpo db restore good.db --force"
)
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `hpo db backup` wrote.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Replace what the store holds.")] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Bring a backup back: all of it, or nothing.

    Into SQLite or PostgreSQL, wherever it came from: so a history moves from one to the other. The store must be
    empty, unless --force is to replace what it holds. A SQLite file that is replaced is kept beside the new one.
    """
    from hpo.cli import show
    from hpo.settings import storage_url
    from storage.backup import restore as bring_back

    with _progress_bar("bringing back") as progress:
        restored = bring_back(file, storage_url(storage), force=force, progress=progress)
    if json:
        show.print_json({"path": file, "rows": restored.contents.rows, "kept": restored.kept})
        return
    print(f"brought back {_counted(restored.contents.rows)} from {file}")
    if restored.kept is not None:
        print(f"what was there before is kept in {restored.kept}")


@db.command(epilog="Examples: hpo db verify | hpo db verify --storage sqlite:///backup.db --json")
def verify(storage: Storage = None, json: Json = False) -> None:
    """Look whether all in the store is whole, fits, and is as it was sealed.

    Each finished trial is sealed: what was changed, removed or inserted behind the store's back is found and named.
    Without a key in HPO_SEAL_KEY this shows accidents, but not the work of somebody who can write to the database and
    seals again what he has changed. Prints what is wrong, and then the exit code is 1. Nothing is changed.
    """
    from hpo.cli import show
    from storage import integrity, seals
    from storage.database import Store

    store = Store(existing_url(storage))
    with _progress_bar("verifying") as progress:
        findings = integrity.verify(store, progress=progress)
    if json:
        show.print_json([show.vars_of(finding) for finding in findings])
    else:
        _print_findings(findings)
        if not any(finding.is_damage for finding in findings):
            print(f"fingerprint of its seals: {seals.fingerprint(store)}")
    if findings:
        raise typer.Exit(1)


@db.command(epilog="Example: HPO_SEAL_KEY=$(cat seal.key) hpo db seal")
def seal(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Seal the whole store as it is now, with the key in HPO_SEAL_KEY if there is one.

    For a new key, and after `hpo db verify` has found what you have put right. What was changed behind the store's
    back until now is taken for right from then on. No study may be running.
    """
    from hpo.cli import show
    from storage import seals
    from storage.database import Store

    url = existing_url(storage)
    if not yes:
        typer.echo("what is in the store now is taken for right; `hpo db verify` says what is not", err=True)
        _ask("seal it?")
    store = Store(url)
    with _progress_bar("sealing") as progress:
        sealed = seals.seal_again(store, progress=progress)
    if json:
        show.print_json({"studies": sealed, "fingerprint": seals.fingerprint(store)})
    else:
        print(f"sealed {sealed:,} studies; fingerprint of their seals: {seals.fingerprint(store)}")


@db.command(
    epilog="Examples: hpo db privacy rules.yaml | hpo db privacy --parameter data.site --attribute owner --path /data/x"
)
def privacy(
    file: Annotated[Path | None, typer.Argument(help="The rules; without one, those of HPO_PRIVACY.")] = None,
    parameter: Annotated[list[str] | None, typer.Option(help="A parameter's name.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="A tag's or user attribute's name.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="A path or location.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="A person or machine.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text, such as an error.")] = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Check rules of privacy, and show what they make of names.

    Of those given, and of all parameters and user attributes that the store holds. Nothing is changed: what is stored
    already stays as it is. Exit code 2 where the rules cannot be used.
    """
    from hpo.cli.privacy import print_samples, rules_of, samples_of
    from hpo.settings import storage_url
    from storage.database import Store

    named = {"parameter": parameter, "attribute": attribute, "path": path, "user": user, "text": text}
    given = {kind: some or [] for kind, some in named.items()}
    print_samples(samples_of(rules_of(file), given, Store(storage_url(storage))), as_json=json)


def _print_findings(findings: Sequence[Finding]) -> None:
    if not findings:
        print("nothing wrong")
        return
    for finding in findings[:FINDINGS_SHOWN]:
        print(f"{finding.check}: {finding.subject}: {finding.detail}")
    if len(findings) > FINDINGS_SHOWN:
        print(f"and {len(findings) - FINDINGS_SHOWN:,} more; --json prints all")
    if any(finding.is_damage for finding in findings):
        print("the database is damaged; a backup replaces it (a SQLite file is kept): hpo db restore BACKUP --force")


def _ask(question: str) -> None:
    """Go on only if a person says yes. Raises SettingsError where nobody can be asked."""
    import sys

    from hpo.errors import SettingsError

    if not sys.stdin.isatty():
        raise SettingsError("nobody can be asked here; say --yes")
    typer.confirm(question, abort=True, err=True)


@contextmanager
def _progress_bar(doing: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(doing, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _counted(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{rows.get(table, 0):,} {table}" for table in ("studies", "trials"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
