"""A history of many trials, made once and kept as a file: `hpo db restore` is the fast way into any database."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from storage.backup import backup, restore
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.schema import open_store
from storage.sources import Source

STUDIES, PARAMETERS, STEPS = 20, ("lr", "decay", "eps"), 5
NEWEST = f"past {STUDIES - 1}"
ROOT = Path(__file__).parents[2]
KEPT = Path(tempfile.gettempdir()) / "hindsight-benchmarks"


def restore_history(trials: int, url: str) -> None:
    """Put a history of so many trials into the empty database at `url`: `STUDIES` of them, each with its curves."""
    path = KEPT / f"history-{trials}-{_made_by()}.db"
    if not path.exists():
        KEPT.mkdir(exist_ok=True)
        for outdated in KEPT.glob(f"history-{trials}-*.db"):
            outdated.unlink()
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            store = open_store(f"sqlite:///{folder}/history.db")
            _fill(Intake(store, source=Source(name="benchmark", kind="table", location="made up")), trials // STUDIES)
            backup(store, path)
            store.dispose()
    restore(path, url)


def _made_by() -> str:
    """What tells apart files of other tables, or of another filling."""
    made_by = [Path(__file__), *sorted((ROOT / "migrations" / "versions").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_by)).hexdigest()[:12]


def _fill(intake: Intake, trials: int) -> None:
    rng = np.random.default_rng(0)
    space = {name: {"type": "float", "low": 1e-5, "high": 1.0, "log": True} for name in PARAMETERS}
    began = 1.7e9 + 60.0 * np.arange(trials, dtype=np.float64)
    curve = [(step, 1.0 / (step + 1)) for step in range(STEPS)]
    for place in range(STUDIES):
        seconds = rng.gamma(2.0, 20.0, trials)
        columns = RunColumns(
            keys=[str(key) for key in range(trials)],
            names=PARAMETERS,
            internal=10 ** rng.uniform(-5.0, 0.0, (trials, len(PARAMETERS))),
            values=np.where(rng.random(trials) < 0.05, np.nan, rng.random(trials)),
            started_at=began,
            finished_at=began + seconds,
            cost_seconds=seconds,
            curves=dict.fromkeys(range(trials), curve),
        )
        task = PastTask(name=f"task {place}", study=f"past {place}", metric="loss", direction="minimize", space=space)
        intake.take_table(task, columns)
    intake.finish()
