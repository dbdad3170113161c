"""Can a name that somebody else chose do nothing to the terminal?"""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hpo.cli.text import escape, visible


@given(st.text())
def test_what_is_visible_is_printable_and_the_rest_untouched(text: str) -> None:
    assert visible(text).isprintable()
    assert visible("".join(char for char in text if char.isprintable())) == "".join(filter(str.isprintable, text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe", "größe"),
        ("<b>", "<b>"),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp", "Cf"]), max_size=20).map(
        lambda text: text.rstrip("\\")
    )
)
def test_markup_is_only_text(text: str) -> None:
    console = Console(file=io.StringIO(), width=200, emoji=False, highlight=False)
    console.print(f"({escape(text)}|[bold]b[/]|{escape('[red]')})", soft_wrap=True)
    file = console.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue() == f"({visible(text)}|b|[red])\n"
