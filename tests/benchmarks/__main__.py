"""Run every benchmark, one after the other: `make bench`, or `python -m tests.benchmarks NAME ...` for some."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FAILED = 1


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; 1 when one misses its target."""
    known = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    if unknown := set(names) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        return FAILED
    missed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        try:
            importlib.import_module(f"tests.benchmarks.bench_{name}").main()
        except AssertionError as error:
            missed.append(name)
            print(f"MISSED: {error}")
    return FAILED if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
