"""Does `hpo replay` measure methods on a recorded table and on a history, as a person at a terminal uses it?"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.e2e.conftest import Project
from tests.e2e.test_history_cli import Here

QUICK = ("--methods", "portfolio,random", "--budget", "6", "--seeds", "2")
THEIR_METHOD = """
from hpo.replay.problem import Choice


class First:
    name = "first"

    def begin(self, problem, seed):
        self.best = int(problem.past[0].losses.argmin())
        return self

    def choose(self, rows, losses):
        return Choice(row=len(rows), interval90=(0.0, 100.0))
"""


def write_table(folder: Path, *, tasks: int = 4, rows: int = 30) -> Path:
    """A recorded table of a conditional space, whose tasks are alike; a tenth of the runs failed."""
    folder.mkdir()
    space = {
        "name": folder.name,
        "metric": "val_acc",
        "direction": "maximize",
        "parameters": [
            {"name": "lr", "type": "float", "low": 1e-4, "high": 1.0, "log": True},
            {"name": "optimizer", "type": "categorical", "choices": ["sgd", "adam"]},
            {
                "name": "momentum", "type": "float", "low": 0.0, "high": 0.9, "log": False,
                "when": {"parent": "optimizer", "in": ["sgd"]},
            },
        ],
    }  # fmt: skip
    (folder / "space.json").write_text(json.dumps(space))
    rng = np.random.default_rng(0)
    lr, is_sgd = 10 ** rng.uniform(-4, 0, rows), rng.random(rows) < 0.5
    momentum = [float(value) if sgd else None for value, sgd in zip(rng.uniform(0, 0.9, rows), is_sgd, strict=True)]
    configurations = {
        "config": np.arange(rows),
        "lr": lr,
        "optimizer": ["sgd" if sgd else "adam" for sgd in is_sgd],
        "momentum": momentum,
    }
    parquet.write_table(pa.table(configurations), folder / "configs.parquet")
    trials = [
        {
            "task": f"task{task}",
            "config": row,
            "value": None if row % 10 == 3 else 0.9 - (np.log10(lr[row]) + 2) ** 2 / 9 - task / 50,
        }
        for task in range(tasks)
        for row in range(rows)
    ]
    parquet.write_table(pa.Table.from_pylist(trials), folder / "trials.parquet")
    return folder


@pytest.fixture
def here(project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(project.work)
    monkeypatch.setenv("HPO_STORAGE", project.storage)
    return Here(project=project, capsys=capsys, monkeypatch=monkeypatch)


@pytest.fixture
def table(here: Here) -> Path:
    return write_table(here.work / "churn")


def test_a_table_is_replayed_and_written_down(here: Here, table: Path) -> None:
    out, err = here.hpo("replay", table, *QUICK, "--out", "results")
    assert "min-max regret" in out and "median regret" in out
    assert "portfolio" in out and "random" in out
    assert out.strip().splitlines()[-1].startswith("On your 4 past tasks: portfolio needed ")
    assert "16/16 runs" in err and "wrote results.json" in err
    report = json.loads((here.work / "results.json").read_text())
    assert (report["baseline"], report["tasks"]) == ("portfolio", 4)
    assert report["setting"]["regime"] == "full" and report["date"] and report["machine"] and report["code"]
    by_method = {score["method"]: score for score in report["overall"]}
    assert by_method["portfolio"]["regret"]["minmax"]["1"] < by_method["random"]["regret"]["minmax"]["1"]
    assert [each["method"] for each in report["comparisons"]] == ["random"]
    text = (here.work / "results.md").read_text()
    assert "On your 4 past tasks" in text and "| portfolio |" in text
    assert (here.work / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert len((here.work / "results.runs.jsonl").read_text().splitlines()) == 16


def test_a_replay_goes_on_where_it_was_left(here: Here, table: Path) -> None:
    here.hpo("replay", table, *QUICK, "--tasks", "2", "--out", "results.json")
    runs = (here.work / "results.runs.jsonl").read_text()
    _, err = here.hpo("replay", table, *QUICK, "--out", "results.json")
    assert err.splitlines()[0] == "8/16 runs"
    assert (here.work / "results.runs.jsonl").read_text().startswith(runs)
    _, err = here.hpo("replay", table, *QUICK, "--out", "results.json", "--fresh")
    assert err.splitlines()[0] == "0/16 runs"


def test_a_history_is_replayed_like_the_table_it_came_from(here: Here, table: Path) -> None:
    here.hpo("history", "import", "table", table)
    kept = [here.json("replay", source, *QUICK)["overall"] for source in (table, here.project.storage)]
    from_environment = here.json("replay", *QUICK)["overall"]
    for scores in (*kept, from_environment):
        for score in scores:
            del score["seconds"]
    assert kept[0] == kept[1] == from_environment


def test_a_folder_of_tables_is_replayed_together(here: Here) -> None:
    folder = here.work / "recorded"
    folder.mkdir()
    write_table(folder / "one")
    write_table(folder / "two", tasks=3)
    report = here.json("replay", folder, *QUICK)
    assert report["tasks"] == 7
    assert [label.partition(":")[0] for label in report["families"]] == ["one", "two"]


def test_a_method_of_the_users(here: Here, table: Path) -> None:
    (here.work / "their_methods.py").write_text(THEIR_METHOD)
    name = "their_methods:First"
    report = here.json(
        "replay", table, "--methods", f"random,{name}", "--baseline", name, "--budget", "5", "--seeds", "1"
    )
    assert report["baseline"] == name
    assert report["overall"][1]["intervals"]["coverage"] is not None
    out, _ = here.hpo("replay", table, "--methods", name, "--budget", "5", "--seeds", "1")
    assert "First" in out and "90% intervals" in out


@pytest.mark.parametrize("regime", ["thin", "shifted-space", "none"])
def test_regimes(here: Here, table: Path, regime: str) -> None:
    report = here.json("replay", table, *QUICK, "--regime", regime)
    assert report["setting"]["regime"] == regime


def test_wrong_input_is_explained(here: Here, table: Path) -> None:
    (here.work / "empty").mkdir()
    for arguments, said in (
        ((table, "--methods", "tpes"), "there is no method 'tpes'; there are"),
        ((table, "--methods", ","), "--methods names none"),
        ((table, "--methods", "random", "--baseline", "tpe"), "not among the methods: random"),
        (("nowhere",), "no history and no recorded table at nowhere"),
        ((here.work / "empty",), "there is no recorded table in"),
        ((table, *QUICK, "--budget", "31"), "has only 30 rows to choose from"),
        ((table, *QUICK, "--tasks", "churn/tsk1"), "Did you mean 'churn/task1'"),
        ((table, *QUICK, "--tasks", "0"), "name one task at least"),
        ((table, *QUICK, "--family", "other"), "no family named 'other'"),
        ((table, *QUICK, "--regime", "empty"), "--regime"),
        ((table, *QUICK, "--out", "no/folder/results"), "there is no folder"),
        ((), "there is no history"),
    ):
        assert said in here.hpo("replay", *arguments, code=2)[1]
    (here.work / "mine.json").write_text("{}")
    assert "no replay's" in here.hpo("replay", table, *QUICK, "--out", "mine.json", code=2)[1]
    alone = write_table(here.work / "alone", tasks=1)
    assert "2 tasks or more" in here.hpo("replay", alone, *QUICK, code=2)[1]


def test_ctrl_c_loses_nothing(project: Project) -> None:
    table = write_table(project.work / "churn", rows=60)
    options = ("--methods", "tpe", "--budget", "40", "--seeds", "8", "--out", "results")
    process = project.start("replay", table, *options)
    kept = project.work / "results.runs.jsonl"
    while not kept.exists() or not kept.stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert 1 <= len(kept.read_text().splitlines()) < 32
    assert not (project.work / "results.json").exists()
