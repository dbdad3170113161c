"""Does the service end in time, with nothing lost and no process left, whatever it is at?

Clients ask, report and tell, studies train on the server, and an import runs, when it gets its SIGTERM, again and
again. It must end by itself, without an error; after its last start the studies and the import come to their ends.
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from optuna.trial import TrialState

from hpo.client.client import Client
from storage import background_jobs, history, launches, tokens
from storage.schema import Store, open_store
from tests.integration.service.test_supervisor import PARABOLA, file_of
from tests.measured import Figure
from tests.reliability.places import Place
from tests.reliability.queues import read_journals
from tests.reliability.server_kills import Task, at_work, free_port, judge, prepare, start, wait_for_progress

ENDS, CLIENTS, STUDIES, TRIALS = 5, 20, 3, 8
EPOCH_SECONDS = 1.5
ROWS = 20_000  # of the import: it takes longer than a server lives here
SECONDS_BETWEEN = (6.0, 14.0)  # from the first thing that a server acknowledged to its end: studies are training then
END_SECONDS = 30.0  # at most, for the whole service
DEADLINE_SECONDS = 600.0  # for the studies
MARK = "HINDSIGHT_OF_SHUTDOWNS"  # in the environment of all that a server starts
SETTINGS = f"limits: {{trials_on_server: {STUDIES}}}\n"


def run(
    place: Place,
    *,
    ends: int = ENDS,
    clients: int = CLIENTS,
    seconds_between: tuple[float, float] = SECONDS_BETWEEN,
    seed: int = 0,
) -> list[Figure]:
    """End a busy service again and again."""
    where = f"shutdowns, {place.kind}, {ends} ends, {clients} clients, {STUDIES} studies"
    rng, port = random.Random(seed), free_port()
    with place.fresh() as storage, tempfile.TemporaryDirectory() as made:
        folder, journals = Path(made), Path(made, "journals")
        journals.mkdir()
        (folder / "parabola.py").write_text(PARABOLA)
        (folder / "settings.yaml").write_text(SETTINGS)
        store = open_store(storage)
        study_id, token = prepare(store, folder)
        url = f"http://127.0.0.1:{port}"
        task = Task(url=url, token=token, study_id=study_id, folder=journals, step_seconds=0.3)
        options = ("--settings", str(folder / "settings.yaml"))
        server = start(storage, port, folder, *options, **{MARK: made})
        ids, seconds, codes, left = _launch(store, url, folder), [], Counter[int](), 0
        try:
            with at_work(task, clients) as stop:
                for _ in range(ends):
                    wait_for_progress(journals)
                    time.sleep(rng.uniform(*seconds_between))
                    seconds.append(_end(server, codes))
                    left += len(_processes(made))
                    server = start(storage, port, folder, *options, **{MARK: made})
                wait_for_progress(journals)
                stop.set()
            are_done = _wait_for_ends(store, ids)
        finally:
            seconds.append(_end(server, codes))
            left += len(_processes(made))
        figures = judge(store, study_id, list(read_journals(journals)), where)
        trained = [trial for each in ids for trial in history.list_trials(store, each)]
        rows = sum(
            len(history.list_trials(store, each.study_id))
            for each in history.list_studies(store)
            if each.task == "past"
        )
        store.dispose()
    complete = sum(trial.state == TrialState.COMPLETE for trial in trained)
    return [
        Figure(what=f"{where}: SIGTERM to the end, longest", ours=max(seconds), at_most=END_SECONDS, unit="s"),
        Figure(what=f"{where}: ends with another exit code than 0", ours=codes.total() - codes[0], at_most=0),
        Figure(what=f"{where}: processes left", ours=left, at_most=0),
        Figure(what=f"{where}: studies that did not come to their end", ours=0 if are_done else 1, at_most=0),
        Figure(what=f"{where}: trials of studies lost", ours=STUDIES * TRIALS - complete, at_most=0),
        Figure(what=f"{where}: trials of studies too many", ours=len(trained) - STUDIES * TRIALS, at_most=0),
        Figure(what=f"{where}: rows of the import missing", ours=ROWS - rows, at_most=0),
        *figures,
    ]


def _launch(store: Store, url: str, folder: Path) -> list[int]:
    """Studies that the server trains, and an import."""
    secret, _ = tokens.create_token(store, owner="ann", role="operator", created_by="a test")
    table = folder / "past.csv"
    lines = (f"{n / ROWS},{n % 7},{n % 101 / 101}\n" for n in range(1, ROWS + 1))
    table.write_text("lr,depth,val_loss\n" + "".join(lines))
    with Client(url, secret) as client:
        client.upload_table(table, metric="val_loss", direction="minimize", task="past")
        for number in range(STUDIES):
            client.create_study(file_of(f"study-{number}", trials=TRIALS, pause=EPOCH_SECONDS), place="server")
    return [history.get_study(store, f"study-{number}").study_id for number in range(STUDIES)]


def _end(server: subprocess.Popen[bytes], codes: Counter[int]) -> float:
    """Tell a server to end; how long that takes."""
    started = time.monotonic()
    server.send_signal(signal.SIGTERM)
    codes[server.wait(2 * END_SECONDS)] += 1
    return time.monotonic() - started


def _processes(mark: str) -> list[str]:
    """What was started by a server, and is still there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    print(*found, sep="\n", end="")
    return found


def _wait_for_ends(store: Store, ids: list[int]) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = launches.launches_of(store, ids)
        jobs = background_jobs.list_jobs(store, limit=9)
        if all(found[each].state == "done" for each in ids) and all(job.state == "done" for job in jobs):
            return True
        time.sleep(0.5)
    return False
