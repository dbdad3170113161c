"""A user's classifiers of four clouds of points, small enough to train in a tenth of a second."""

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

CENTRES = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])


class Clouds(lightning.LightningDataModule):
    def __init__(self, n: int = 256) -> None:
        super().__init__()
        self.n = n

    def _loader(self, seed: int) -> DataLoader:
        drawn = torch.Generator().manual_seed(seed)
        labels = torch.randint(4, (self.n,), generator=drawn)
        inputs = CENTRES[labels] + 0.5 * torch.randn(self.n, 2, generator=drawn)
        return DataLoader(TensorDataset(inputs, labels), batch_size=64)

    def train_dataloader(self):
        return self._loader(1)

    def val_dataloader(self):
        return self._loader(2)


class Small(lightning.LightningModule):
    """Logs `val_accuracy` and `val_loss`."""

    def __init__(self, width: int = 32, lr: float = 0.02) -> None:
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )

    def forward(self, inputs):
        return self.layers(inputs)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_loss", cross_entropy(logits, batch[1]), sync_dist=True)
        self.log("val_accuracy", (logits.argmax(dim=1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Late(Small):
    """Makes its layers when Lightning tells it to."""

    def __init__(self, width: int = 32, lr: float = 0.02) -> None:
        super().__init__(width=width, lr=lr)
        del self.layers
        self.width = width

    def configure_model(self):
        if not hasattr(self, "layers"):
            self.layers = Small(self.width).layers


class Branching(Small):
    """Goes a way that depends on the data, which no graph can follow."""

    def forward(self, inputs):
        return self.layers(inputs) if inputs.sum().item() < 1e9 else inputs
