"""Where does the service write what it does? A line for each event, as text or JSON, to standard error or a file.

Lines are written by a thread of their own, so that nobody waits for a slow disk or a terminal that is held; where too
many wait, new ones are dropped and counted. No line holds a token or a password.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Literal

from hpo.errors import SettingsError
from storage.masking import without_secrets

Format = Literal["text", "json"]
MOST_WAITING = 10_000
TALKATIVE = ("hpo", "storage", "trainers")  # the loggers whose ordinary news are written, too


@contextmanager
def logging_to(file: Path | None, *, kind: Format) -> Iterator[None]:
    """Write what is logged meanwhile to `file`, else to standard error. Raises SettingsError."""
    target = _target(file)
    target.setFormatter(_Json() if kind == "json" else _Text())
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
    handler, writer = _Queue(waiting), QueueListener(waiting, target)
    root = logging.getLogger()
    loud = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loud]
    root.addHandler(handler)
    for logger in loud:
        logger.setLevel(logging.INFO)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
        handler.say_what_was_dropped()
        writer.stop()
        target.close()


_FORMATTER = logging.Formatter()


class _Queue(QueueHandler):
    """Hands records to the writer; never waits."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record with its text made, but its traceback kept apart."""
        ready = copy(record)
        ready.msg, ready.args = record.getMessage(), None
        if record.exc_info:
            ready.exc_text, ready.exc_info = _FORMATTER.formatException(record.exc_info), None
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """As its base does, but a full queue drops the record."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def say_what_was_dropped(self) -> None:
        """A last line."""
        if self._dropped:
            text = f"{self._dropped} lines of the log were dropped: they could not be written fast enough"
            self.handle(
                logging.makeLogRecord({"name": "hpo", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text})
            )


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),  # given as `extra={"fields": {...}}`
        }
        if record.exc_text:
            line["traceback"] = record.exc_text
        return without_secrets(json.dumps(line, default=str))


class _Text(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = f"{at} {level}{record.getMessage()}"
        visible = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
        return without_secrets(visible + (f"\n{record.exc_text}" if record.exc_text else ""))


def _target(file: Path | None) -> logging.Handler:
    if file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        return WatchedFileHandler(file)  # goes on in a new file once the old one was moved away
    except OSError as error:
        raise SettingsError(f"--log-file {file} cannot be written: {error.strerror}") from error
