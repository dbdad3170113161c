"""Are options refused that cannot be meant: figures that could not be drawn, places of this machine for a service?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hpo.cli.commands import app
from hpo.cli.options import check_figure
from hpo.cli.plan import plan_study
from hpo.cli.source import server_to_ask
from hpo.cli.without_server import ON_THE_DATABASE, why_without
from hpo.errors import SettingsError


def test_the_ending_of_a_figure_tells_its_format(tmp_path: Path) -> None:
    check_figure(None, force=False)
    for name in ("it.png", "it.SVG", "it.pdf"):
        check_figure(tmp_path / name, force=False)
    for name in ("it", "it.gif", "png"):
        with pytest.raises(SettingsError, match=r"the ending tells the format, one of \.png, \.svg, \.pdf"):
            check_figure(tmp_path / name, force=True)


def test_a_figure_that_is_there_is_overwritten_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "it.png").touch()
    check_figure(tmp_path / "it.png", force=True)
    with pytest.raises(SettingsError, match="--force overwrites it"):
        check_figure(tmp_path / "it.png", force=False)


def test_a_plan_asks_for_the_figure_before_it_reads_the_study_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the ending tells the format"):
        plan_study(
            tmp_path / "missing.yaml",
            trials=None,
            jobs=1,
            price=None,
            storage=None,
            server=None,
            figure=tmp_path / "plan.gif",
            force=False,
            as_json=False,
        )


def test_every_command_asks_a_server_or_says_why_not() -> None:
    whole = {name: command for group in [get_command(app)] for name, command in _commands(group)}
    asks = {name for name, command in whole.items() if any(each.name == "server" for each in command.params)}
    for name in whole:
        reason = why_without([*name.split(), "--server", "http://127.0.0.1:8080"])
        assert (reason is None) == (name in asks), name
    assert why_without(["db", "check", "--server=http://h"]) == f"hpo db takes no --server: {ON_THE_DATABASE}"
    assert why_without(["db", "check"]) is None


def test_a_service_is_told_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:8080"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.delenv("HPO_RUNS", raising=False)
    assert server_to_ask(None, url, mlflow="http://mlflow:5000") == url, "it is there for other programs"
    assert server_to_ask("sqlite:///here.db", None, mlflow="sqlite:///mlflow.db", runs=Path("runs")) is None
    with pytest.raises(SettingsError, match=r"--mlflow sqlite:///mlflow\.db is for what this machine trains"):
        server_to_ask(None, url, mlflow="sqlite:///mlflow.db")
    with pytest.raises(SettingsError, match="--runs runs is for what this machine trains"):
        server_to_ask(None, url, runs=Path("runs"))


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(words), command
        return
    for name, below in command.commands.items():
        yield from _commands(below, (*words, name))
