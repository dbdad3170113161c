"""A perceptron that predicts a number."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torchmetrics import MetricCollection
from torchmetrics.regression import R2Score

from trainers.recipes.learner import Learner
from trainers.recipes.networks import perceptron


class MLPRegressor(Learner):
    """Trains with the squared error. `val_r2` is 1 for perfect predictions and 0 for the mean of the validation set."""

    def __init__(
        self,
        *,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        self.width, self.depth, self.dropout = width, depth, dropout

    def make_network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """One output, without an axis of its own."""
        network = perceptron(input_shape, n_outputs, width=self.width, depth=self.depth, dropout=self.dropout)
        return network.append(nn.Flatten(start_dim=0))

    def make_scores(self, n_outputs: int) -> MetricCollection:
        """The share of the variance that is explained."""
        return MetricCollection({"r2": R2Score()}, prefix="val_")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error, in units of the targets' variance where the data module standardises them."""
        return mse_loss(outputs, targets)
