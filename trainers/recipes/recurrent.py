"""A recurrent network that reads images row by row."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MetricCollection

from trainers.recipes.networks import Classifier, class_scores

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RNN(Classifier):
    """`depth` recurrent layers of one width; the last row's output decides."""

    def __init__(
        self,
        *,
        cell: str = "gru",
        width: int = 32,
        depth: int = 1,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, lr=lr, weight_decay=weight_decay)
        if cell not in CELLS:
            raise ValueError(f"cell {cell!r} is not one of {', '.join(CELLS)}")
        self.cell, self.width, self.depth, self.dropout = cell, width, depth, dropout

    def make_network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """Images of shape (1, height, width): `height` steps of `width` numbers."""
        between_layers = self.dropout if self.depth > 1 else 0.0
        cells = CELLS[self.cell](
            input_shape[-1], self.width, num_layers=self.depth, batch_first=True, dropout=between_layers
        )
        return _RowReader(cells, nn.Sequential(nn.Dropout(self.dropout), nn.Linear(self.width, n_outputs)))

    def make_scores(self, n_outputs: int) -> MetricCollection:
        """Of the classes."""
        return class_scores(n_outputs)


class _RowReader(nn.Module):
    def __init__(self, cells: nn.LSTM | nn.GRU, head: nn.Module) -> None:
        super().__init__()
        self.cells, self.head = cells, head

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.cells(images.squeeze(1))
        return self.head(outputs[:, -1])  # type: ignore[no-any-return]  # a module's call is untyped
