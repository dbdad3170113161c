"""What `hpo compare` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpo.cli.options import check_figure
from hpo.cli.show import open_console, print_json, simple_table
from hpo.cli.source import Source
from hpo.cli.text import escape
from hpo.decisions.comparisons import Comparisons, Row
from hpo.errors import SettingsError


def compare_and_draw(source: Source, sides: Sequence[str], *, figure: Path | None, force: bool, as_json: bool) -> None:
    """`hpo compare`."""
    check_figure(figure, force=force)
    if not sides:
        raise SettingsError("name two studies, or two trials as STUDY#TRIAL")
    found = source.compare(sides[0], *sides[1:])
    if figure is not None:
        from hpo.figures.comparison_figure import save_figure

        save_figure(found, figure)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
    if figure is not None:
        print(f"drawn: {figure}")


def _print(found: Comparisons) -> None:
    console = open_console()
    what = "incumbents" if found.kind == "studies" else "replicates"
    first, *others = found.sides
    console.print(
        f"[bold]{escape(first)}[/] against {escape(', '.join(others))}: {what}, {escape(found.metric)} "
        f"({found.direction})",
        soft_wrap=True,
    )
    table = simple_table(
        "against", "", "pairs", "gain", "95% interval", "unit", "better in", "p", "Holm", "",
        numbers=("pairs", "gain", "95% interval", "better in", "p", "Holm"),
    )  # fmt: skip
    last = None
    for row in found.rows:
        table.add_row(
            escape(row.other) if row.other != last else "",
            row.at,
            str(row.n) if row.is_paired else f"{row.n}, unpaired",
            _signed(row.gain),
            "-" if row.gain_interval95 is None else " … ".join(map(_signed, row.gain_interval95)),
            escape(row.unit),
            "-" if row.superiority is None else f"{row.superiority:.0%}",
            _p(row.p),
            _p(row.p_holm),
            escape(row.verdict) if row.is_decided else f"[yellow]{escape(row.verdict)}[/]",
        )
        last = row.other
    console.print(table)
    for sentence in _sentences(first, found.rows):
        console.print(escape(sentence), soft_wrap=True)
    for note in found.notes:
        console.print(f"[dim]note: {escape(note)}[/]", soft_wrap=True)


def _sentences(first: str, rows: Sequence[Row]) -> list[str]:
    effects = [row.effect for row in rows if row.gain_interval95 is not None]
    tests = [row.test for row in rows if row.p is not None]
    said = [f"gain: how much better {first} is; better in: of the pairs, ties half"]
    if effects:
        said.append(f"gain by {' or '.join(dict.fromkeys(effects))}; p by {' or '.join(dict.fromkeys(tests))}")
    if any(row.unit == "task spreads" for row in rows):
        said.append("task spreads: differences are divided by how far the better half of a task's values lie apart")
    return said


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3g}" if value else "0"


def _p(p: float | None) -> str:
    return "-" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1.0 else "1"
