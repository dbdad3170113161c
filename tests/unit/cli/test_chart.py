"""Does the terminal curve show the values?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.cli.chart import step_chart
from hpo.cli.show import duration


def test_a_falling_curve_begins_high_and_ends_low() -> None:
    chart = step_chart([4.0, 3.0, 3.0, 1.0], width=8, height=4)
    assert chart.splitlines()[:4] == [
        "4 ┤━━┓",
        "  ┤  ┗━━━┓",
        "  ┤      ┃",
        "1 ┤      ┗━",
    ]


@given(st.lists(st.floats(-1e9, 1e9), max_size=300), st.integers(1, 80), st.integers(2, 12))
def test_any_values_fit_the_frame(values: list[float], width: int, height: int) -> None:
    lines = step_chart(values, width=width, height=height).splitlines()
    assert len(lines) <= height + 2
    assert (not values) == (not lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (4.21, "4.2 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_read_as_a_person_says_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
