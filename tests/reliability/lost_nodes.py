"""What happens to a study on a Ray cluster whose nodes go one after the other? Nothing is lost or trained twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from storage import history
from storage.integrity import verify
from storage.schema import open_store
from tests.measured import Figure
from tests.ray_cluster import add_node, ray_cluster
from tests.reliability.places import Place

TRIALS, LOSSES = 24, 6
SECONDS_BETWEEN = (10.0, 20.0)  # losses
STUDY = {
    "study": "spot",
    "task": {"name": "spot", "metric": "val_loss", "direction": "minimize"},
    "trainer": {"recipe": "digits_mlp/all", "max_epochs": 60, "accelerator": "cpu", "resources": {"spot": 1}},
    "pruner": "none",
}


def run(
    place: Place,
    *,
    trials: int = TRIALS,
    losses: int = LOSSES,
    seconds_between: tuple[float, float] = SECONDS_BETWEEN,
) -> list[Figure]:
    """Two nodes train a trial each; `losses` times one of them is gone at once, and another one comes."""
    rng = random.Random(0)
    with ray_cluster() as cluster, place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        nodes = [add_node(cluster, resources={"spot": 1}) for _ in range(2)]
        study = _start(Path(folder), url, cluster.address, trials=trials)
        lost = 0
        while study.poll() is None and lost < losses:
            time.sleep(rng.uniform(*seconds_between))
            cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
            nodes.append(add_node(cluster, resources={"spot": 1}))
            lost += 1
        code = study.wait()
        store = open_store(url)
        done = history.list_trials(store, history.get_study(store, "spot").study_id)
        problems = verify(store)
        store.dispose()
    complete = sum(trial.state.name == "COMPLETE" for trial in done)
    again = sum(trial.attempt - 1 for trial in done)
    return [
        Figure(what=f"{place.kind}: nodes lost", ours=lost),
        Figure(what=f"{place.kind}: exit code of the study", ours=code, at_most=0),
        Figure(what=f"{place.kind}: trials lost", ours=trials - complete, at_most=0),
        Figure(what=f"{place.kind}: trials too many", ours=len(done) - trials, at_most=0),
        Figure(what=f"{place.kind}: contradictions in the history", ours=len(problems), at_most=0),
        Figure(what=f"{place.kind}: trials tried again", ours=again, at_most=lost),
    ]


def _start(folder: Path, url: str, address: str, *, trials: int) -> subprocess.Popen[bytes]:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "budget": {"trials": trials}}))
    words = ("tune", str(path), "--executor", "ray", "--ray-address", address, "--jobs", "2")
    environment = {**os.environ, "HPO_STORAGE": url, "MLFLOW_TRACKING_URI": "none", "HPO_RUNS": str(folder / "runs")}
    return subprocess.Popen([sys.executable, "-m", "hpo", *words], env=environment)
