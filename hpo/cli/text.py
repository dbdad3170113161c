"""How names that somebody else chose are printed: nothing in them commands the terminal or the layout."""

from __future__ import annotations

from rich.markup import escape as escape_markup


def visible(text: str) -> str:
    """The text with control characters, line breaks and marks of direction spelled out: `a\\x1b[31m`, `a\\nb`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def escape(text: str) -> str:
    """The text for output that knows markup."""
    return escape_markup(visible(text))
