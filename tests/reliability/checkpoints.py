"""Is a trial that is killed while it saves ever without a checkpoint to go on from, and how much is trained again?

The weights are large beside the training, so that a trial saves, or keeps what it saved, nearly all the time. It is
killed at random moments after an epoch, again and again, and each attempt goes on from the ones before.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.measured import Figure
from trainers.executors.local import LocalExecutor
from trainers.fitting.checkpoints import RECORD
from trainers.job import FitJob, Reported, TrainerConfig

KILLS = 100
WEIGHTS_BYTES = 8 * 2**20  # three times as much is saved: the optimizer has two states for each
MOST_NEW_EPOCHS = 3  # in an attempt, before it is killed
MOST_SECONDS = 0.6  # after the last of them
PATIENCE_SECONDS = 120.0
USER_CODE = Path(__file__).parents[1] / "integration" / "user_code"


def run(*, kills: int = KILLS, weights_bytes: int = WEIGHTS_BYTES, seed: int = 0) -> list[Figure]:
    """Kill, try again, and look what each attempt makes of the ones before."""
    rng = random.Random(seed)
    config = TrainerConfig(
        model="resumable.Learner",
        model_args={"first_attempt": "none", "bytes": weights_bytes},
        max_epochs=10**6,
        accelerator="cpu",
        python_path=(str(USER_CODE),),
    )
    lost: list[int] = []
    unreadable = 0
    phases: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, LocalExecutor(config, jobs=1) as executor:
        folders = [Path(name, f"attempt-{number}") for number in range(1, kills + 2)]
        reached = -1  # the last epoch that an attempt reported
        for number, folder in enumerate(folders):
            job = FitJob(
                params={},
                seed=0,
                metric="val_loss",
                direction="minimize",
                directory=str(folder),
                earlier=tuple(map(str, folders[:number])),
            )
            executor.launch(number, job)
            new = _epochs(executor, number, beyond=reached, count=rng.randint(1, MOST_NEW_EPOCHS))
            time.sleep(rng.uniform(0.0, MOST_SECONDS))
            phases[_phase(folder)] += 1
            executor.kill(number)
            if number:
                begun = int((folder / "trained").read_text().split()[0])
                lost.append(reached + 1 - begun)
                unreadable += "not used" in (folder / "output.log").read_text()
            reached = new
    where = f"kill -9 while saving {3 * weights_bytes / 2**20:.0f} MiB, {kills} kills"
    return [
        Figure(what=f"{where}: resumed from what cannot be read, or not at all", ours=unreadable, at_most=0),
        Figure(
            what=f"{where}: epochs trained again, the most",
            ours=max(lost),
            at_most=1,
            note=f"mean {np.mean(lost):.2f}",
        ),
        Figure(
            what=f"{where}: killed",
            ours=len(lost),
            at_least=kills,
            note=", ".join(f"{n} {p}" for p, n in phases.items()),
        ),
    ]


def _epochs(executor: LocalExecutor, key: int, *, beyond: int, count: int) -> int:
    """Let a trial go on until it has reported so many epochs that no attempt had; the last of them."""
    last, deadline = beyond, time.monotonic() + PATIENCE_SECONDS
    while last < beyond + count:
        assert time.monotonic() < deadline, f"no epoch after {last}"
        for event in executor.poll(1.0):
            assert isinstance(event, Reported), event
            last = max(last, event.epoch)
            executor.answer(key, prune=False)
    return last


def _phase(folder: Path) -> str:
    """What the trial is at."""
    if list(folder.glob("*.partial")):
        return "writing or digesting"
    if list(folder.glob("*.draft")):
        return "naming"
    return "training" if (folder / RECORD).exists() else "starting"
