r"""How does a small model learn from a large one? From the teacher's probabilities, beside the labels.

$L = (1 - m) L_{student} + m \, T^2 \, KL(\sigma(z_t / T) \| \sigma(z_s / T))$, m the mixing, T the temperature:
T^2 keeps the size of the gradients as T grows.
(Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, logsigmoid

from trainers.compression.inputs import has_forward, inputs_of
from trainers.compression.settings import Distillation
from trainers.errors import CompressionError


def distil(student: lightning.LightningModule, teacher: nn.Module, settings: Distillation) -> None:
    """Let a model learn from a teacher too: wraps its `training_step`, whose loss stays a part of the whole.

    Both give logits when called, of shape (n, classes, ...), or (n,) or (n, 1) for two classes.
    Raises CompressionError.
    """
    if not has_forward(student):
        raise CompressionError(
            f"compress.distil: {type(student).__name__} has no `forward`; give it one that returns logits: "
            "the teacher's are compared with them"
        )
    teacher.eval().requires_grad_(False)
    step = student.training_step

    @functools.wraps(step)
    def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
        calls: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []
        recorder = student.register_forward_hook(
            lambda module, args, kwargs, logits: calls.append((args, kwargs, logits)), with_kwargs=True
        )
        try:
            result = step(batch, *args, **kwargs)
            if result is None:  # the user skips this batch
                return None
            if not calls:  # the step goes past `forward`
                student(inputs_of(batch))
        finally:
            recorder.remove()
        inputs, named, logits = calls[0]
        with torch.no_grad():
            taught = teacher.to(logits.device)(*inputs, **named)
        lesson = distillation_loss(logits, taught, settings.temperature)
        student.log("distillation_loss", lesson.detach(), on_step=False, on_epoch=True, sync_dist=True)
        own = result["loss"] if isinstance(result, Mapping) else result
        loss = (1.0 - settings.mixing) * own + settings.mixing * lesson
        return {**result, "loss": loss} if isinstance(result, Mapping) else loss

    student.training_step = training_step  # type: ignore[method-assign]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of softened probabilities, the mean over examples (and places, if there are any).

    student, teacher: logits of shape (n, classes, ...), or (n,) or (n, 1) for two classes. Raises CompressionError.
    """
    if student.shape != teacher.shape:
        raise CompressionError(
            f"compress.distil: the student gives logits of shape {tuple(student.shape)}, the teacher "
            f"{tuple(teacher.shape)}; a teacher of the same classes is needed"
        )
    ours, theirs = (_log_probabilities(logits / temperature) for logits in (student, teacher))
    divergence = kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * divergence.mean()


def _log_probabilities(logits: Tensor) -> Tensor:
    """Shape (n, classes, ...)."""
    if logits.dim() == 1 or logits.shape[1] == 1:
        of_one = logits.reshape(-1)
        return torch.stack([logsigmoid(of_one), logsigmoid(-of_one)], dim=1)
    return log_softmax(logits, dim=1)
