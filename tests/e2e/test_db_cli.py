"""Does `hpo db` do what it says, ask before it destroys, and say what is wrong with a store?"""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from storage.schema import open_store, schema_state
from tests import history_0001
from tests.e2e.conftest import Project
from tests.filled import content, fill


@pytest.fixture
def filled(project: Project) -> Project:
    """A project whose store is filled."""
    store = open_store(project.storage)
    fill(store)
    store.dispose()
    return project


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    store = open_store(url)
    try:
        return content(store)
    finally:
        store.dispose()


def test_help_shows_every_command_with_examples(project: Project) -> None:
    listed = project.hpo("db", "--help").stdout
    for command in ("upgrade", "downgrade", "check", "backup", "restore", "verify", "seal", "privacy"):
        assert command in listed
        assert f"hpo db {command}" in project.hpo("db", command, "--help").stdout.replace("\n  ", " ")


def test_a_history_moves_to_a_server_and_back(filled: Project, postgresql_url: str) -> None:
    before = rows(filled.storage)
    done = filled.hpo("db", "backup", "saved.db")
    assert f"saved 3 studies, {len(before['trials'])} trials in {filled.work / 'saved.db'}" in done.stdout
    refused = filled.hpo("db", "backup", "saved.db", code=2)
    assert "is there already" in refused.stderr and "--force" in refused.stderr
    filled.hpo("db", "restore", "saved.db", "--storage", postgresql_url)
    assert rows(postgresql_url) == before
    saved = filled.json("db", "backup", "server.db", "--storage", postgresql_url)
    assert saved["rows"]["studies"] == 3
    assert saved["bytes"] == (filled.work / "server.db").stat().st_size
    refused = filled.hpo("db", "restore", "server.db", code=2)
    assert "holds 3 studies" in refused.stderr and "--force" in refused.stderr
    restored = filled.json("db", "restore", "server.db", "--force")
    assert rows(filled.storage) == before
    assert rows(f"sqlite:///{restored['kept']}") == before
    assert filled.hpo("db", "verify").stdout.startswith("nothing wrong\nfingerprint of its seals: ")
    assert {study["name"] for study in filled.json("studies")} == {row[1] for row in before["studies"]}


def test_verify_prints_what_is_wrong_and_says_so_by_its_exit_code(filled: Project) -> None:
    assert filled.json("db", "verify") == []
    with sqlite3.connect(filled.work / "hpo.db") as connection:
        connection.execute("UPDATE trials SET number = 17 WHERE id = 2")
        connection.execute("UPDATE trials SET lease_until = 1 WHERE lease_until IS NOT NULL")  # nobody is at work
    connection.close()
    done = filled.hpo("db", "verify", code=1)
    assert "numbers: study" in done.stdout and "with gaps" in done.stdout
    finding, *rest = json.loads(filled.hpo("db", "verify", "--json", code=1).stdout)
    assert finding["check"] == "numbers" and "<b>" in finding["subject"]
    assert {each["check"] for each in rest} == {"seals"}  # it was sealed under another number
    filled.hpo("db", "seal", code=2)  # nobody can be asked
    assert filled.json("db", "seal", "--yes")["studies"] == 3
    assert [each["check"] for each in json.loads(filled.hpo("db", "verify", "--json", code=1).stdout)] == ["numbers"]


def test_rules_of_privacy_are_tried_on_names(filled: Project) -> None:
    (filled.work / "rules.yaml").write_text("parameters: {lr: drop}\nattributes: {'*': mask}\n")
    found = filled.json("db", "privacy", "rules.yaml", "--parameter", "layers", "--text", "a text")
    stored = {(each["kind"], each["name"]): each["stored"] for each in found}
    assert stored["parameter", "lr"] is None and stored["parameter", "layers"] == "a value"
    assert stored["text", "a text"] == "a text" and "***" in stored.values()
    assert "there are no rules" in filled.hpo("db", "privacy", code=2).stderr.lower()


def test_downgrade_says_what_is_lost_and_does_nothing_unasked(filled: Project) -> None:
    refused = filled.hpo("db", "downgrade", "0001", code=2)  # standard input is no terminal
    assert "Sources, families and quarantine are lost" in refused.stderr and "--yes" in refused.stderr
    assert schema_state(filled.storage).is_current
    unknown = filled.hpo("db", "downgrade", "1999", "--yes", code=2)
    assert "cannot go to '1999'; it can go back to 0003, 0002, 0001, base" in unknown.stderr
    done = filled.hpo("db", "downgrade", "0001", "--yes")
    assert "hpo db upgrade" in done.stdout
    outdated = filled.hpo("studies", code=3)
    assert "has schema 0001" in outdated.stderr and "hpo db upgrade --storage" in outdated.stderr
    checked = filled.hpo("db", "check", code=3)
    assert "hpo db upgrade" in checked.stderr
    assert filled.json("db", "upgrade")["is_current"]
    assert len(filled.json("studies")) == 3
    filled.hpo("db", "check")


@pytest.mark.parametrize(("answer", "revision"), [("n", "0004"), ("y", "0001")])
def test_downgrade_asks_at_a_terminal(filled: Project, answer: str, revision: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", "db", "downgrade", "0001"],
        cwd=filled.work,
        env=filled.environment("none"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    _, err = process.communicate(timeout=60)
    os.close(ours)
    assert "are lost" in err and "go back?" in err
    assert process.returncode == (0 if answer == "y" else 1)
    assert schema_state(filled.storage).current == revision


def test_what_an_older_program_left_is_saved_upgraded_and_brought_back(project: Project) -> None:
    expected = history_0001.fill(project.storage)
    project.hpo("studies", code=3)
    project.hpo("db", "backup", "before.db")  # as one should before an upgrade
    project.hpo("db", "upgrade")
    assert history_0001.trials(project.storage) == expected
    project.hpo("db", "restore", "before.db", "--storage", "sqlite:///elsewhere.db")
    assert history_0001.trials(f"sqlite:///{project.work / 'elsewhere.db'}") == expected


def test_a_password_is_never_shown(filled: Project) -> None:
    filled.hpo("db", "backup", "saved.db")
    url = "postgresql://tuner:secret@127.0.0.1:9/history"
    for arguments in (("upgrade",), ("verify",), ("restore", "saved.db")):
        done = filled.hpo("db", *arguments, "--storage", url, code=3)
        assert "secret" not in done.stdout + done.stderr
        assert "://***@127.0.0.1:9" in done.stderr and "refused" in done.stderr


def test_wrong_paths_are_named(filled: Project, tmp_path: Path) -> None:
    assert "There is no file" in filled.hpo("db", "restore", "nothing.db", code=2).stderr
    (filled.work / "notes.txt").write_text("no database" * 500)
    assert "file is not a database" in filled.hpo("db", "restore", "notes.txt", "--force", code=2).stderr
    assert "There is no folder" in filled.hpo("db", "backup", "no/such/folder.db", code=2).stderr
    assert "is the history itself" in filled.hpo("db", "backup", "hpo.db", "--force", code=2).stderr
    assert len(filled.json("studies")) == 3
