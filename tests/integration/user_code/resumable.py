"""A user's module whose training depends on every state that there is, and is killed in its first attempt."""

import os
import signal
import time
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset


class Taste:
    """Hyperparameters that are objects cannot be loaded as mere weights."""


class Learner(lightning.LightningModule):
    """Dropout, batch norm, a schedule, shuffled batches. `first_attempt`: what goes wrong in it, at `at_epoch`."""

    def __init__(
        self,
        first_attempt: str = "",
        at_epoch: int = 3,
        batch_size: int = 8,
        habit: str = "",
        bytes: int = 0,
        nap: float = 0.0,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["habit"])
        if habit == "likes_objects":
            self.save_hyperparameters({"taste": Taste()})
        self.habit = habit
        self.automatic_optimization = habit != "manual"
        width = int(os.environ.get("WIDTH", "8")) if habit != "grown" else 8
        self.layer = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1)
        )
        self.ballast = torch.nn.Parameter(torch.zeros(bytes // 4))  # makes saving take a while

    def setup(self, stage: str) -> None:
        if self.habit == "grown" and self.attempt != "attempt-1":
            self.layer[3] = torch.nn.Linear(8, 2)

    @property
    def attempt(self) -> str:
        return Path(self.trainer.default_root_dir).name

    def on_train_epoch_start(self) -> None:
        time.sleep(self.hparams.nap)
        if self.global_rank == 0:
            with Path(self.trainer.default_root_dir, "trained").open("a") as log:
                log.write(f"{self.current_epoch} ")

    def training_step(self, batch, batch_idx):
        if self.attempt == "attempt-1" and self.current_epoch == self.hparams.at_epoch and batch_idx == 2:
            self.go_wrong()
        if self.habit == "needs_memory" and len(batch[0]) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        loss = torch.nn.functional.mse_loss(self.layer(batch[0]).sum(1, keepdim=True), batch[1])
        loss = loss + 0.0 * self.ballast.sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def go_wrong(self) -> None:
        while list(Path(self.trainer.default_root_dir).glob("*.partial")):
            time.sleep(0.01)  # the epoch before is being kept
        match self.hparams.first_attempt:
            case "killed":
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs":
                time.sleep(300)
            case "allocates":
                torch.ones(2**40)

    def validation_step(self, batch, batch_idx):
        error = torch.nn.functional.mse_loss(self.layer(batch[0]).sum(1, keepdim=True), batch[1])
        self.log("val_error", error, sync_dist=True)
        self.log("val_loss", -float(self.current_epoch) if self.habit != "worsens" else float(self.current_epoch))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        if self.habit == "plateau":
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]

    def configure_callbacks(self):
        if self.habit == "keeps_its_own":
            return [ModelCheckpoint(monitor="val_error", save_last=True, filename="mine-{epoch}")]
        return []

    def train_dataloader(self):
        return self.loader(shuffle=True)

    def val_dataloader(self):
        return self.loader(shuffle=False)

    def loader(self, *, shuffle: bool):
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=self.hparams.batch_size, shuffle=shuffle)
