"""What `hpo front` prints, and how other commands show a study of several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hpo.answers.front import front_fields
from hpo.cli.options import check_figure
from hpo.cli.show import amount, open_console, params_text, print_json, simple_table
from hpo.cli.text import escape
from hpo.studies.front import Front, Point

if TYPE_CHECKING:
    from hpo.cli.source import Source

MOST_SHOWN = 30


def show_front(source: Source, study: str, *, figure: Path | None, force: bool, as_json: bool) -> None:
    """`hpo front`."""
    check_figure(figure, force=force)
    found = source.front(study)
    if figure is not None:
        from hpo.figures.front_figure import save_figure

        save_figure(found, figure)
    if as_json:
        print_json(front_fields(found) | {"figure": figure})
        return
    console = open_console()
    print_front(console, found)
    if figure is not None:
        console.print(f"drawn in {escape(str(figure))}", soft_wrap=True)


def print_front(console: Console, found: Front) -> None:
    """A table of the trials that no other beats."""
    count = len(found.points) + len(found.beaten)
    left_out = f"; {found.left_out} without values left out" if found.left_out else ""
    console.print(
        f"[bold]{escape(found.study)}[/]  {len(found.points)} of {count} complete trials are beaten by no other in "
        f"everything{left_out}",
        soft_wrap=True,
    )
    names = [f"{each.metric} {'↑' if each.direction == 'maximize' else '↓'}" for each in found.objectives]
    table = simple_table("trial", *map(escape, names), "parameters", numbers=("trial", *map(escape, names)))
    for point in found.points[:MOST_SHOWN]:
        table.add_row(str(point.number), *map(amount, point.values), escape(params_text(point.params)))
    console.print(table)
    if len(found.points) > MOST_SHOWN:
        console.print(f"the first {MOST_SHOWN} of {len(found.points)}; --json prints all")


def ends(found: Front) -> Sequence[tuple[str, Point]]:
    """For each objective its name and the best trial in it."""
    best = []
    for place, objective in enumerate(found.objectives):
        better = max if objective.direction == "maximize" else min
        best.append((objective.metric, better(found.points, key=lambda point: point.values[place])))
    return best
