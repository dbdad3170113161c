"""Does `hpo history` bring past runs in, answer about them and let them go, as a person at a terminal uses it?"""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as parquet
import pytest

from hpo.cli import main
from storage.importers.table import import_table
from storage.models import studies
from storage.schema import open_store
from tests.e2e.conftest import Project
from tests.e2e.test_startup import loaded_modules

HOSTILE = ("<script>", "a[red]b[/red]\nc", "\x1b[2Jgone", "'; DROP TABLE trials; --")
Row = Callable[[random.Random], Sequence[Any]]


def write_table(path: Path, names: Sequence[str], row: Row, size: int = 40) -> Path:
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(row(rng) for _ in range(size))
    return path


@dataclass(frozen=True, kw_only=True)
class Here:
    """The command line, run in this process from the user's folder: starting one for each question takes long."""

    project: Project
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def work(self) -> Path:
        return self.project.work

    def hpo(self, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
        """Run `hpo ARGUMENTS` and check its exit code; what it printed on standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["hpo", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            main()
        signal.signal(signal.SIGTERM, before)
        out, err = self.capsys.readouterr()
        assert (end.value.code or 0) == code, f"{out}\n{err}"
        assert "unforeseen" not in err, err
        return out, err

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """The JSON that `hpo ARGUMENTS --json` prints."""
        return json.loads(self.hpo(*arguments, "--json", code=code)[0])


@pytest.fixture
def here(project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(project.work)
    monkeypatch.setenv("HPO_STORAGE", project.storage)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Here(project=project, capsys=capsys, monkeypatch=monkeypatch)


@pytest.fixture
def history(here: Here) -> Here:
    """A history of two sources with the same metric and nearly the same space."""
    project = here.project
    store = open_store(project.storage)
    digits = ["dataset", "learning_rate", "bs", "optimizer", "val_loss", "cost_seconds", "seed"]
    table = write_table(
        project.work / "digits.csv",
        digits,
        lambda rng: [
            rng.choice(["mnist", "usps"]), 10 ** rng.uniform(-5, -1), rng.choice([16, 32, 64, 128]),
            rng.choice(["sgd", "adam"]), rng.uniform(0.1, 1), 60.0, rng.randrange(5),
        ],
    )  # fmt: skip
    import_table(store, table, task="dataset", source="digits")
    table = write_table(
        project.work / "letters.csv",
        ["lr", "batch_size", "optimizer", "val_loss"],
        lambda rng: [10 ** rng.uniform(-5, 0), rng.choice([16, 32, 64]), rng.choice(["sgd", "adam"]), rng.random()],
    )
    import_table(store, table, source="letters")
    store.dispose()
    return here


def at_a_terminal(here: Here, *arguments: str | Path, answers: str) -> tuple[int, str]:
    """Run `hpo ARGUMENTS` with somebody at the keyboard; the exit code and all that was shown."""
    keyboard, terminal = pty.openpty()
    os.write(keyboard, answers.encode())
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", *map(str, arguments)],
        cwd=here.work,
        env=here.project.environment("none"),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(terminal)
    out, _ = process.communicate(timeout=120)
    os.close(keyboard)
    return process.returncode, out


# What there is


def test_list_show_and_spaces(history: Here) -> None:
    shown = history.hpo("history", "list")[0]
    assert all(word in shown for word in ("digits", "letters", "table", "40"))
    listed = history.json("history", "list")
    assert [(source["name"], source["kind"], source["trials"]) for source in listed["sources"]] == [
        ("digits", "table", 40),
        ("letters", "table", 40),
    ]
    families = [family["name"] for family in listed["families"]]
    assert len(families) == 2
    assert listed["quarantine"] == {}

    spaces = history.json("history", "spaces")
    (relation,) = spaces["relations"]
    assert {relation["past"], relation["present"]} == set(families)
    assert {(change["past"], change["present"]) for change in relation["changes"]} >= {
        ("learning_rate", "lr"),
        ("bs", "batch_size"),
    }
    text = history.hpo("history", "spaces")[0]
    assert "learning_rate is now called lr" in text
    assert "% alike" in text

    source = history.json("history", "show", "digits")
    assert (source["kind"], source["trials"], source["cost_seconds"]) == ("source", 40, 2400)
    assert {task["task"] for task in source["tasks"]} == {"mnist", "usps"}
    best = min(task["best"] for task in source["tasks"])
    task = history.json("history", "show", "mnist")
    assert task["kind"] == "task"
    assert task["best"]["value"] == min(task["best"]["value"], *[study["best"] for study in task["studies"]]) >= best
    assert history.json("history", "show", families[0])["kind"] == "family"
    shown = history.hpo("history", "show", "mnist")[0]
    assert "best: trial" in shown
    assert "learning_rate=" in shown
    assert "cost: 40 min" not in shown
    assert "space of family" in shown


def test_an_unknown_name_is_no_traceback(history: Here) -> None:
    assert "Did you mean 'digits'" in history.hpo("history", "show", "digit", code=2)[1]
    assert "Did you mean 'digits'" in history.hpo("history", "forget", "digit", "--yes", code=2)[1]
    assert "no study named" in history.hpo("history", "trust", "nothing", code=2)[1]
    assert "hpo history import" in history.hpo("history", "list", "--storage", "sqlite:///nowhere.db", code=2)[
        1
    ].replace("\n", " ")
    assert not (history.work / "nowhere.db").exists()


# Questions

WHERE = "params.learning_rate between 1e-4 and 1e-2 and params.optimizer in ('sgd', 'adam') and task = mnist"


def test_a_question_in_every_format(history: Here) -> None:
    rows = history.json("history", "query", WHERE)
    assert rows
    assert all(1e-4 <= row["params"]["learning_rate"] <= 1e-2 and row["task"] == "mnist" for row in rows)
    assert history.json("history", "query", WHERE, "--count") == {"count": len(rows)}
    assert history.hpo("history", "query", WHERE, "--count")[0] == f"{len(rows)}\n"
    summed = history.json("history", "query", WHERE, "--totals")
    assert (summed["trials"], summed["cost_seconds"]) == (len(rows), 60 * len(rows))
    lines = history.hpo("history", "query", WHERE, "--format", "jsonl")[0].splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(io.StringIO(history.hpo("history", "query", WHERE, "--format", "csv")[0])))
    assert [float(row["value"]) for row in table] == [row["value"] for row in rows]
    assert [int(row["params.bs"]) for row in table] == [row["params"]["bs"] for row in rows]
    history.hpo("history", "query", WHERE, "--out", "found.parquet")
    found = parquet.read_table(history.work / "found.parquet")
    assert found["value"].to_pylist() == [row["value"] for row in rows]
    assert "--force" in history.hpo("history", "query", "--out", "found.parquet", code=2)[1]
    assert parquet.read_table(history.work / "found.parquet").num_rows == len(rows)
    history.hpo("history", "query", "--out", "found.parquet", "--force")
    assert parquet.read_table(history.work / "found.parquet").num_rows == 80


def test_the_best_first(history: Here) -> None:
    values = sorted(row["value"] for row in history.json("history", "query"))
    top = history.json("history", "query", "--top", "3", "--columns", "value,task")
    assert [row["value"] for row in top] == values[:3]
    assert [*top[0]] == ["value", "task"]
    ordered = history.json("history", "query", "--order-by", "params.bs", "--desc", "--columns", "params.bs")
    assert [row["params.bs"] for row in ordered if row["params.bs"]] == sorted(
        (row["params.bs"] for row in ordered if row["params.bs"]), reverse=True
    )
    shown = history.hpo("history", "query", "task = mnist", "--top", "2")[0]
    assert shown.count("complete") == 2
    assert "the first 50 of 80 trials" in history.hpo("history", "query")[0]
    assert "no trial meets" in history.hpo("history", "query", "value > 5")[0]


def test_a_question_that_cannot_be_read(history: Here) -> None:
    shown = history.hpo("history", "query", "value < 1 and lr > 3", code=2)[1]
    assert "value < 1 and lr > 3\n" + " " * 16 + "^\n" in shown
    assert "params.lr" in shown
    assert "params.lr" in history.hpo("history", "query", "--order-by", "lr", code=2)[1]
    assert "contradict" in history.hpo("history", "query", "--json", "--format", "csv", code=2)[1]


# What comes in and goes


def test_an_import_says_what_it_did(here: Here) -> None:
    def row(rng: random.Random) -> Sequence[Any]:
        return [10 ** rng.uniform(-5, -1), rng.random(), rng.choice(["0.5", "0.7", "oops"])]

    write_table(here.work / "runs.csv", ["lr", "dropout", "val_acc"], row)
    shown = here.hpo("history", "import", "table", "runs.csv", "--dry-run")[0]
    assert "would be taken" in shown
    assert not (here.work / "hpo.db").exists()
    shown = here.hpo("history", "import", "table", "runs.csv", "--report", "why.jsonl")[0]
    assert "val_acc (maximize)" in shown
    assert "lr: log scale" in shown
    assert "rejected: " in shown
    rows = [json.loads(line) for line in (here.work / "why.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == [f"runs.csv line {line}" for line in range(2, 42)]
    taken = [row for row in rows if row["verdict"] == "taken"]
    assert [(row["study"], row["trial"]) for row in taken] == [
        ("table:runs/runs", place) for place in range(len(taken))
    ]
    assert {row["verdict"] for row in rows if "reason" in row} == {"rejected"}
    assert here.json("history", "query", "--count") == {"count": len(taken)}
    again = here.json("history", "import", "table", "runs.csv")  # what can be is in already: nothing to mend at night
    assert (again["taken"], again["skipped"]) == (0, {"already here": len(taken)})
    assert "there already" in here.hpo("history", "import", "table", "runs.csv", "--report", "why.jsonl", code=2)[1]


def test_what_cannot_be_guessed_is_asked_for(here: Here) -> None:
    write_table(
        here.work / "odd.csv", ["lr", "size", "blub"], lambda rng: [rng.random(), rng.randrange(5), rng.random()]
    )
    refused = here.hpo("history", "import", "table", "odd.csv", code=2)[1]
    assert "--metric" in refused
    assert "blub" in refused
    code, shown = at_a_terminal(here, "history", "import", "table", "odd.csv", answers="blub\nsideways\nmax\n")
    assert code == 0, shown
    assert "blub (maximize)" in shown
    (row,) = here.json("history", "query", "--top", "1")
    assert (row["metric"], row["direction"]) == ("blub", "maximize")


def test_optuna_and_mlflow(here: Here, mlflow_runs: str) -> None:
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(storage=f"sqlite:///{here.work / 'optuna.db'}", study_name="old", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=5)
    taken = here.json("history", "import", "optuna", "--storage", "sqlite:///optuna.db")
    assert taken["taken"] == 5
    assert here.json("history", "import", "mlflow", "--uri", mlflow_runs, "--since", "2020-01-01")["taken"] == 4
    assert here.json("history", "import", "mlflow", "--uri", mlflow_runs)["taken"] == 0
    rows = here.json("history", "query", "tags.team = vision and params.lr > 0", "--curves")
    assert len(rows) == 2
    assert [len(row["curve"]) for row in rows] == [3, 3]
    assert "--since" in here.hpo("history", "import", "mlflow", "--uri", mlflow_runs, "--since", "x", code=2)[1]


@pytest.fixture
def mlflow_runs(here: Here) -> str:
    """Plain MLflow runs of somebody who knows nothing of us."""
    code = """
import mlflow
mlflow.set_experiment("churn")
for index in range(4):
    with mlflow.start_run(tags={"team": "vision" if index % 2 else "text"}):
        mlflow.log_params({"lr": 10 ** -index, "optimizer": "sgd"})
        for step in range(3):
            mlflow.log_metric("val_acc", 0.1 * index + step, step=step)
"""
    uri = f"sqlite:///{here.work / 'their.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=here.work, env=environment, check=True, capture_output=True)
    return uri


def test_a_source_is_forgotten_only_when_it_is_meant(history: Here) -> None:
    assert "--yes" in history.hpo("history", "forget", "digits", code=2)[1]
    assert history.json("history", "forget", "digits", "--dry-run")["trials"] == 40
    code, shown = at_a_terminal(history, "history", "forget", "digits", answers="n\n")
    assert (code, "40 trials" in shown) == (1, True)
    assert history.json("history", "query", "--count") == {"count": 80}
    code, shown = at_a_terminal(history, "history", "forget", "digits", answers="y\n")
    assert (code, "gone: 2 studies with 40 trials" in shown) == (0, True)
    assert history.json("history", "query", "--count") == {"count": 40}
    assert [source["name"] for source in history.json("history", "list")["sources"]] == ["letters"]


def test_what_is_exported_comes_in_elsewhere(history: Here) -> None:
    written = history.hpo("history", "export", "digits", "tables")[0]
    assert "space.json" in written
    elsewhere = ("--storage", "sqlite:///elsewhere.db")
    history.hpo("history", "import", "table", "tables", *elsewhere)
    columns = "task,value,params,seed,cost"
    before = history.json("history", "query", "source = digits", "--columns", columns)
    after = history.json("history", "query", "--columns", columns, *elsewhere)

    def content(rows: list[dict[str, Any]]) -> list[Any]:
        return sorted([row["value"], sorted(row["params"].items()), row["seed"], row["cost_seconds"]] for row in rows)

    assert content(before) == content(after)


def test_quarantine_is_shown_and_lifted(history: Here) -> None:
    assert "nothing wrong" in history.hpo("history", "verify")[0]
    store = open_store(history.project.storage)
    with store.write() as connection:
        name = connection.execute(studies.select().where(studies.c.source == "letters")).one().name
        isolated = studies.update().where(studies.c.name == name)
        connection.execute(isolated.values(quarantine="scale break: percent?"))
    store.dispose()
    for command in (["list"], ["verify"], ["show", "letters"]):
        shown = history.hpo("history", *command, code=int(command == ["verify"]))[0]
        assert "scale break: percent?" in shown
        assert "hpo history trust" in shown
    assert history.json("history", "query", "quarantine is not null", "--count") == {"count": 40}
    assert "trusted again" in history.hpo("history", "trust", name)[0]
    assert "is not in quarantine" in history.hpo("history", "trust", name)[0]
    assert history.json("history", "verify") == {"findings": [], "quarantine": {}}


def test_hostile_names_do_nothing(here: Here) -> None:
    names = [*HOSTILE, "val_loss"]
    choices = ["\x1b[31mred", "[bold]b[/]", "a\tb"]
    write_table(
        here.work / "odd.csv",
        names,
        lambda rng: [rng.random(), rng.choice(choices), rng.choice(choices), rng.randrange(9), rng.random()],
    )
    here.hpo("history", "import", "table", "odd.csv", "--source", "\x1b]0;title\x07[red]x")
    for command in (["list"], ["spaces"], ["query", "--top", "3"], ["show", "odd"], ["verify"], ["query", "--totals"]):
        shown = here.hpo("history", *command)[0]
        assert "\x1b" not in shown
        assert "\x07" not in shown
    shown = here.hpo("history", "query", "--top", "1")[0]
    assert r"a[red]b[/red]\nc" in shown
    rows = here.json("history", "query", f"params.`{HOSTILE[1]}` = 'a\tb'")
    assert rows
    assert {row["params"][HOSTILE[1]] for row in rows} == {"a\tb"}


@pytest.mark.parametrize(
    "arguments", [["list"], ["show", "digits"], ["query", "params.bs > 16", "--top", "3"], ["spaces"], ["--help"]]
)
def test_questions_import_nothing_heavy(history: Here, arguments: list[str]) -> None:
    command = [
        "hpo",
        "history",
        *arguments,
        *(["--storage", history.project.storage] if arguments != ["--help"] else []),
    ]
    code = f"import sys; sys.argv = {command!r}\nfrom hpo.cli import main\nmain()"
    assert loaded_modules(code, history.work) == set()
