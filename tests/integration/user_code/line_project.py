"""A LightningCLI project, as somebody who has never heard of Hindsight writes it."""

import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset


class Line(L.LightningDataModule):
    def __init__(self, batch_size: int = 8, n: int = 32, missing: bool = False):
        super().__init__()
        self.batch_size, self.n, self.missing = batch_size, n, missing

    def setup(self, stage):
        if self.missing:
            raise FileNotFoundError("no such folder: /data/lines")

    def _loader(self):
        x = torch.linspace(-1, 1, self.n).unsqueeze(1)
        return DataLoader(TensorDataset(x, 3 * x + 1), batch_size=self.batch_size)

    def train_dataloader(self):
        return self._loader()

    def val_dataloader(self):
        return self._loader()


class Net(L.LightningModule):
    def __init__(self, lr: float = 0.1, seen: int = 0):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1]))

    def on_train_epoch_end(self):
        self.log("lr", self.hparams.lr)
        self.log("seen", float(self.hparams.seen))
        self.log("weight", self.layer.weight.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class Scheduled(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class ByHand(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class LineCLI(LightningCLI):
    def add_arguments_to_parser(self, parser):
        parser.add_argument("--size", type=int, default=8)
        parser.link_arguments("size", "data.batch_size")
        parser.link_arguments("data.batch_size", "model.seen", apply_on="instantiate")


class ClosedCLI(LightningCLI):
    def __init__(self):
        super().__init__(Net, Line)
