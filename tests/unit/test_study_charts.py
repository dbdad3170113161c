"""Are the charts of a study what plotly takes, and do they say what was given?"""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from dashboards.charts.learning_curves import LearningCurve, learning_curves_chart
from dashboards.charts.look import Chart
from dashboards.charts.parallel import parallel_chart
from dashboards.charts.spark import spark_of
from dashboards.charts.study_course import MOST_POINTS, study_course_chart
from dashboards.charts.surface import plane_chart, slice_chart
from hpo.decisions.study_surface import Plane, Slice
from hpo.decisions.worth_course import Worth

EVIL = "<img src=x onerror=alert(1)>"
NAN = float("nan")
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    EVIL: CategoricalDistribution(["sgd", EVIL]),
    "depth": IntDistribution(1, 4),
}


def check(chart: Chart) -> Chart:
    """Plotly's own validators take it, and no name in it is read as a tag."""
    go.Figure(data=chart["data"], layout=chart["layout"])
    assert "<img" not in json.dumps([chart["data"], chart["layout"]])
    json.dumps(chart, allow_nan=True)
    return chart


def trace(chart: Chart, name: str) -> dict[str, Any]:
    return next(each for each in chart["data"] if str(each.get("name", "")).startswith(name))


@pytest.mark.parametrize(("maximize", "best"), [(False, [3.0, 1.0, 1.0]), (True, [3.0, 4.0])])
def test_the_course_is_that_of_the_best_complete_trial(maximize, best):
    chart = check(
        study_course_chart(
            [0, 1, 2, 3, 4],
            [FAIL, COMPLETE, PRUNED, COMPLETE, COMPLETE],
            [NAN, 3.0, 0.5, 1.0, 4.0],
            metric=EVIL,
            maximize=maximize,
        )
    )
    line = trace(chart, "best so far")
    assert (line["x"][0], line["x"][-1]) == (2, 5)
    assert line["y"] == best
    assert trace(chart, "pruned")["y"] == [0.5]
    assert chart["table"]["rows"][0] == [2, 1, 3.0]


def test_what_the_best_is_worth_and_what_was_foretold_are_bands():
    worth = [Worth(finished=5, number=3, value=1.1, interval95=(0.9, 1.4), probability_best=0.8)]
    told = {"trials": 5, "value": {"expected": 1.2, "interval95": [0.8, 2.0]}}
    unsure = {"trials": 10, "value": {"expected": 1.0, "interval95": None}}
    chart = check(
        study_course_chart(
            range(6),
            [COMPLETE] * 6,
            [3, 2, 1.5, 1, 2, 2],
            metric="loss",
            maximize=False,
            worth=worth,
            foretold=[told, unsure, {"trials": 20, "value": None}],
        )
    )
    assert trace(chart, "worth of the best")["customdata"] == [[3, 0.9, 1.4]]
    assert trace(chart, "foretold")["x"] == [5, 10]
    filled = [each for each in chart["data"] if each.get("fill") == "tonexty"]
    assert sorted(each["y"][0] for each in filled) == [1.4, 2.0]


def test_of_many_trials_a_sample_is_drawn_and_every_step_of_the_best():
    values = [1.0 / (k + 1) if k % 997 == 0 else 2.0 + k % 7 for k in range(10_000)]
    chart = check(study_course_chart(range(10_000), [COMPLETE] * 10_000, values, metric="loss", maximize=False))
    dots = trace(chart, "complete")
    assert len(dots["x"]) <= MOST_POINTS + 20 and "of 10,000 shown" in dots["name"]
    assert {k + 1 for k in range(0, 10_000, 997)} <= set(dots["x"])
    assert len(chart["table"]["rows"]) == 11


def test_bad_trials_may_lie_outside():
    values = [1.0 + 0.01 * (k % 9) for k in range(30)] + [1e9]
    chart = check(study_course_chart(range(31), [COMPLETE] * 31, values, metric="loss", maximize=False))
    low, high = chart["layout"]["yaxis"]["range"]
    assert low < 1.0 and high < 2.0


def test_a_study_without_a_value_has_nothing_to_draw():
    assert study_course_chart([0], [FAIL], [NAN], metric="loss", maximize=False)["data"] == []
    assert learning_curves_chart([], [], metric="loss")["data"] == []
    assert parallel_chart([], SPACE, metric="loss", maximize=False)["data"] == []
    assert spark_of([NAN, NAN], maximize=False) is None


def test_a_running_trial_shows_where_it_is_heading():
    behind = [LearningCurve(number=0, state="complete", points={0: 3.0, 9: 1.0})]
    running = LearningCurve(
        number=1, state="running", points={0: 2.0, 1: NAN, 2: 1.5}, ending=(1.2, 1.0, 1.6), chance=0.3
    )
    chart = check(learning_curves_chart(behind, [running], metric="loss", last_step=9))
    ending = chart["data"][-1]
    assert (ending["x"], ending["y"]) == ([9], [1.2])
    assert ending["error_y"]["array"] == [pytest.approx(0.4)] and ending["error_y"]["arrayminus"] == [
        pytest.approx(0.2)
    ]
    assert [1, "running", 1, None] in chart["table"]["rows"]


