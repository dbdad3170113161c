"""What do all charts share? Colours that are seen on light and on dark, and text that is not read as HTML.

A chart is plotly's JSON with what is said of it: `{"title", "data", "layout", "table": {"columns", "rows"}}`; axes,
fonts and backgrounds come from the page (`static/figures.js`).
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, TypeAlias

from optuna.distributions import IntDistribution

Chart: TypeAlias = dict[str, Any]

ACCENT, SECOND, INK, FAINT = "#1f9d74", "#bb8020", "#7c8594", "#8a93a0"
BAND, WIDE_BAND = "rgba(31, 157, 116, 0.34)", "rgba(31, 157, 116, 0.14)"
SERIES = ("#1f9d74", "#bb8020", "#5b8def", "#c8598f", "#8f74d9", "#7c8594")
FEW_DECADES = 1e2  # ranges below have ticks of their own
MOST_TICKS = 12
SHORT = 28  # letters of a name beside an axis
ROW, MARGINS = 21, 90  # pixels of a chart with a line for each of many things


def plain(text: Any) -> str:
    """The text as plotly shows it: it would take tags and links in it for its own."""
    return html.escape("".join(char if char.isprintable() else "�" for char in str(text)), quote=False)


def short(text: Any, length: int = SHORT) -> str:
    """As `plain`, with its middle left out where it is long: names differ at either end."""
    whole, half = str(text), (length - 1) // 2
    return plain(whole if len(whole) <= length else f"{whole[:half]}…{whole[-half:]}")


def numbers(values: Iterable[Any]) -> list[float]:
    """An array as JSON can say it."""
    return [float(value) for value in values]


def number_axis(distribution: Any) -> dict[str, Any]:
    """How an axis along a parameter with a range is scaled: decades of many are marked only, and whole numbers."""
    if not getattr(distribution, "log", False):
        is_whole = isinstance(distribution, IntDistribution)
        return {"type": "linear", **(whole_ticks(distribution.high - distribution.low) if is_whole else {})}
    ticks = {"dtick": 1} if distribution.high >= FEW_DECADES * distribution.low else {}
    return {"type": "log", "exponentformat": "power", **ticks}


def row_height(rows: int) -> int:
    """The height of a chart with so many rows."""
    return max(180, MARGINS + ROW * rows)


def whole_ticks(most: int) -> dict[str, Any]:
    """A tick at each whole number of an axis that counts, where there is room for them."""
    return {"dtick": 1} if most <= MOST_TICKS else {}


def series_colour(place: int) -> str:
    """The colour of one of several series."""
    return SERIES[place % len(SERIES)]


def translucent(colour: str) -> str:
    """A `#rrggbb` as the colour of a band around its line."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.18)"
