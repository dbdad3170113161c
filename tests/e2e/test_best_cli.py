"""Do `hpo best` and `hpo compare` answer from the command line, and do replicates survive Ctrl-C?"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from typing import Any

import pytest

from tests.e2e.conftest import Project

SPACE = {
    "lr": {"type": "float", "low": 1e-3, "high": 0.3, "log": True},
    "batch_size": {"type": "int", "low": 8, "high": 32},
}


@pytest.fixture
def tuned(project: Project) -> Project:
    study = project.study(
        "line",
        space=SPACE,
        trainer=project.trainer("Net", nap=0.02, max_epochs=2),
        budget={"trials": 12},
        pruner="none",
    )
    project.hpo("tune", study, "--jobs", "2")
    return project


def replicates(project: Project) -> list[tuple[int, dict[str, Any]]]:
    """State and mark of each replicate, as the database has them."""
    with sqlite3.connect(project.work / "hpo.db") as connection:
        rows = connection.execute(
            "SELECT trials.state, trial_attributes.value FROM trials JOIN studies ON studies.id = study_id "
            "JOIN trial_attributes ON trial_id = trials.id WHERE studies.name = 'line/replicates' "
            "AND key = 'hindsight:replicate_of' ORDER BY number"
        ).fetchall()
    return [(state, json.loads(mark)) for state, mark in rows]


def test_replicates_are_trained_interrupted_resumed_and_compared(tuned: Project) -> None:
    before = tuned.json("best", "line")
    assert before["used"] == 12 and before["replication"] is None
    assert before["winner"]["interval95"][0] <= before["winner"]["value"] <= before["winner"]["interval95"][1]
    shown = tuned.json("show", "line")

    process = tuned.start("best", "line", "--replicates", "8")
    deadline = time.monotonic() + 120
    while sum(state == 1 for state, _ in replicates(tuned)) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Go on with: hpo best line --replicates 8" in err
    kept = [mark for state, mark in replicates(tuned) if state == 1]
    assert 2 <= len(kept) < 8

    after = tuned.json("best", "line", "--replicates", "8", "--jobs", "2")
    marks = [mark for state, mark in replicates(tuned) if state == 1]
    assert all(mark in marks for mark in kept)
    assert len({(mark["trial"], mark["seed"]) for mark in marks}) == len(marks) <= 8
    assert all(mark["seed"] > 0 and mark["study"] == "line" for mark in marks)  # the study's own seed is 0
    fresh = after["replication"]
    assert fresh["spent"] == len(marks) and (fresh["separated"] or len(marks) == 8)
    winner = fresh["winner"]
    assert winner["mean"] == pytest.approx(sum(winner["values"]) / len(winner["values"]))
    assert winner["interval95"][0] < winner["mean"] < winner["interval95"][1]
    assert tuned.json("show", "line") == shown  # the study itself is as it was

    count = len(replicates(tuned))
    again = tuned.hpo("best", "line", "--replicates", "8")  # nothing is left to train
    assert len(replicates(tuned)) == count and "to publish" in again.stdout

    numbers = list(dict.fromkeys(mark["trial"] for mark in marks))
    if len(numbers) > 1:
        found = tuned.json("compare", f"line#{numbers[0]}", f"line#{numbers[1]}")
        assert found["kind"] == "configurations" and found["rows"][0]["is_paired"]
    refused = tuned.hpo("best", "line/replicates", "--replicates", "3", code=2)
    assert "hpo best line" in refused.stderr


def test_a_study_that_others_ran_says_what_to_do_instead(tuned: Project) -> None:
    rows = "\n".join(f"{lr},{(lr - 0.5) ** 2 + 0.01 * (i % 3)}" for i, lr in enumerate(x / 20 for x in range(1, 21)))
    table = tuned.work / "runs.csv"
    table.write_text(f"lr,val_loss\n{rows}\n")
    tuned.hpo("history", "import", "table", table, "--metric", "val_loss")
    name = next(study["name"] for study in tuned.json("studies") if study["source"] != "hindsight")
    assert tuned.json("best", name)["used"] == 20
    refused = tuned.hpo("best", name, "--replicates", "4", code=2)
    assert "was not run by `hpo tune`" in refused.stderr and "import those runs" in refused.stderr

    wrong = tuned.hpo("best", "line", "--against", "lr=3", code=2)
    assert """--against '{"lr": 0.01""" in wrong.stderr
    picture = tuned.work / "pairs.png"
    drawn = tuned.hpo("compare", "line", name, "--figure", picture, code=2)
    assert "share no task" in drawn.stderr and not picture.exists()
    tuned.hpo("compare", "line#0", "line#1", "--figure", picture)
    assert picture.stat().st_size > 1000
    assert "--force" in tuned.hpo("compare", "line#0", "line#1", "--figure", picture, code=2).stderr
