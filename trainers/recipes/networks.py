"""The classifiers of the recipes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score, MulticlassRecall

from trainers.recipes.learner import Learner


class Classifier(Learner):
    """Trains with cross entropy. Two classes are two outputs, too."""

    def __init__(
        self,
        *,
        label_smoothing: float,
        lr: float,
        weight_decay: float,
        optimizer: str = "adamw",
        momentum: float = 0.9,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, optimizer=optimizer, momentum=momentum)
        self.label_smoothing = label_smoothing

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy with the labels as they are, so that different smoothings compare."""
        return cross_entropy(outputs, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy with smoothed labels."""
        return cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def means(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss and the share of examples whose class was found."""
        accuracy = (outputs.argmax(dim=1) == targets).float().mean()
        return {**super().means(outputs, targets), "val_accuracy": accuracy}


def class_scores(n_classes: int) -> MetricCollection:
    """Means over classes, so that a rare one counts as much as any."""
    return MetricCollection(
        {
            "recall": MulticlassRecall(n_classes, average="macro", validate_args=False),
            "f1": MulticlassF1Score(n_classes, average="macro", validate_args=False),
            "auroc": MulticlassAUROC(n_classes, average="macro", validate_args=False),
        },
        prefix="val_",
    )


class MLP(Classifier):
    """A perceptron of `depth` hidden layers."""

    def __init__(
        self,
        *,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            label_smoothing=label_smoothing, lr=lr, optimizer=optimizer, momentum=momentum, weight_decay=weight_decay
        )
        self.width, self.depth, self.dropout = width, depth, dropout

    def make_network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """Inputs of any shape are read as one row of numbers."""
        return perceptron(input_shape, n_outputs, width=self.width, depth=self.depth, dropout=self.dropout)


def perceptron(
    input_shape: tuple[int, ...], n_outputs: int, *, width: int, depth: int, dropout: float
) -> nn.Sequential:
    """Hidden layers of one width, each with ReLU and dropout, and a linear layer after them."""
    layers: list[nn.Module] = [nn.Flatten()]
    n_inputs = torch.Size(input_shape).numel()
    for _ in range(depth):
        layers += [nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


class CNN(Classifier):
    """A convolutional network of `depth` layers, each with twice the channels of the one before."""

    def __init__(
        self,
        *,
        channels: int = 8,
        depth: int = 2,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            label_smoothing=label_smoothing, lr=lr, optimizer=optimizer, momentum=momentum, weight_decay=weight_decay
        )
        self.channels, self.depth, self.dropout = channels, depth, dropout

    def make_network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """Images of shape (channels, height, width); height and width are halved after each layer."""
        layers: list[nn.Module] = []
        n_inputs, *_ = input_shape
        for layer in range(self.depth):
            n_channels = self.channels * 2**layer
            layers += [nn.Conv2d(n_inputs, n_channels, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            n_inputs = n_channels
        n_pixels = (input_shape[1] >> self.depth) * (input_shape[2] >> self.depth)
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(self.dropout), nn.Linear(n_inputs * n_pixels, n_outputs))


class ScoredCNN(CNN):
    """The same with recall, F1 and AUROC beside the accuracy, for data whose epochs take longer than these."""

    def make_scores(self, n_outputs: int) -> MetricCollection:
        """Of the classes."""
        return class_scores(n_outputs)
