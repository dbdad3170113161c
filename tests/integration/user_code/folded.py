"""A user's data module that divides its examples into folds, and one that does not."""

import os
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset


class Whole(lightning.LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train = self.val = torch.arange(12.0).unsqueeze(1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.train), batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.val), batch_size=self.batch_size)


class Folded(Whole):
    def __init__(self, batch_size: int = 4, fold: int = 0, folds: int = 1) -> None:
        super().__init__(batch_size)
        self.fold, self.folds = fold, folds
        held_out = torch.arange(12) % folds == fold
        self.train, self.val = self.train[~held_out], self.val[held_out]


class Told(lightning.LightningModule):
    """Its loss is told: in fold `k`, `losses[k]` in the best epoch, the first, and 1 more in the next."""

    def __init__(self, losses=(1.0, 2.0, 6.0), dies_in: int = -1) -> None:
        super().__init__()
        self.losses, self.dies_in = losses, dies_in
        self.layer = torch.nn.Linear(1, 1)

    def on_fit_start(self) -> None:
        fold, folder = self.trainer.datamodule.fold, Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "seeds").open("a") as file:
            file.write(f"{torch.initial_seed()}\n")
        marker = folder.parent.parent / "died"
        if fold == self.dies_in and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch, batch_idx) -> None:
        loss = self.losses[self.trainer.datamodule.fold] + self.current_epoch
        self.log("val_loss", float(loss), sync_dist=True)
        self.log("examples", float(len(self.trainer.datamodule.val)), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)
