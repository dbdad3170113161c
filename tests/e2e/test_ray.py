"""Does a study on a Ray cluster lose nothing when a node goes, and say what the cluster cannot give?"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Project
from tests.e2e.test_tune import processes_of

PATIENCE_SECONDS = 180
NAP_SECONDS = 0.6  # in each epoch of a trial
TRIALS = 24  # enough for both nodes to be warm before the first has trained them all, on a busy machine as well
SPACE = {"offset": {"type": "float", "low": 0.0, "high": 1.0}}


def test_a_lost_node_costs_no_trial(project: Project, ray_cluster: Any) -> None:
    """Each of two nodes trains one trial at a time; one of them is lost in the middle of a trial."""
    from tests.ray_cluster import add_node

    stays, goes = (add_node(ray_cluster, resources={"spot": 1}) for _ in range(2))
    trainer = {**project.trainer("Offset", nap=NAP_SECONDS), "resources": {"spot": 1}}
    study = project.study("spot", trainer=trainer, space=SPACE, budget={"trials": TRIALS}, pruner="none")
    cluster = ("--executor", "ray", "--ray-address", ray_cluster.address)
    process = project.start("tune", study, "--jobs", "2", *cluster)
    wait_for_trials_side_by_side(project, process)
    ray_cluster.remove_node(goes, allow_graceful=False)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    ray_cluster.remove_node(stays)
    assert process.returncode == 0, err
    assert "it is tried again" in err
    assert [line.split()[0] for line in out.splitlines()] == ["best", "more:"]  # no word of Ray's
    trials = project.json("show", "spot")["all_trials"]
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    assert {trial["state"] for trial in trials} == {"complete"}
    assert [trial["attempt"] for trial in trials].count(2) == 1
    assert sum(trial["attempt"] for trial in trials) == TRIALS + 1
    assert len({tuple(trial["params"].items()) for trial in trials}) == TRIALS
    assert all(len(trial["intermediate_values"]) == 3 for trial in trials)
    assert not processes_of(project)


def wait_for_trials_side_by_side(project: Project, process: subprocess.Popen[str]) -> None:
    """Until both places are warm, and two trials have just begun."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if sum(is_training(folder) for folder in project.work.glob("hpo-runs/*/trial-*/attempt-*")) == 2:
            return
        time.sleep(0.05)
    raise AssertionError("no two trials side by side")


def is_training(folder: Path) -> bool:
    """Whether a trial has begun, and is not about to end: it is in the first of three epochs, or has just ended it."""
    try:
        return time.time() - (folder / "best.ckpt").stat().st_mtime < NAP_SECONDS / 2  # none is better than the first
    except OSError:
        return (folder / "output.log").exists()


def test_what_the_cluster_cannot_give_is_said(project: Project) -> None:
    pytest.importorskip("ray", reason="Ray comes with hindsight-hpo[ray]")
    study = project.study("greedy", trainer={**project.trainer("Net"), "resources": {"A100": 1}})
    done = project.hpo("tune", study, "--executor", "ray", code=2)
    assert "a trial asks for more than this machine has: A100 1 (the most is 0)" in done.stderr
    assert project.json("studies") == []
    assert not processes_of(project)
