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
    shown = [values[min(len(values) - 1, (column + 1) * len(values) // columns - 1)] for column in range(columns)]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    rows = [round((value - low) / span * (height - 1)) for value in shown]
    stretch = max(1, width // columns)
    labels = {height - 1: f"{high:.4g}", 0: f"{low:.4g}"}
    margin = max(map(len, labels.values()))
    lines = []
    for row in range(height - 1, -1, -1):
        line = "".join(_cell(rows, column, row) * stretch for column in range(columns))
        lines.append(f"{labels.get(row, ''):>{margin}} ┤{line.rstrip()}")
    lines.append(f"{'':>{margin}} └{'─' * (columns * stretch)}")
    lines.append(f"{'':>{margin}}  1{f'trial {len(values)}':>{max(1, columns * stretch - 1)}}")
    return "\n".join(lines)


def _cell(rows: Sequence[int], column: int, row: int) -> str:
    here = rows[column]
    before = rows[column - 1] if column else here
    if row == here:
        return "━"
    return "┃" if min(here, before) < row <= max(here, before) else " "
