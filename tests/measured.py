"""How measured figures are judged by their bars, printed, and kept."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, and the bar that it must reach."""

    what: str
    ours: float
    unit: str = ""  # of `ours` and `rival`
    rival: float | None = None
    rival_name: str = ""
    ratio: float | None = None  # what the bar is for, where it is not `ours` itself
    at_least: float | None = None
    at_most: float | None = None  # neither: measured for information
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached; what has no bar always is."""
        judged = self.ours if self.ratio is None else self.ratio
        return (self.at_least is None or judged >= self.at_least) and (self.at_most is None or judged <= self.at_most)

    @property
    def bar(self) -> str:
        """The bar in words."""
        unit = "x" if self.ratio is not None else f" {self.unit}".rstrip()
        bounds = [
            f"{sign} {bound:,g}{unit}"
            for sign, bound in ((">=", self.at_least), ("<=", self.at_most))
            if bound is not None
        ]
        return " and ".join(bounds)

    @property
    def verdict(self) -> str:
        """Met, MISSED, or nothing where there is no bar."""
        return ("met" if self.is_met else "MISSED") if self.bar else ""


def faster(
    what: str,
    ours: Iterable[float],
    rival: Iterable[float],
    *,
    unit: str,
    rival_name: str,
    at_least: float | None,
    **rest: object,
) -> Figure:
    """A figure in which we must be so many times better, from measurements of the same rounds.

    Units of time are better when they are small, rates when they are large. The ratio is the median over rounds.
    """
    pairs = list(zip(ours, rival, strict=True))
    is_rate = unit.endswith("/s")
    ratios = [mine / theirs if is_rate else theirs / mine for mine, theirs in pairs]
    return Figure(
        what=what,
        ours=statistics.median(mine for mine, _ in pairs),
        rival=statistics.median(theirs for _, theirs in pairs),
        rival_name=rival_name,
        unit=unit,
        ratio=statistics.median(ratios),
        at_least=at_least,
        **{"note": f"ratios of {len(pairs)} rounds: {min(ratios):.1f} to {max(ratios):.1f}", **rest},  # type: ignore[arg-type]
    )


def in_turn(rounds: int, measurements: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Take each measurement once a round, so that whatever else the machine does meets all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measure in measurements.items():
            taken[name].append(measure())
    return taken


def table(figures: Iterable[Figure]) -> str:
    """The figures, one a line: what, ours, rival, ratio, bar, verdict."""
    rows = [("what", "ours", "rival", "ratio", "bar", "")]
    for figure in figures:
        rival = "" if figure.rival is None else f"{_number(figure.rival)} {figure.unit} {figure.rival_name}".strip()
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        ours = f"{_number(figure.ours)} {figure.unit}".strip()
        verdict = figure.verdict if figure.is_met else f"{figure.verdict} {figure.note}".strip()
        rows.append((figure.what, ours, rival, ratio, figure.bar, verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def keep(figures: Iterable[Figure], path: Path) -> None:
    """Write the figures, and on what they were measured, as JSON."""
    machine = {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    measured = [{**asdict(figure), "bar": figure.bar, "is_met": figure.is_met} for figure in figures]
    content = {"measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine}
    path.write_text(json.dumps({**content, "figures": measured}, indent=1) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
