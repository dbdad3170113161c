"""Do the studies of a service come to their end when its servers, and the studies' processes, are killed?

Two servers share a history. By turns a server is killed, and started again, and a study's process. Every trial must be
trained to its end once, whatever became of the processes, and none of them may be left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from optuna.trial import TrialState

from hpo.service import launching
from hpo.service.launching import LaunchOptions
from hpo.service.run_folders import study_log
from hpo.service.state import Service
from hpo.service.supervisor import MOST_DEATHS
from storage import history, launches
from tests.integration.service.study_server import make_service
from tests.integration.service.test_supervisor import PARABOLA, file_of, processes_in
from tests.measured import Figure
from tests.reliability.places import Place

STUDIES, TRIALS, KILLS = 3, 6, 12
SECONDS_BETWEEN = (10.0, 25.0)
EPOCH_SECONDS = 4.0  # long: it is trials that are to be hit, and not only their trainers as they start
DEADLINE_SECONDS = 1200.0
GONE_SECONDS = 30.0  # for the processes of a killed server to end


def run(
    place: Place,
    *,
    studies: int = STUDIES,
    trials: int = TRIALS,
    kills: int = KILLS,
    seconds_between: tuple[float, float] = SECONDS_BETWEEN,
    epoch_seconds: float = EPOCH_SECONDS,
    seed: int = 0,
) -> list[Figure]:
    """Two servers run the studies, while they and the processes are killed."""
    where = f"supervision, {place.kind}, {studies} studies, {kills} kills"
    rng = random.Random(seed)
    with place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        service = _service(url, Path(folder))
        ids = []
        for number in range(studies):
            spec = launching.read_file(file=file_of(f"study-{number}", trials=trials, pause=epoch_seconds))
            ids.append(launching.create(service, spec, owner=f"owner-{number}", options=LaunchOptions()))
        servers = [_start(service) for _ in range(2)]
        try:
            done_kills = _kill_again_and_again(service, servers, ids, kills, seconds_between, rng)
            _wait(lambda: _are_over(service, ids), DEADLINE_SECONDS)
        finally:
            for server in servers:
                server.kill()
                server.wait()
        is_gone = _wait(lambda: processes_in(service.projects) == [], GONE_SECONDS)
        states = Counter(launch.state for launch in launches.list_launches(service.store))
        found = [trial for study_id in ids for trial in history.list_trials(service.store, study_id)]
        trace = [json.loads(line) for line in (service.projects / "trace.jsonl").read_text().splitlines()]
        service.store.dispose()
    ends = Counter(line["x"] for line in trace if "ended" in line)
    wanted = Counter(trial.params["x"] for trial in found if trial.state == TrialState.COMPLETE)
    return [
        Figure(what=f"{where}: studies that are not done", ours=studies - states["done"], at_most=0),
        Figure(what=f"{where}: trials lost", ours=studies * trials - wanted.total(), at_most=0),
        Figure(what=f"{where}: trials too many", ours=max(0, len(found) - studies * trials), at_most=0),
        Figure(what=f"{where}: trials without a training", ours=(wanted - ends).total(), at_most=0),
        Figure(what=f"{where}: processes left", ours=0 if is_gone else 1, at_most=0),
        Figure(what=f"{where}: kills", ours=done_kills, at_least=1, note="of servers and study processes, by turns"),
        Figure(what=f"{where}: trainings begun again", ours=sum("began" in line for line in trace) - len(found)),
        Figure(what=f"{where}: trained to the end twice", ours=(ends - wanted).total(), note="killed as it ended"),
    ]


def _service(url: str, folder: Path) -> Service:
    (folder / "projects").mkdir()
    (folder / "projects" / "parabola.py").write_text(PARABOLA)
    return make_service(url, folder.resolve())


def _start(service: Service) -> subprocess.Popen[bytes]:
    folder = str(service.projects.parent)
    return subprocess.Popen([sys.executable, "-m", "tests.integration.service.study_server", service.store.url, folder])


def _kill_again_and_again(
    service: Service,
    servers: list[subprocess.Popen[bytes]],
    ids: list[int],
    kills: int,
    seconds_between: tuple[float, float],
    rng: random.Random,
) -> int:
    what = cycle(["server", "study"])
    deadline, done = time.monotonic() + DEADLINE_SECONDS, 0
    while done < kills and not _are_over(service, ids) and time.monotonic() < deadline:
        time.sleep(rng.uniform(*seconds_between))
        if next(what) == "server":
            number = rng.randrange(len(servers))
            servers[number].kill()
            servers[number].wait()
            servers[number] = _start(service)
        else:
            victims = [pid for study_id in ids if (pid := _in_training(service, study_id)) is not None]
            if not victims:
                continue
            os.kill(rng.choice(victims), signal.SIGKILL)
        done += 1
    return done


def _in_training(service: Service, study_id: int) -> int | None:
    """The process of a study of which a trial runs, unless one more death without a result would fail it."""
    launch = launches.find_launch(service.store, study_id)
    if launch is None or not launch.trials or launch.deaths >= MOST_DEATHS - 1:
        return None
    log = study_log(service.runs, service.store, history.study_of_id(service.store, study_id))
    for pid in processes_in(service.projects):
        with suppress(OSError):
            is_study = b"hpo.service.study_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
            if is_study and Path(f"/proc/{pid}/fd/2").readlink() == log:
                return pid
    return None


def _are_over(service: Service, ids: list[int]) -> bool:
    found = launches.launches_of(service.store, ids)
    return all(found[study_id].state in ("done", "failed") for study_id in ids)


def _wait(is_so: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
