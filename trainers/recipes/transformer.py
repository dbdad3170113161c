"""A small Transformer that predicts the next character."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.text import Perplexity

from trainers.recipes.learner import Learner

FEED_FORWARD = 4  # width of the feed-forward layers, in widths of the model: Vaswani et al., NeurIPS 2017


class CharTransformer(Learner):
    """Decoder-only, with layer norms before each block; its width is that of its heads together."""

    def __init__(
        self,
        *,
        heads: int = 2,
        head_width: int = 16,
        depth: int = 2,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        self.heads, self.head_width, self.depth, self.dropout = heads, head_width, depth, dropout
        self.label_smoothing = label_smoothing

    def make_network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        """Inputs of shape (length,): characters by number. Outputs of shape (length, n_outputs)."""
        (length,) = input_shape
        return _Decoder(
            length, n_outputs, heads=self.heads, width=self.heads * self.head_width, depth=self.depth, p=self.dropout
        )

    def make_scores(self, n_outputs: int) -> MetricCollection:
        """Among how many characters, all as likely, the model might as well choose."""
        return MetricCollection({"perplexity": Perplexity()}, prefix="val_")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy in nats per character."""
        return cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy with smoothed targets."""
        return cross_entropy(outputs.flatten(0, 1), targets.flatten(), label_smoothing=self.label_smoothing)


class _Decoder(nn.Module):
    mask: Tensor

    def __init__(self, length: int, n_characters: int, *, heads: int, width: int, depth: int, p: float) -> None:
        super().__init__()
        self.characters = nn.Embedding(n_characters, width)
        self.places = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, FEED_FORWARD * width, dropout=p, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, n_characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        hidden = self.characters(text) + self.places(places)
        return self.head(self.blocks(hidden, mask=self.mask, is_causal=True))  # type: ignore[no-any-return]
