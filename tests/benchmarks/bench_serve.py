"""How soon does `hpo serve` answer, what does it take while nothing happens, and how soon is it over?

Each start is on a new history, and counts from the command to the first answer of /readyz. How much of that is left
when everything is imported already, is measured in a process that imports it before.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.measured import Figure

ROUNDS = 5
QUIET_SECONDS = 10.0
IMPORTED = """
import os, time
from importlib import import_module
from pathlib import Path
import dashboards.app, hpo.api.app
from hpo.service import address, server
for noun in hpo.api.app.NOUNS:
    import_module(f"hpo.api.routes.{noun}")
for noun in dashboards.app.PAGES:
    import_module(f"dashboards.pages.{noun}")
where = address.Address(host="127.0.0.1", port=0)
folder = Path.cwd()
options = server.ServerOptions(
    address=where, storage=f"sqlite:///{folder}/hpo.db", mlflow=None, runs=folder, projects=folder
)
started = time.perf_counter()
def announce(said):
    print(time.perf_counter() - started, flush=True)
    os._exit(0)
server.serve(options, announce=announce)
"""
BEYOND_IMPORTS_SECONDS, READY_SECONDS = 3.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """One life of a server."""

    beyond_imports: float  # seconds
    ready: float
    processor: float  # seconds of processor time until it was ready
    megabytes: float
    idle_share: float  # of a core, while nothing happens
    stop: float


def main() -> Iterator[Figure]:
    """Measure; the bars are those of the service."""
    rounds = [_round() for _ in range(ROUNDS)]
    ready = statistics.median(each.ready for each in rounds)
    beyond = statistics.median(each.beyond_imports for each in rounds)
    cost = statistics.median(each.processor for each in rounds)
    yield Figure(
        what="hpo serve: from the command to its first answer",
        ours=ready,
        unit="s",
        at_most=READY_SECONDS,
        note=f"{cost:.1f} s of processor time",
    )
    yield Figure(what="hpo serve: the same without imports", ours=beyond, unit="s", at_most=BEYOND_IMPORTS_SECONDS)
    memory = statistics.median(each.megabytes for each in rounds)
    yield Figure(what="hpo serve: memory of the server's process", ours=memory, unit="MB")
    idle = statistics.median(each.idle_share for each in rounds)
    yield Figure(what="hpo serve: processor while nothing happens", ours=100 * idle, unit="% of a core")
    yield Figure(
        what="hpo serve: from SIGTERM to its end", ours=statistics.median(each.stop for each in rounds), unit="s"
    )


def _beyond_imports() -> float:
    with tempfile.TemporaryDirectory() as folder:
        told = subprocess.run(
            [sys.executable, "-c", IMPORTED], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        )
    return float(told.stdout)


def _round() -> Round:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "hpo", "serve", "--json", "--port", "0", "--mlflow", "none", "--log-file", "log"],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("HPO_")},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        said = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        assert httpx2.get(f"{said['url']}/readyz", trust_env=False).status_code == 200
        ready = time.perf_counter() - started
        processor = _processor_seconds(server.pid)
        time.sleep(QUIET_SECONDS)
        idle = (_processor_seconds(server.pid) - processor) / QUIET_SECONDS
        megabytes = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        started = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        stop = time.perf_counter() - started
        server.stdout.close()
    return Round(
        beyond_imports=_beyond_imports(),
        ready=ready,
        processor=processor,
        megabytes=megabytes,
        idle_share=idle,
        stop=stop,
    )


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
