"""Does a cell mean what it says?"""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from optuna.trial import TrialState

from storage.importers.inference import ABSENT
from storage.importers.tables.values import UNFINISHED, content, integer, moment, number, seconds, state, text


@pytest.mark.parametrize("cell", [None, "", "  ", "NaN", "n/a", "<NA>", "NaT", math.nan])
def test_empty_cells_are_absent(cell):
    assert content(cell) is ABSENT
    assert number(cell) is None
    assert integer(cell) is None
    assert text(cell) is None
    assert seconds(cell) is None
    assert moment(cell) == (None, False)
    assert state(cell) is None


@pytest.mark.parametrize(
    ("cell", "value"), [("3", 3), ("1e-3", 1e-3), ("adam", "adam"), ("True", True), (2, 2), ([1, 2], "[1, 2]")]
)
def test_cells_get_their_type(cell, value):
    assert (content(cell), type(content(cell))) == (value, type(value))


@pytest.mark.parametrize("cell", ["abc", "True", True, "1,5", "3 %", "inf", math.inf, 10**400])
def test_what_is_no_finite_number_is_refused(cell):
    with pytest.raises(ValueError, match=r"is no number|is not finite|is too large"):
        number(cell)


@pytest.mark.parametrize(
    ("cell", "value"), [("7", 7), (7.0, 7), ("7.5", None), (2**63, None), (-(2**63) + 1, -(2**63) + 1), ("x", None)]
)
def test_integers_are_those_that_a_database_holds(cell, value):
    assert integer(cell) == value


@pytest.mark.parametrize(
    ("cell", "factor", "value"),
    [
        ("90", 1.0, 90.0),
        (1_500, 1e-3, 1.5),
        ("1:02:03.5", 1.0, 3_723.5),
        ("0 days 00:00:01.25", 1.0, 1.25),
        ("2 days, 1:00:00", 1.0, 176_400.0),
        (timedelta(minutes=2), 1.0, 120.0),
        ("soon", 1.0, None),
        ("-3", 1.0, None),
    ],
)
def test_durations(cell, factor, value):
    assert seconds(cell, factor) == value


NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("2024-05-01 12:00:00", (NOON, True)),
        ("2024-05-01T12:00:00Z", (NOON, False)),
        ("2024-05-01T14:00:00+02:00", (NOON, False)),
        (datetime(2024, 5, 1, 12), (NOON, True)),
        (datetime(2024, 5, 1, 17, 30, tzinfo=timezone(timedelta(hours=5.5))), (NOON, False)),
        (str(int(NOON)), (NOON, False)),
        (int(NOON * 1e3), (NOON, False)),
        (int(NOON * 1e6), (NOON, False)),
        (int(NOON * 1e9), (NOON, False)),
        ("05/01/2024", (None, False)),
        ("12", (None, False)),
    ],
)
def test_times_without_a_zone_are_utc(cell, found):
    when, is_naive = moment(cell)
    assert (when if when is None else pytest.approx(when), is_naive) == found


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("FINISHED", TrialState.COMPLETE),
        ("TrialState.PRUNED", TrialState.PRUNED),
        ("early stopped", TrialState.PRUNED),
        ("Crashed", TrialState.FAIL),
        ("running", UNFINISHED),
    ],
)
def test_states(cell, found):
    assert state(cell) == found


def test_an_unknown_state_is_refused():
    with pytest.raises(ValueError, match="'frobnicated' is unknown; use complete, pruned or failed"):
        state("frobnicated")


def test_text_is_what_every_database_keeps():
    assert text(" a\0b\ud800 ") == "ab?"
