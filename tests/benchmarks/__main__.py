"""Run every benchmark, one after the other: `make bench`, or `python -m tests.benchmarks NAME ...` for some."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.measured import Figure, keep, table

FAILED = 1
RESULTS = Path("bench.json")


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; 1 when one misses its target. What they measured is kept in bench.json."""
    known = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    if unknown := set(names) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        return FAILED
    figures: list[Figure] = []
    missed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        try:
            for figure in importlib.import_module(f"tests.benchmarks.bench_{name}").main() or ():
                print(table([figure]).splitlines()[1], flush=True)
                figures.append(figure)
        except AssertionError as error:  # the benchmarks that have no figures to compare say so themselves
            missed.append(name)
            print(f"MISSED: {error}")
    if figures:
        print("\n" + table(figures))
        keep(figures, RESULTS)
    return FAILED if missed or not all(figure.is_met for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
