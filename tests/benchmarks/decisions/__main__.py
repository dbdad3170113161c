"""Measure every decision, one after the other: `python -m tests.benchmarks.decisions [NAME ...] [FOLDER]`.

Each module here measures one: it has a `main(arguments)` that takes the folder of the recorded tables (default: the
environment variable HPO_TABLES), and writes Markdown and JSON to tests/benchmarks/results.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the named modules, or all; the largest exit status."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    names = [name for name in arguments if name in known]
    rest = [argument for argument in arguments if argument not in known]
    statuses = []
    for name in names or known:
        print(f"== {name}", flush=True)
        statuses.append(importlib.import_module(f"tests.benchmarks.decisions.{name}").main(rest) or 0)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
