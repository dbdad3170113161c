"""Does a study say beforehand what it will reach, and end when nothing is left to gain?"""

from __future__ import annotations

from tests.e2e.conftest import Project


def test_a_study_is_planned_stopped_and_resumed(project: Project) -> None:
    """The line is learned perfectly by many configurations: soon nothing is left above the tolerance."""
    study = project.study("line", budget={"trials": 25}, stop={"gain": 0.5}, pruner="none")
    planned = project.json("plan", study)
    assert planned["enough"] is False and "5 would be enough" in planned["statement"]

    done = project.hpo("tune", study, "--jobs", "2")
    assert "trials: the " in done.stderr and "that is below the tolerance, 0.5" in done.stderr
    shown = project.json("show", "line")
    stopped, finished = shown["stopped"], shown["trials"]["complete"]
    assert 8 <= stopped["finished"] <= finished < 25
    assert stopped["rule"] == "gain" and stopped["gain95"] < 0.5
    assert (stopped["budget_trials"], stopped["budget_hours"]) == (25, None)
    assert "stopped after" in project.hpo("show", "line").stdout

    again = project.hpo("tune", study, "--resume")
    assert "Go on with --trials of more than 25" in again.stderr
    assert project.json("show", "line")["trials"]["complete"] == finished

    more = project.json("tune", study, "--resume", "--trials", "27", "--jobs", "2")
    assert more["trials"]["complete"] == 27
    assert "it went on later" in project.hpo("show", "line").stdout

    planned = project.hpo("plan", study, "--price", "2", "--figure", project.work / "plan.png")
    assert "line itself was tuned before" in planned.stdout and "money" in planned.stdout
    assert (project.work / "plan.png").stat().st_size > 1000
    assert "--force" in project.hpo("plan", study, "--figure", project.work / "plan.png", code=2).stderr


def test_a_ready_recipe_stops_when_nothing_is_left(project: Project) -> None:
    """On wine a loss of 0 is soon found, and cannot be improved."""
    path = project.code / "wine.yaml"
    project.hpo("init", path, "--recipe", "wine_mlp/all")
    done = project.json("tune", path, "--trials", "24", "--stop", "auto")
    assert sum(done["trials"].values()) < 24
    assert done["stopped"]["rule"] == "auto"
    assert done["stopped"]["gain95"] <= done["stopped"]["threshold"]
    assert f"stopped after {done['stopped']['finished']} of 24 trials" in done["stopped"]["reason"]


def test_a_stop_that_makes_no_sense_is_refused(project: Project) -> None:
    study = project.study("line")
    refused = project.hpo("tune", study, "--stop", "gain=soon", code=2)
    assert "stop.gain: must be a number, not 'soon'" in refused.stderr
