"""Let everything fail that can: `make reliability`, or `python -m tests.reliability NAME ...` for some scenarios."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.measured import Figure, keep, table
from tests.reliability import (
    api,
    backups,
    checkpoints,
    claims,
    first_start,
    full_disk,
    imports,
    kills,
    lost_nodes,
    mlflow_down,
    ranks,
    restarts,
    served_clusters,
    server_kills,
    shutdowns,
    supervision,
)
from tests.reliability.places import Place, postgresql_place, sqlite_place

FAILED = 1
RESULTS = Path("reliability.json")
BOTH, SQLITE, POSTGRESQL = {"SQLite", "PostgreSQL"}, {"SQLite"}, {"PostgreSQL"}

SCENARIOS: dict[str, tuple[Callable[[Place], list[Figure]], set[str]]] = {
    "claims": (claims.run, BOTH),
    "kills": (kills.run, BOTH),
    "restarts": (restarts.run, POSTGRESQL),
    "server_kills": (server_kills.run, BOTH),
    "shutdowns": (shutdowns.run, BOTH),
    "supervision": (supervision.run, BOTH),
    "first_start": (first_start.run, BOTH),
    "imports": (imports.run, BOTH),
    "full_disk": (lambda _place: full_disk.run(), SQLITE),
    "backups": (backups.run, BOTH),
    "lost_nodes": (lost_nodes.run, SQLITE),
    "served_clusters": (served_clusters.run, SQLITE),
    "checkpoints": (lambda _place: checkpoints.run(), SQLITE),
    "mlflow_down": (lambda _place: mlflow_down.run(), SQLITE),
    "ranks": (ranks.run, SQLITE),
    "api": (api.run, BOTH),
}


def main(names: list[str]) -> int:
    """Run the named scenarios, or all, in full; 1 when a promise is broken. The figures go to reliability.json."""
    if unknown := set(names) - set(SCENARIOS):
        print(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}")
        return FAILED
    figures: list[Figure] = []
    broken = []
    with postgresql_place() as postgresql:
        for name in names or SCENARIOS:
            scenario, kinds = SCENARIOS[name]
            for place in (sqlite_place(Path.cwd()), postgresql):  # on a disk: where we are, /tmp may be in memory
                if place.kind not in kinds:
                    continue
                print(f"== {name}, {place.kind}", flush=True)
                started = time.monotonic()
                try:
                    found = scenario(place)
                except Exception:
                    traceback.print_exc()
                    broken.append(f"{name}, {place.kind}")
                    continue
                print(f"{table(found)}\n({time.monotonic() - started:.0f} s)", flush=True)
                figures += found
    print(f"\n{table(figures)}")
    keep(figures, RESULTS)
    broken += [figure.what for figure in figures if not figure.is_met]
    print(f"\n{len(figures)} figures, broken: {'; '.join(broken) or 'none'}")
    return FAILED if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
