"""What do all networks of the recipes share? A loss, an optimizer, and scores once per validation epoch."""

from __future__ import annotations

from typing import Any, TypeAlias

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from trainers.optimization.optimizers import OPTIMIZERS, make_optimizer
from trainers.recipes.arrays import ArrayData

Batch: TypeAlias = tuple[Tensor, Tensor]  # inputs and targets


class Learner(lightning.LightningModule):
    """Trains `self.network`, which a subclass makes once the data module tells its sizes."""

    network: nn.Module
    scores: MetricCollection | None

    def __init__(self, *, lr: float, weight_decay: float, optimizer: str = "adamw", momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.optimizer, self.momentum, self.weight_decay = lr, optimizer, momentum, weight_decay
        self._losses: list[Tensor] = []  # of this epoch's steps: to log each of them costs more than to make it

    def make_network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """A network from inputs of that shape (without the batch) to `n_outputs` numbers."""
        raise NotImplementedError

    def make_scores(self, n_outputs: int) -> MetricCollection | None:
        """What else is logged of a validation epoch, over the examples of all ranks. They cost some 5 ms an epoch."""
        return None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch of validation examples, `val_loss`."""
        raise NotImplementedError

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is minimized: the loss, unless a subclass smooths it."""
        return self.loss(outputs, targets)

    def means(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What is logged as a mean over validation examples."""
        return {"val_loss": self.loss(outputs, targets)}

    def configure_model(self) -> None:
        """Lightning calls this before training, and again when it loads a checkpoint."""
        if not hasattr(self, "network"):
            data: ArrayData = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it untyped
            self.network = self.make_network(data.input_shape, data.n_outputs)
            self.scores = self.make_scores(data.n_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the network makes of inputs: logits, or numbers."""
        outputs: Tensor = self.network(inputs)
        return outputs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any of `trainers.optimization.optimizers`, unless the study chooses one; AdamW does without `momentum`."""
        options = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer in OPTIMIZERS and "momentum" in OPTIMIZERS[self.optimizer].options:
            options["momentum"] = self.momentum
        return make_optimizer(self.optimizer, self.parameters(), **options)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        inputs, targets = batch
        loss = self.training_loss(self.network(inputs), targets)
        self._losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss."""
        self.log("train_loss", torch.stack(self._losses).mean(), sync_dist=True)
        self._losses.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log how well the network does on examples it has not seen."""
        inputs, targets = batch
        outputs = self.network(inputs)
        weight: Any = float(len(targets))  # of whole numbers, Lightning rounds the mean over ranks
        self.log_dict(self.means(outputs, targets), batch_size=weight, sync_dist=True)
        if self.scores is not None:
            self.scores.update(outputs, targets)

    def on_validation_epoch_end(self) -> None:
        """Log what can only be told of all examples together."""
        if self.scores is not None:
            self.log_dict(self.scores.compute(), sync_dist=True)
            self.scores.reset()
