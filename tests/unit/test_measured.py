"""Are figures judged by their bars as a reader would?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.measured import Figure, faster, in_turn, keep, table


@pytest.mark.parametrize(
    ("bars", "verdict"),
    [
        ({}, ""),
        ({"at_least": 2.0}, "met"),
        ({"at_least": 2.1}, "MISSED"),
        ({"at_most": 2.0}, "met"),
        ({"at_most": 1.9}, "MISSED"),
        ({"at_least": 1.0, "at_most": 1.5}, "MISSED"),
    ],
)
def test_a_figure_meets_its_bar_or_misses_it(bars: dict[str, float], verdict: str) -> None:
    assert Figure(what="pace", ours=2.0, **bars).verdict == verdict


def test_the_bar_is_for_the_ratio_where_there_is_one() -> None:
    assert not Figure(what="pace", ours=100.0, rival=50.0, ratio=2.0, at_least=10.0).is_met


@pytest.mark.parametrize(("unit", "ratio"), [("trials/s", 4.0), ("s", 0.25)])
def test_large_rates_and_small_times_are_better(unit: str, ratio: float) -> None:
    figure = faster("pace", [8, 4, 2], [2, 1, 1], unit=unit, rival_name="it", at_least=1.0)
    assert (figure.ours, figure.rival, figure.ratio, figure.is_met) == (4, 1, ratio, ratio >= 1)


def test_measurements_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return len(order)

    assert in_turn(2, {"a": lambda: measure("a"), "b": lambda: measure("b")}) == {"a": [1, 3], "b": [2, 4]}


def test_figures_are_printed_and_kept(tmp_path: Path) -> None:
    figures = [
        Figure(what="pace", ours=1234.5, unit="trials/s", rival=0.5, rival_name="it", ratio=2469.0, at_least=10.0)
    ]
    line = " ".join(table(figures).splitlines()[1].split())
    assert line == "pace 1,234 trials/s 0.5 trials/s it 2469.00 >= 10x met"
    keep(figures, tmp_path / "figures.json")
    (kept,) = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert (kept["what"], kept["ours"], kept["bar"], kept["is_met"]) == ("pace", 1234.5, ">= 10x", True)
