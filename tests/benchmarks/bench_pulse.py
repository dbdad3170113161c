"""What does it cost a trial to show that it makes steps? As a share of steps of one millisecond."""

from __future__ import annotations

import threading
import timeit

import lightning

from tests.measured import Figure
from trainers.fitting.judge import EpochJudge
from trainers.job import FitJob
from trainers.processes.channel import open_channel_pair
from trainers.processes.watchdog import Pulse

STEPS = 1_000_000
STEP_SECONDS = 0.001
MOST_PERCENT = 1.0


def main() -> list[Figure]:
    """The judge's hook after a batch, its messages read by another thread."""
    ours, theirs = open_channel_pair()
    reader = threading.Thread(target=lambda: [None for _ in iter(ours.receive, None)])
    reader.start()
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, barebones=False
    )
    judge = EpochJudge(
        FitJob(params={}, seed=0, metric="loss", direction="minimize", directory="."),
        threads=1,
        after="epoch",
        report=lambda **_: False,
        pulse=Pulse(lambda: theirs.send_if_room({"type": "alive"})),
        keeper=None,  # it has nothing to keep here
    )
    seconds = timeit.timeit(lambda: judge.on_train_batch_end(trainer, None, None, None, 0), number=STEPS) / STEPS
    theirs.close()
    reader.join()
    share = 100 * seconds / STEP_SECONDS
    return [
        Figure(
            what="sign of life after a step of 1 ms, share of it",
            ours=share,
            unit="%",
            at_most=MOST_PERCENT,
            note=f"{seconds * 1e6:.2f} us a step",
        )
    ]
