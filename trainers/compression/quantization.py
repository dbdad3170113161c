"""How many bits does a weight need? Eight: rounded per output channel, with one scale for each.

int8_weight_only  weights are kept as int8 and computed with in floating point: as fast as before, a quarter the size.
int8_dynamic      beside that, linear layers round their inputs as well and compute in int8 (torchao).
qat               int8_weight_only after training with rounded weights, which learn to bear it.

torchao has int8 kernels for linear layers only (no convolutions), and no quantization-aware training for either of its
int8 configurations (0.18: "Unexpected base config"); so rounding in training is torch's own fake quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainers.compression.layers import weighted_layers
from trainers.compression.settings import Compression

LARGEST = 127  # of int8, symmetric around 0: zero stays zero, so pruned weights do
LEAST_SCALE = 1e-12  # of a channel that is zero


def compress(model: nn.Module, settings: Compression, finetune: Callable[[nn.Module], None]) -> dict[str, Any]:
    """Round a model's weights in place; `finetune` trains them where that is asked for. Returns its packed state."""
    if settings.quantize == "qat":
        start_rounding(model)
        finetune(model)
        stop_rounding(model)
    packed = pack(model)
    model.load_state_dict(unpack(packed))
    return packed


def pack(model: nn.Module) -> dict[str, Any]:
    """The state of a model with every weight as int8 and its scales; the rest (biases, norms) as it is."""
    state: dict[str, Any] = dict(model.state_dict())
    weights = {
        getattr(layer, weight).data_ptr() for _, layer, weight in weighted_layers(model)
    }  # also under a 2nd name
    return {name: _rounded(value) if value.data_ptr() in weights else value for name, value in state.items()}


def unpack(packed: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict in floating point."""
    return {name: _floating(value) if isinstance(value, Mapping) else value for name, value in packed.items()}


def use_int8_kernels(model: nn.Module) -> None:
    """Let linear layers compute in int8, their inputs rounded as they come."""
    # torchao takes seconds to import, and has no types
    from torchao.quantization import (  # type: ignore[import-untyped]  # noqa: PLC0415
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda layer, _: type(layer) is nn.Linear)


def start_rounding(model: nn.Module) -> None:
    """Round the weights whenever they are used; gradients pass as if they were not."""
    for _, layer, weight in list(weighted_layers(model)):
        parametrize.register_parametrization(layer, weight, _Rounding())


def stop_rounding(model: nn.Module) -> None:
    """Leave the weights as plain parameters, rounded."""
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer):
            for name, by in list(layer.parametrizations.items()):  # type: ignore[union-attr,operator]
                if isinstance(by[0], _Rounding):
                    parametrize.remove_parametrizations(layer, name)


class _Rounding(nn.Module):
    """Straight-through rounding (Jacob et al., Quantization and Training of Neural Networks, CVPR 2018)."""

    def forward(self, weight: Tensor) -> Tensor:
        scales = _scales(weight.detach())
        if weight.dim() == 1:
            return torch.fake_quantize_per_tensor_affine(weight, float(scales), 0, -LARGEST, LARGEST)
        zero = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scales, zero, 0, -LARGEST, LARGEST)


def _rounded(weight: Tensor) -> dict[str, Tensor]:
    scales = _scales(weight)
    units = weight / (scales.reshape(-1, *[1] * (weight.dim() - 1)) if weight.dim() > 1 else scales)
    return {"int8": units.round().clamp(-LARGEST, LARGEST).to(torch.int8), "scale": scales.to(weight.dtype)}


def _floating(packed: Mapping[str, Tensor]) -> Tensor:
    values, scales = packed["int8"], packed["scale"]
    shaped = scales.reshape(-1, *[1] * (values.dim() - 1)) if values.dim() > 1 else scales
    return values.to(scales.dtype) * shaped


def _scales(weight: Tensor) -> Tensor:
    """One for each output channel, shape (c,); of shared parameters one in all, shape ()."""
    largest = weight.abs().amax() if weight.dim() == 1 else weight.flatten(1).abs().amax(dim=1)
    return (largest / LARGEST).clamp(min=LEAST_SCALE)
