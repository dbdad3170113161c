"""What does a fit of ours cost beside a plain `Trainer.fit` with a logger and a checkpoint?

The same model, data and seed, in two forked processes that train an epoch by turns while the other waits, so that
whatever else the machine does meets both alike. The plain fit writes a CSV file and keeps its best and its last
checkpoint; ours reports to another process, waits for its answer, and keeps its own. An epoch of ours is timed from
the answer to the next report. What our fit does in a thread of its own meanwhile, the processor time has as well.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from scipy.stats import quantile_test
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.measured import Figure
from trainers.executors.local import LocalExecutor
from trainers.job import Failed, FitJob, Reported, TrainerConfig

WIDTH = 1024  # 1.3 million weights, 16 MB a checkpoint
BATCHES, BATCH = 240, 64
EPOCHS = 16  # that are counted, of each
WARM_UP = 1
SHORTEST_SECONDS = 2.0  # of an epoch
MOST_OVERHEAD = 1.03
SETTLE_SECONDS = 0.3  # after which the disk has what an epoch left
TICK = os.sysconf("SC_CLK_TCK")


class Net(lightning.LightningModule):
    """Someone's network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(256, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
        )

    def on_fit_start(self) -> None:
        Path(self.trainer.default_root_dir, "pid").write_text(str(os.getpid()))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.layers(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-4)

    def train_dataloader(self):
        return self._loader(BATCHES)

    def val_dataloader(self):
        return self._loader(BATCHES // 8)

    def _loader(self, batches: int):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(batches * BATCH, 256, generator=generator)
        labels = (inputs[:, :10] @ torch.ones(10, 10).tril()).argmax(dim=1)
        return DataLoader(TensorDataset(inputs, labels), batch_size=BATCH)


def main() -> Iterator[Figure]:
    """Both ratios, medians over epochs, with the 95% intervals of the medians."""
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        ours(Path(folder, "ours")) as our_epoch,
        plain(Path(folder, "plain")) as plain_epoch,
    ):
        for _ in range(WARM_UP + EPOCHS):
            taken["plain"].append(plain_epoch())
            taken["ours"].append(our_epoch())
            time.sleep(SETTLE_SECONDS)
    for at, (name, bar) in enumerate((("time", MOST_OVERHEAD), ("processor time", None))):
        plains, mine = ([epoch[at] for epoch in taken[kind][WARM_UP:]] for kind in ("plain", "ours"))
        ratios = [one / other for one, other in zip(mine, plains, strict=True)]
        interval = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
        shortest = statistics.median(plains)
        assert shortest >= SHORTEST_SECONDS, f"an epoch takes {shortest:.2f} s: too short to tell; raise BATCHES"
        yield Figure(
            what=f"{name} of an epoch of our fit",
            ours=statistics.median(mine),
            rival=shortest,
            rival_name="plain Lightning",
            unit="s",
            ratio=statistics.median(ratios),
            at_most=bar,
            note=f"95% interval {interval.low:.3f} to {interval.high:.3f} over {EPOCHS} epochs by turns",
        )


@contextmanager
def ours(folder: Path) -> Iterator[Callable[[], tuple[float, float]]]:
    """Trains an epoch as a trial of a study does; returns its seconds, and its processor's."""
    config = TrainerConfig(model=f"{__package__}.bench_fit_overhead.Net", max_epochs=10_000, accelerator="cpu")
    with LocalExecutor(config, jobs=1) as executor:
        executor.launch(0, FitJob(params={}, seed=0, metric="val_loss", direction="minimize", directory=str(folder)))

        def wait() -> None:
            while True:
                for event in executor.poll(1.0):
                    if isinstance(event, Failed):
                        raise RuntimeError(f"{event.reason}\n{event.output_tail}")
                    if isinstance(event, Reported):
                        return

        wait()

        def epoch() -> tuple[float, float]:
            started, spent = time.monotonic(), processor_seconds(folder)
            executor.answer(0, prune=False)
            wait()
            return time.monotonic() - started, processor_seconds(folder) - spent

        yield epoch


@contextmanager
def plain(folder: Path) -> Iterator[Callable[[], tuple[float, float]]]:
    """The same with Lightning alone."""
    context = multiprocessing.get_context("fork")  # as our trials are: everything is imported
    here, there = context.Pipe()
    process = context.Process(target=fit_plainly, args=(folder, there))
    process.start()
    here.recv()

    def epoch() -> tuple[float, float]:
        started, spent = time.monotonic(), processor_seconds(folder)
        here.send(None)
        here.recv()
        return time.monotonic() - started, processor_seconds(folder) - spent

    try:
        yield epoch
    finally:
        process.kill()
        process.join()


class Gate(Checkpoint):
    """Ends each epoch, after Lightning has kept its checkpoints; the next one waits."""

    def __init__(self, gate: Connection) -> None:
        self.gate = gate

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.gate.send(None)
        self.gate.recv()


def fit_plainly(folder: Path, gate: Connection) -> None:
    warnings.simplefilter("ignore")
    folder.mkdir()
    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=10_000,
        accelerator="cpu",
        logger=CSVLogger(folder),
        callbacks=[ModelCheckpoint(folder, monitor="val_loss", save_last=True), Gate(gate)],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Net())


def processor_seconds(folder: Path) -> float:
    """What the process that trains in a folder has spent, all its threads together."""
    fields = Path("/proc", (folder / "pid").read_text(), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    for figure in main():
        print(figure)
