"""What all figures share: their ink, text that is not read as a formula, and the files that they go into."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hpo.errors import SettingsError

INK = "#22252a"
DOTS_PER_INCH = 150
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ margin: 2rem }} svg {{ max-width: 100%; height: auto }}</style>
{drawing}
</html>
"""


def plain(text: Any) -> str:
    """The text as matplotlib shows it, and does not read it as a formula."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in str(text)).replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write a figure into a file, whose ending gives the format: an HTML page holds the drawing and needs nothing else.

    Raises SettingsError.
    """
    try:
        if path.suffix.lower() == ".html":
            path.write_text(_page(figure), encoding="utf-8")
        else:
            figure.savefig(path, dpi=DOTS_PER_INCH)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be drawn: {error}") from error


def _page(figure: Figure) -> str:
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    _, start, rest = drawing.getvalue().partition("<svg")  # without the prolog of a file of its own
    title = figure.get_suptitle().replace(r"\$", "$") or "Hindsight"
    return PAGE.format(title=html.escape(title), drawing=start + rest)
