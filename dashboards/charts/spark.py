"""How did the best so far move, in the space of a word? An SVG path, drawn by the server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 120.0, 28.0
EDGE = 3.0  # free on every side, for the dot at the end


@dataclass(frozen=True, kw_only=True)
class Spark:
    """The steps of an incumbent."""

    path: str
    end: tuple[float, float]
    said: str  # for who does not see it


def spark_of(values: Sequence[float], *, maximize: bool) -> Spark | None:
    """The best after each finished trial. values: of the complete ones, NaN for others. None where none has one."""
    best: float | None = None
    steps: list[tuple[int, float]] = []  # when it changed, and to what
    for at, value in enumerate(values):
        if math.isfinite(value) and (best is None or (value > best if maximize else value < best)):
            best = value
            steps.append((at, value))
    if not steps or best is None:
        return None
    low, high = sorted((steps[0][1], best))
    last = max(len(values) - 1, 1)

    def x(at: int) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * at / last

    def y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * share

    path = f"M{x(steps[0][0]):.1f} {y(steps[0][1]):.1f}"
    path += "".join(f"H{x(at):.1f}V{y(value):.1f}" for at, value in steps[1:])
    end = x(len(values) - 1), y(best)
    return Spark(
        path=f"{path}H{end[0]:.1f}",
        end=end,
        said=f"the best went from {steps[0][1]:.4g} to {best:.4g} over {len(values)} finished trials",
    )
