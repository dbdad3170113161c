"""The networks of the recipes."""

from __future__ import annotations

from typing import TypeAlias

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.recipes.arrays import ArrayData

Batch: TypeAlias = tuple[Tensor, Tensor]  # inputs and labels


class Classifier(lightning.LightningModule):
    """Trains `self.network` with cross entropy. A subclass makes it once the data module tells its sizes."""

    network: nn.Module

    def __init__(self, *, lr: float, optimizer: str, momentum: float, weight_decay: float) -> None:
        super().__init__()
        self.lr, self.optimizer, self.momentum, self.weight_decay = lr, optimizer, momentum, weight_decay
        self._losses: list[Tensor] = []  # of this epoch's steps: to log each of them costs more than to make it

    def make_network(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """A network from inputs of that shape to logits."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Lightning calls this before training, and again when it loads a checkpoint."""
        if not hasattr(self, "network"):
            data: ArrayData = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it untyped
            self.network = self.make_network(data.input_shape, data.n_classes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """`momentum` is SGD's; AdamW does without."""
        match self.optimizer:
            case "sgd":
                return torch.optim.SGD(
                    self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
                )
            case "adamw":
                return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        raise ValueError(f"optimizer {self.optimizer!r} is neither sgd nor adamw")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        inputs, labels = batch
        loss = cross_entropy(self.network(inputs), labels)
        self._losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss."""
        self.log("train_loss", torch.stack(self._losses).mean(), sync_dist=True)
        self._losses.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log how well the network does on examples it has not seen."""
        inputs, labels = batch
        logits = self.network(inputs)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        scores = {"val_loss": cross_entropy(logits, labels), "val_accuracy": accuracy}
        self.log_dict(scores, batch_size=len(labels), sync_dist=True)


class MLP(Classifier):
    """A perceptron of `depth` hidden layers."""

    def __init__(
        self,
        *,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, optimizer=optimizer, momentum=momentum, weight_decay=weight_decay)
        self.width, self.depth, self.dropout = width, depth, dropout

    def make_network(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Inputs of any shape are read as one row of numbers."""
        layers: list[nn.Module] = [nn.Flatten()]
        n_inputs = torch.Size(input_shape).numel()
        for _ in range(self.depth):
            layers += [nn.Linear(n_inputs, self.width), nn.ReLU(), nn.Dropout(self.dropout)]
            n_inputs = self.width
        return nn.Sequential(*layers, nn.Linear(n_inputs, n_classes))


class CNN(Classifier):
    """A convolutional network of `depth` layers, each with twice the channels of the one before."""

    def __init__(
        self,
        *,
        channels: int = 8,
        depth: int = 2,
        dropout: float = 0.0,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, optimizer=optimizer, momentum=momentum, weight_decay=weight_decay)
        self.channels, self.depth, self.dropout = channels, depth, dropout

    def make_network(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Images of shape (channels, height, width); height and width are halved after each layer."""
        layers: list[nn.Module] = []
        n_inputs, *_ = input_shape
        for layer in range(self.depth):
            n_outputs = self.channels * 2**layer
            layers += [nn.Conv2d(n_inputs, n_outputs, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            n_inputs = n_outputs
        n_pixels = (input_shape[1] >> self.depth) * (input_shape[2] >> self.depth)
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(self.dropout), nn.Linear(n_inputs * n_pixels, n_classes))
