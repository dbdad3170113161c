"""Do the charts about the past show what they were given, and nothing that a name would have them do?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from dashboards.charts.comparison import course_chart, difference_chart, gain_chart, regret_chart
from dashboards.charts.look import number_axis, plain, translucent
from dashboards.charts.task_map import task_map_chart
from hpo.decisions.comparisons import Pair, Row
from hpo.decisions.resemblance import Neighbour, PlacedTask, Resemblance
from hpo.decisions.study_courses import SideCourse

EVIL = "<a href='javascript:alert(1)'>x</a> & co"


def row(**changes: Any) -> Row:
    content: dict[str, Any] = {
        "first": "ours", "other": EVIL, "at": "after 10 trials", "n": 2, "is_paired": True, "gain": 0.5,
        "gain_interval95": (0.2, 0.9), "unit": "loss", "effect": "mean", "test": "t", "p": 0.03, "p_holm": 0.06,
        "superiority": 1.0, "is_decided": False, "verdict": "open", "needed": None,
        "pairs": (Pair(label="a", gain=0.4), Pair(label=EVIL, gain=0.6)),
    }  # fmt: skip
    return Row(**content | changes)


def drawn(chart: dict[str, Any]) -> str:
    """What plotly gets to see, which must be JSON."""
    return json.dumps({name: chart[name] for name in ("data", "layout")}, allow_nan=False)


def test_text_is_not_read_as_html() -> None:
    assert plain("<b>&\n\x00") == "&lt;b&gt;&amp;��"
    assert translucent("#0a10ff") == "rgba(10, 16, 255, 0.18)"


def test_only_wide_logarithmic_axes_are_marked_by_decades() -> None:
    assert number_axis(FloatDistribution(0, 1)) == {"type": "linear"}
    assert number_axis(FloatDistribution(1e-5, 1e-1, log=True))["dtick"] == 1
    assert "dtick" not in number_axis(FloatDistribution(0.1, 0.9, log=True))


def test_gains_are_drawn_with_their_intervals_the_first_comparison_on_top() -> None:
    chart = gain_chart([row(), row(other="theirs", gain=None, gain_interval95=None, pairs=())])
    pairs, gains = chart["data"]
    assert pairs["x"] == [0.4, 0.6] and gains["x"] == [0.5] and gains["y"] == [1]
    assert gains["error_x"]["array"] == [pytest.approx(0.4)] and gains["error_x"]["arrayminus"] == [pytest.approx(0.3)]
    assert "<a href" not in drawn(chart)
    assert chart["table"]["rows"][0][0] == EVIL and chart["table"]["rows"][1][3] is None


def test_the_course_of_several_runs_has_a_band_and_that_of_one_has_none() -> None:
    mean = np.array([3.0, 2.0, 1.0])
    several = SideCourse(name=EVIL, runs=3, mean=mean, interval=np.stack([mean - 1, mean + 1], axis=1))
    one = SideCourse(name="one", runs=1, mean=np.array([2.5, 2.0]), interval=None)
    chart = course_chart([several, one], metric="loss")
    assert [trace["y"] for trace in chart["data"]] == [[2.0, 1.0, 0.0], [4.0, 3.0, 2.0], [3.0, 2.0, 1.0], [2.5, 2.0]]
    assert chart["table"]["rows"][2] == [3, 1.0, None]
    assert "<a href" not in drawn(chart)


def test_tasks_are_named_while_they_are_few() -> None:
    def placed(place: int) -> PlacedTask:
        near = (Neighbour(task=EVIL, correlation=0.5),)
        return PlacedTask(task=f"{EVIL}{place}", x=0.1 * place, y=0.0, trials=10, told=0.5, nearest=near)

    few, many = (
        task_map_chart(
            Resemblance(tasks=tuple(map(placed, range(count))), kept=0.9, least=0.1, looked_at=count, flat=())
        )
        for count in (3, 60)
    )
    assert few["data"][0]["mode"] == "markers+text" and many["data"][0]["mode"] == "markers"
    assert "<a href" not in drawn(few) and len(many["table"]["rows"]) == 60


def test_methods_are_drawn_as_a_replay_reports_them() -> None:
    overall = [
        {"method": "history", "regret": {"minmax": {"1": 0.4, "5": 0.1}}},
        {"method": EVIL, "regret": {"minmax": {"1": 0.6, "5": 0.3}}},
    ]
    chart = regret_chart(overall, kind="minmax")
    assert chart["data"][1]["x"] == [1, 5] and chart["data"][1]["y"] == [0.6, 0.3]
    difference = {"kind": "minmax", "at": 5, "mean": 0.2, "interval95": [0.1, 0.3], "p": 0.01, "p_holm": 0.02}
    apart = difference_chart(
        [{"method": EVIL, "baseline": "history", "differences": [difference]}], kind="minmax", at=5
    )
    assert apart["data"][0]["x"] == [0.2] and apart["data"][0]["error_x"]["array"] == [pytest.approx(0.1)]
    assert "<a href" not in drawn(chart) + drawn(apart)
