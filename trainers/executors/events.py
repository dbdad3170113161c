"""What do the messages of a trial mean as events, and what did it print last?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO

from trainers.job import OUTPUT_LOG, Failed, Finished, Outcome, Reported
from trainers.processes.channel import Message

TAIL_LINES = 20
TAIL_BYTES = 16_384
CHATTER = re.compile(
    r"(GPU|TPU|HPU) available: |(\[rank: \d+\] )?Seed set to |💡 Tip: |`weights_only` was not set"
    r"|`Trainer\.fit` stopped: |.*[/\\]lightning[/\\]pytorch[/\\]utilities[/\\]_pytree\.py:\d+: "
)  # lines that Lightning prints in every trial
TORCHRUN = re.compile(
    r"E\d{4} .*torch[/\\]distributed[/\\]elastic[/\\].*\] failed "
)  # begins what it says of a process that failed


def reported(key: int, message: Message) -> Reported:
    """An epoch of a trial."""
    return Reported(key=key, epoch=message["epoch"], value=message["value"], metrics=message["metrics"])


def ended(key: int, message: Message, *, directory: Path) -> Finished | Failed:
    """The last event of a trial, by its last message."""
    if message["type"] == "finished":
        return Finished(key=key, outcome=Outcome.from_json(message["outcome"]))
    return Failed(key=key, kind=message["kind"], reason=message["reason"], output_tail=_output_tail(directory))


def tail(output: IO[bytes]) -> str:
    """The last lines of what a process printed, without Lightning's chatter and without torchrun's report after it."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - TAIL_BYTES))
    lines = output.read().decode(errors="replace").splitlines()
    told = [line for line in lines if not CHATTER.match(line)]
    reports = [place for place, line in enumerate(told) if TORCHRUN.match(line)]
    return "\n".join((told[: reports[0]] if reports and reports[0] else told)[-TAIL_LINES:])


def _output_tail(directory: Path) -> str:
    try:
        with (directory / OUTPUT_LOG).open("rb") as output:
            return tail(output)
    except OSError:  # it ended before it could write
        return ""
