"""A user's module that notes when it trains, on what, and holds memory of a known size."""

import time
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset


class OnGpu(lightning.LightningModule):
    def __init__(self, held_bytes: int = 0, compiled: bool = False, nap: float = 0.0):
        super().__init__()
        self.nap = nap
        self.layer = torch.nn.Linear(64, 1)
        self.network = torch.compile(self.layer) if compiled else self.layer
        self.register_buffer("held", torch.zeros(held_bytes // 4), persistent=False)

    def note(self, what: str) -> None:
        with Path(self.trainer.default_root_dir, "noted").open("a") as log:
            log.write(f"{what} {time.time()} {self.device}\n")

    def on_train_start(self) -> None:
        self.note("begins")

    def on_train_end(self) -> None:
        torch.cuda.synchronize()
        self.note("ends")

    def training_step(self, batch, batch_idx):
        time.sleep(self.nap)
        return self.network(batch[0]).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.network(batch[0]).pow(2).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(64, 64)), batch_size=16)

    def val_dataloader(self):
        return self.train_dataloader()
