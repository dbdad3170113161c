"""A curve in the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def step_chart(values: Sequence[float], *, width: int = 60, height: int = 8) -> str:
    """A step curve of finite `values` over their index, drawn with block characters; empty for no values.

    Each column shows the last value that falls into it; the left margin names the highest and the lowest value.
    """
    if not values:
        return ""
    columns = min(width, len(values))
    shown = [values[(column + 1) * len(values) // columns - 1] for column in range(columns)]
    low, high = min(shown), max(shown)
    if low == high:
        height = 1
    rows = [round((value - low) / ((high - low) or 1.0) * (height - 1)) for value in shown]
    cells = max(1, width // columns)  # a column's width in characters
    labels = {0: f"{low:.4g}", height - 1: f"{high:.4g}"}
    margin = max(map(len, labels.values()))
    lines = []
    for row in range(height - 1, -1, -1):
        line = "".join(_column(rows, column, row, cells) for column in range(columns))
        lines.append(f"{labels.get(row, ''):>{margin}} ┤{line.rstrip()}")
    lines.append(f"{'':>{margin}} └{'─' * (columns * cells)}")
    lines.append(f"{'':>{margin}}  1{f'trial {len(values)}':>{columns * cells - 1}}")
    return "\n".join(lines)


def _column(rows: Sequence[int], column: int, row: int, cells: int) -> str:
    """One column's part of a row: the step's riser in its first character, its tread in all."""
    here = rows[column]
    before = rows[column - 1] if column else here
    low, high = min(here, before), max(here, before)
    if low == high or not low <= row <= high:
        riser = "━" if row == here else " "
    elif row == here:
        riser = "┗" if here == low else "┏"
    elif row == before:
        riser = "┓" if before == high else "┛"
    else:
        riser = "┃"
    return riser + ("━" if row == here else " ") * (cells - 1)
