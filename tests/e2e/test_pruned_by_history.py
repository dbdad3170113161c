"""`hpo tune` with `pruner: history`, and what `hpo explain` says of what it stopped."""

from __future__ import annotations

from tests.e2e.conftest import Project


def test_what_history_stops_is_explained(project: Project) -> None:
    space = {"offset": {"type": "float", "low": 0.0, "high": 1.0}}
    study = project.study(
        "stopped",
        trainer=project.trainer("Offset", max_epochs=8),
        space=space,
        budget={"trials": 18},
        pruner={"name": "history", "startup_trials": 4, "false_prunes": 0.2},
    )
    project.hpo("tune", study)
    trials = project.json("explain", "stopped")["trials"]
    stopped = [trial for trial in trials if trial["state"] == "pruned"]
    assert stopped
    assert all(trial["number"] >= 4 and trial["number"] not in (7, 15) for trial in stopped)
    for trial in stopped:
        reason = trial["pruned_because"]
        assert reason["chance"] < reason["least_chance"]
        assert reason["incumbent"] < reason["value"]
    printed = project.hpo("explain", "stopped", str(stopped[0]["number"])).stdout
    assert "stopped early" in printed
    assert "no past study has curves" in printed
