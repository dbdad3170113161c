"""What do background jobs leave for whoever asked for them? A file each, by the kind of the job, in its own folder."""

from __future__ import annotations

from collections.abc import Mapping

FILE_NAMES: Mapping[str, str] = {"export": "tables.zip", "replay": "runs.jsonl"}
