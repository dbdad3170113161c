"""A change and its entry in the log are one: what cannot be logged is not done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import ColumnElement, Connection, text

from storage import audit, background_jobs, history, repairs, sources, tokens
from storage.audit import Doer
from storage.database import Store
from storage.errors import LaunchError, StorageError
from storage.importers.flags import quarantine, trust
from storage.importers.table import import_table


@pytest.fixture
def store(sqlite_store: Store, tmp_path: Path) -> Store:
    """Three tasks of one family, of which one mixes percentages with fractions."""
    rng, lines = np.random.default_rng(3), ["task,lr,val_acc"]
    for task in ("a", "b", "percent"):
        for place in range(30):
            lr = 10 ** rng.uniform(-4, 0)
            value = 0.9 - 0.05 * (np.log10(lr) + 2) ** 2 + rng.normal(0, 0.01)
            lines.append(f"{task},{lr},{100 * value if task == 'percent' and place % 2 else value}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    import_table(sqlite_store, tmp_path / "runs.csv", metric="val_acc", direction="maximize", source="past")
    return sqlite_store


def test_what_cannot_be_logged_is_not_done_and_what_is_done_is_logged_once(store: Store) -> None:
    name = {study.task: study.name for study in history.list_studies(store)}
    _, token = tokens.create_token(store, owner="bob", role="viewer", created_by="a test")
    job = background_jobs.add_job(store, kind="verify", owner="bob", settings={})
    quarantine(store, name["b"], "odd")

    def by(action: str) -> Doer:
        return Doer(who="ann", action=action)

    def create_token() -> object:
        return tokens.create_token(store, owner="eve", role="viewer", created_by="ann", doer=by("token.create"))

    def add_job() -> object:
        return background_jobs.add_job(store, kind="replay", owner="ann", settings={}, doer=by("replay.start"))

    def repair() -> object:
        return repairs.repair(store, name["percent"], kind="scale break", who="ann", doer=by("study.repair"))

    changes: dict[str, Callable[[], object]] = {
        "study.quarantine": lambda: quarantine(store, name["a"], "mine", doer=by("study.quarantine")),
        "study.trust": lambda: trust(store, name["b"], doer=by("study.trust")),
        "study.repair": repair,
        "token.create": create_token,
        "token.revoke": lambda: tokens.revoke_token(store, token.token_id, doer=by("token.revoke")),
        "replay.start": add_job,
        "job.cancel": lambda: background_jobs.cancel_job(store, job.job_id, doer=by("job.cancel")),
        "source.forget": lambda: sources.forget(store, "past", doer=by("source.forget")),
    }
    before = _content(store)
    _rename(store, "audit", "elsewhere")
    for change in changes.values():
        with pytest.raises(StorageError, match="audit"):
            change()
    _rename(store, "elsewhere", "audit")
    assert _content(store) == before
    for change in changes.values():
        change()
    for action in ("study.trust", "token.revoke", "job.cancel"):  # again, which changes nothing
        changes[action]()
    entries = audit.list_entries(store)
    assert sorted(entry.action for entry in entries) == sorted(changes)
    told = {entry.action: (entry.subject, entry.details) for entry in entries}
    assert told["source.forget"] == ("past", {"studies": 3, "trials": 90})
    assert told["study.trust"] == (name["b"], {"was": "odd"})
    assert told["token.revoke"][0] == f"token {token.token_id}"


def test_what_is_forgotten_in_parts_is_logged_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "STUDIES_AT_A_TIME", 1)
    first, second, _ = history.list_studies(store)
    check, looks = sources._check_at_rest, []

    def one_is_taken_up(connection: Connection, which: ColumnElement[bool]) -> None:
        looks.append(which)
        if len(looks) == 3:  # the first look was at all of them
            raise LaunchError(f"study {second.name!r} is running on the service")
        check(connection, which)

    monkeypatch.setattr(sources, "_check_at_rest", one_is_taken_up)
    with pytest.raises(LaunchError):
        sources.forget(store, "past", doer=Doer(who="ann", action="source.forget"))
    assert [entry.details for entry in audit.list_entries(store)] == [{"studies": 1, "trials": 30}]
    assert first.name not in [study.name for study in history.list_studies(store)]
    gone = sources.forget(store, "past", doer=Doer(who="ann", action="source.forget"))
    assert (gone.studies, gone.trials) == (2, 60)
    assert [entry.details for entry in audit.list_entries(store)] == [{"studies": 1, "trials": 30}] * 3


def _rename(store: Store, table: str, name: str) -> None:
    with store.write() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


def _content(store: Store) -> list[object]:
    """What may be changed."""
    queries = ("studies", "trials", "tokens", "background_jobs", "sources", "seals", "study_attributes")
    with store.read() as connection:
        return [connection.execute(text(f"SELECT * FROM {table}")).all() for table in queries]
