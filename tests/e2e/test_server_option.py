"""Does `--server` print what the history itself would print, and end with the same exit code?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from hpo.api.app import create_api
from hpo.client.logins import token_file
from hpo.service.state import Service
from storage import history, tokens
from storage.optuna_storage import HistoryStorage
from storage.schema import Store
from tests.e2e.conftest import Hpo
from tests.e2e.test_stats_cli import fill
from tests.servers import served

FAMILY = "FAMILY"  # stands for the name of the family
STUDY_FILE = {
    "study": "next",
    "task": {"name": "next", "metric": "loss", "direction": "minimize"},
    "space": {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}},
    "budget": {"trials": 12},
}
QUESTIONS = (
    ("studies",),
    ("show", "past 0"),
    ("show", "two aims"),
    ("explain", "past 1"),
    ("explain", "past 1", "3"),
    ("best", "past 2"),
    ("best", "past 2", "--against", "0"),
    ("best", "past 2", "--against", '{"kind": "a", "lr": 0.2}'),
    ("best", "two aims"),
    ("front", "two aims"),
    ("compare", "past 0", "past 1"),
    ("stats", FAMILY, "--importance", "--pairs"),
    ("stats", FAMILY, "--parameter", "lr", "--where", "params.kind = b"),
    ("advise", FAMILY),
    ("plan", "study.yaml"),
)
FIGURES = (
    ("--figure", "stats", FAMILY, "--parameter", "lr"),
    ("--plot", "advise", FAMILY, "--together"),
    ("--figure", "plan", "study.yaml", "--jobs", "2"),
    ("--figure", "compare", "past 0", "past 1"),
    ("--figure", "front", "two aims"),
)
MISTAKES = (
    ("show", "pats 0"),
    ("explain", "past 1", "300"),
    ("best", "past 2", "--against", "300"),
    ("front", "past 0"),
    ("compare", "past 0", "pats 1"),
    ("stats", "nothing"),
    ("stats", FAMILY, "--where", "params.lr <"),
    ("stats", FAMILY, "--parameter", "rl"),
    ("advise", "nothing"),
    ("plan", "wrong.yaml"),
)


@pytest.fixture
def served_here(
    hpo: Hpo, sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """The URL of a service on the history of `hpo`, and the name of the family in it."""
    fill(sqlite_store, 5)
    two = optuna.create_study(storage=HistoryStorage(sqlite_store), study_name="two aims", directions=["minimize"] * 2)
    for x in (0.1, 0.5, 0.7):
        two.add_trial(
            create_trial(params={"x": x}, distributions={"x": FloatDistribution(0.0, 1.0)}, values=[x, x * x - x])
        )
    family = next(study.family for study in history.list_studies(sqlite_store) if study.name == "past 0")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY_FILE))
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**STUDY_FILE, "space": {"lr": {"type": "flaot"}}}))
    service = Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path)
    secret, _ = tokens.create_token(sqlite_store, owner="ann", role="viewer", created_by="a test")
    monkeypatch.setenv("HPO_TOKEN", secret)
    monkeypatch.delenv("HPO_SERVER", raising=False)
    with served(create_api(service)) as url:
        yield url, family
    service.calculations.close()


def test_the_answers_are_the_same(hpo: Hpo, served_here: tuple[str, str]) -> None:
    url, family = served_here
    for question in QUESTIONS:
        words = [family if word == FAMILY else word for word in question]
        here, there = json.loads(hpo(*words, "--json")[0]), json.loads(hpo(*words, "--json", "--server", url)[0])
        assert here == there, words
        assert hpo(*words)[0] == hpo(*words, "--server", url)[0], words


def test_the_figures_are_the_same(hpo: Hpo, served_here: tuple[str, str], tmp_path: Path) -> None:
    url, family = served_here
    for option, *question in FIGURES:
        words = [family if word == FAMILY else word for word in question]
        here, there = tmp_path / f"here-{question[0]}.png", tmp_path / f"there-{question[0]}.png"
        hpo(*words, option, str(here))
        hpo(*words, option, str(there), "--server", url)
        assert here.read_bytes() == there.read_bytes(), words
        assert "--force" in hpo(*words, option, str(there), "--server", url, code=2)[1]
        assert "the ending tells the format" in hpo(*words, option, "figure.txt", "--server", url, code=2)[1]
    hpo("stats", family, "--figure", str(tmp_path / "there-stats.png"), "--force", "--server", url)


def test_the_errors_are_the_same(hpo: Hpo, served_here: tuple[str, str]) -> None:
    url, family = served_here
    for question in MISTAKES:
        words = [family if word == FAMILY else word for word in question]
        here, there = hpo(*words, code=2)[1], hpo(*words, "--server", url, code=2)[1]
        assert here.replace("wrong.yaml:4", "study:4") == there.replace("wrong.yaml", "study"), words


def test_what_is_asked_is_what_is_named(
    hpo: Hpo, served_here: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, _ = served_here
    elsewhere = f"sqlite:///{tmp_path / 'none.db'}"
    assert "give one of them" in hpo("studies", "--storage", elsewhere, "--server", url, code=2)[1]
    monkeypatch.setenv("HPO_SERVER", url)
    assert "there is no history" in hpo("studies", "--storage", elsewhere, code=2)[1], "the command line goes first"
    monkeypatch.setenv("HPO_STORAGE", elsewhere)
    assert "past 0" in hpo("studies")[0]
    assert "the role viewer may not do this" in hpo("best", "past 0", "--replicates", "2", code=2)[1]
    monkeypatch.setenv("HPO_SERVER", "http://127.0.0.1:9")
    monkeypatch.setattr("hpo.cli.source.PATIENCE_SECONDS", 0.1)
    assert "http://127.0.0.1:9 does not answer" in hpo("studies", code=3)[1]


def test_logging_in_keeps_the_token(
    hpo: Hpo, served_here: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, _ = served_here
    secret = os.environ["HPO_TOKEN"]
    monkeypatch.delenv("HPO_TOKEN")
    monkeypatch.setenv("HPO_TOKEN_FILE", str(tmp_path / "tokens.json"))
    assert f"hpo login {url}" in hpo("studies", "--server", url, code=2)[1]
    assert "not known here" in hpo("login", f"{url}/login#token=hpo_forged", code=2)[1]
    assert not token_file().exists()
    assert "as ann (viewer)" in hpo("login", f"{url}/login#token={secret}")[0]
    assert token_file().stat().st_mode & 0o777 == 0o600
    assert "past 0" in hpo("studies", "--server", url)[0]
    assert "forgot" in hpo("logout", url)[0]
    assert "no token for" in hpo("studies", "--server", url, code=2)[1]
