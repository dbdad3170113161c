"""Answers as plain data: what `--json` prints and what the API and the pages say, one file per question."""