@pytest.mark.parametrize("maximize", [False, True])
def test_parallel_coordinates_put_the_best_above(maximize):
    trials = [(k, float(k), {"lr": 10.0 ** (-k % 4), EVIL: EVIL, "depth": 1 + k % 4}) for k in range(1, 13)]
    trials.append((13, 6.5, {"lr": 0.1}))  # where the others do not matter
    chart = check(parallel_chart(trials, SPACE, metric="loss", maximize=maximize))
    above = [each for each in chart["data"] if "text" in each][-1]
    best = trials[11] if maximize else trials[0]
    assert f"trial {best[0]}:" in above["text"][0]
    assert all(place is None or 0.0 <= place <= 1.0 for each in chart["data"] for place in each["y"])
    assert chart["table"]["rows"][0][0] == best[0]
    assert None in next(row for row in chart["table"]["rows"] if row[0] == 13)
    assert chart["summary"].startswith("A line for each complete trial.")


def test_of_many_trials_the_best_and_a_sample_are_drawn_and_it_is_said():
    trials = [(k, k / 7.0, {"lr": 10.0 ** (-k % 4), "depth": 1 + k % 4}) for k in range(10_000)]
    chart = check(parallel_chart(trials, SPACE, metric="loss", maximize=True))
    drawn = [row[0] for row in chart["table"]["rows"]]
    assert len(drawn) == 600 and drawn[:300] == list(range(9_999, 9_699, -1)) and drawn[-1] == 0
    assert "Of 10,000 complete trials the best 300, and 300 others" in chart["summary"]
    assert "600 of 10,000 trials" in chart["data"][-1]["marker"]["colorbar"]["title"]["text"]
    assert len(json.dumps(chart)) < 250_000


def test_the_colours_of_parallel_coordinates_are_a_scale_of_values_and_equal_values_share_one():
    values = [0.1] * 9 + [0.2, 0.3, 0.3, 0.4, 0.4, 0.4, 0.5]
    trials = [(k, value, {"lr": 0.01}) for k, value in enumerate(values)]
    chart = check(parallel_chart(trials, SPACE, metric="loss", maximize=False))
    bar = chart["data"][-1]["marker"]["colorbar"]
    told = [float(text) for text in bar["ticktext"]]
    assert told[0] == 0.1 and told == sorted(set(told)) and bar["tickvals"] == list(range(len(told)))
    colours = {each["line"]["color"] for each in chart["data"] if "text" in each}
    assert colours == {colour for _, colour in chart["data"][-1]["marker"]["colorscale"]}
    same = check(parallel_chart([(k, 1.0, {"lr": 0.01}) for k in range(9)], SPACE, metric="loss", maximize=False))
    assert all("colorbar" not in each.get("marker", {}) for each in same["data"])


def test_a_single_step_is_in_the_middle_of_its_axis():
    behind = [LearningCurve(number=k, state="complete", points={0: 1.0 + k}) for k in range(3)]
    chart = check(learning_curves_chart(behind, [], metric="loss"))
    assert chart["layout"]["xaxis"]["range"] == [-0.5, 0.5] and chart["layout"]["xaxis"]["dtick"] == 1
    assert chart["data"][0]["mode"] == "markers"


def test_a_slice_has_its_interval_and_a_plane_its_half_width():
    tried = [(0, "complete", 1.0, {"lr": 0.01, EVIL: "sgd"}), (1, "pruned", 2.0, {"lr": 0.1})]
    along = Slice(parameter="lr", values=[1e-3, 1e-2], expected=[2.0, 1.0], low=[1.5, 0.8], high=[3.0, 1.3], others={})
    chart = check(slice_chart(along, tried, SPACE["lr"], metric=EVIL))
    assert chart["layout"]["xaxis"]["type"] == "log"
    assert trace(chart, "expected")["customdata"] == [[1.5, 3.0], [0.8, 1.3]]
    choices = Slice(
        parameter=EVIL, values=["sgd", EVIL], expected=[2.0, 1.0], low=[1.5, 0.8], high=[3.0, 1.3], others={}
    )
    bars = trace(slice_chart(choices, tried, SPACE[EVIL], metric="loss"), "expected, 95%")
    assert bars["error_y"]["array"] == [pytest.approx(1.0), pytest.approx(0.3)]
    plane = Plane(
        parameters=("lr", "depth"),
        values=([1e-3, 1e-2], [1, 2]),
        expected=[[1.0, 2.0], [3.0, 4.0]],
        low=[[0.5, 1.0], [2.0, 3.0]],
        high=[[1.5, 3.0], [4.0, 5.0]],
        others={},
    )
    contour = check(plane_chart(plane, tried, [SPACE["lr"], SPACE["depth"]], metric="loss", maximize=False))["data"][0]
    assert contour["customdata"] == [[0.5, 1.0], [1.0, 1.0]]


def test_a_spark_steps_down_to_the_best_and_ends_there():
    spark = spark_of([NAN, 4.0, 5.0, 2.0, 3.0], maximize=False)
    assert spark is not None
    assert spark.path.count("V") == 1
    assert "from 4 to 2 over 5" in spark.said
