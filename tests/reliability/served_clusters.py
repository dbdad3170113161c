"""Does a service that trains on a Ray cluster lose nothing when its studies are paused and stopped, and nodes go?

`hpo serve --executor ray` is told by its API to train a study; that is paused and goes on, a node is taken away in the
middle, and another comes. Beside it a study is stopped. Every trial must be trained to its end once.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpo.client.client import Client
from storage import history, tokens
from storage.integrity import verify
from storage.schema import open_store
from tests.measured import Figure
from tests.ray_cluster import add_node, ray_cluster
from tests.reliability.places import Place
from tests.reliability.server_kills import free_port, start
from tests.reliability.shutdowns import END_SECONDS

TRIALS = 16
DEADLINE_SECONDS = 300.0  # for each step
QUIET_SECONDS = 3.0  # of a paused study
RUNNING = {"queued", "running"}
NAMES = ("kept", "stopped")


def run(place: Place, *, trials: int = TRIALS) -> list[Figure]:
    """Pause, resume and stop studies, and take a node away."""
    where = f"served Ray cluster, {place.kind}"
    with ray_cluster() as cluster, place.fresh() as storage, tempfile.TemporaryDirectory() as made:
        nodes = [add_node(cluster, resources={"spot": 1}) for _ in range(2)]
        store, port = open_store(storage), free_port()
        secret, _ = tokens.create_token(store, owner="ann", role="admin", created_by="a test")
        server = start(storage, port, Path(made), "--executor", "ray", "--ray-address", cluster.address)
        try:
            with Client(f"http://127.0.0.1:{port}", secret) as client:
                client.create_study(_study("kept", trials), place="server", jobs=2)
                _wait(lambda: _finished(client, "kept") >= 3)
                client.pause("kept")
                _wait(lambda: _state(client, "kept") == "paused")
                at_rest = _finished(client, "kept")
                client.create_study(_study("stopped", trials), place="server", jobs=2)
                _wait(lambda: _finished(client, "stopped") >= 1)
                client.stop("stopped")
                _wait(lambda: _state(client, "stopped") == "stopped")
                time.sleep(QUIET_SECONDS)
                went_on = _finished(client, "kept") - at_rest
                client.resume("kept")
                _wait(lambda: _finished(client, "kept") >= at_rest + 2)
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                nodes.append(add_node(cluster, resources={"spot": 1}))
                _wait(lambda: _state(client, "kept") not in RUNNING)
                ended = client.launch_of("kept") or {}
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(2 * END_SECONDS)
        found = {name: history.list_trials(store, history.get_study(store, name).study_id) for name in NAMES}
        problems = verify(store)
        store.dispose()
    complete = [trial for trial in found["kept"] if trial.state == TrialState.COMPLETE]
    running = [trial for trials in found.values() for trial in trials if trial.state == TrialState.RUNNING]
    return [
        Figure(what=f"{where}: trials lost", ours=trials - len(complete), at_most=0),
        Figure(what=f"{where}: trials too many", ours=len(found["kept"]) - trials, at_most=0),
        Figure(
            what=f"{where}: configurations twice",
            ours=len(complete) - len({str(each.params) for each in complete}),
            at_most=0,
        ),
        Figure(what=f"{where}: studies that are not done", ours=0 if ended.get("state") == "done" else 1, at_most=0),
        Figure(what=f"{where}: trials that ended while it was paused", ours=went_on, at_most=0),
        Figure(what=f"{where}: trials still running at the end", ours=len(running), at_most=0),
        Figure(what=f"{where}: contradictions in the history", ours=len(problems), at_most=0),
        Figure(what=f"{where}: exit code of the server", ours=code, at_most=0),
        Figure(what=f"{where}: trials tried again", ours=sum(trial.attempt - 1 for trial in complete)),
    ]


def _study(name: str, trials: int) -> Mapping[str, Any]:
    return {
        "study": name,
        "task": {"name": name, "metric": "val_loss", "direction": "minimize"},
        "trainer": {"recipe": "digits_mlp/all", "max_epochs": 30, "accelerator": "cpu", "resources": {"spot": 1}},
        "pruner": "none",
        "budget": {"trials": trials},
    }


def _finished(client: Client, name: str) -> int:
    return sum(trial.state == TrialState.COMPLETE for trial in client.trials(name))


def _state(client: Client, name: str) -> str:
    return str((client.launch_of(name) or {}).get("state"))


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)
