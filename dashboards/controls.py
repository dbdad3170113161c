"""What do a page's own controls do of what notes and errors ask of the command line?

The same notes are printed by commands and shown on pages. Options of `hpo serve`, and commands that no page stands for,
are told as they are, with their options: whoever runs the service needs them.
"""

from __future__ import annotations

import re

FIELDS = (  # of forms on pages: they are called like options
    "against",
    "baseline",
    "budget",
    "direction",
    "methods",
    "metric",
    "regime",
    "replicates",
    "rows",
    "seeds",
    "source",
    "stop",
    "task",
    "tasks",
    "trial",
    "trials",
)
_COMMANDS = (
    (
        r"`hpo best \S.*? --against \d+ --replicates \d+` trains it again",
        "“The best” of its study trains contenders again",
    ),
    (r"`hpo best(?: [^`]*)?`", "“The best” of the study"),
    (r"`hpo front(?: [^`]*)?`", "“The front” of the study"),
    (r"hpo best ('[^']*'|\S+)", r"see “The best” of \1"),
    (r"was not run by `hpo tune`", "was not run by Hindsight"),
    (r"; `hpo init[^`]*` writes an example", ""),
    (r" \(`hpo init`\)", ""),
)
_COMMAND_OR_OPTION = re.compile(rf"`[^`]*`|(?<![\w-])--(?P<field>{'|'.join(FIELDS)})(?![\w-])")


def on_page(text: str) -> str:
    """A note or an error as a page says it."""
    for command, words in _COMMANDS:
        text = re.sub(command, words, text)
    return _COMMAND_OR_OPTION.sub(lambda found: found["field"] or found[0], text)
