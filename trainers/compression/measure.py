"""What is a model worth, small as it is? Its size on disk, its parameters, and how long it takes to answer.

Sizes are those of files as they are kept here: the state dict, compressed by gzip (level 9), so that zeros cost next to
nothing. Latencies are compared in turn within one run, on one example at a time: whatever else the machine does meets
all models alike.
"""

from __future__ import annotations

import gzip
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

GZIP_LEVEL = 9
ROUNDS = 200
ROUND_SECONDS = 1e-4  # least duration of a measurement: more than steps of the clock, less than turns of a busy machine
WARM_UP_CALLS = 3
NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long a call takes: the median of repeated measurements."""

    milliseconds: float
    interval95: tuple[float, float]  # of the median, milliseconds


def packed_bytes(content: Any) -> bytes:
    """What is written to disk: the same bytes for the same content. Loads again by `loaded`."""
    plain = io.BytesIO()
    torch.save(content, plain)
    return gzip.compress(plain.getvalue(), compresslevel=GZIP_LEVEL, mtime=0)


def loaded(data: bytes) -> Any:
    """The inverse of `packed_bytes`; nothing but tensors, numbers and text is read."""
    return torch.load(io.BytesIO(gzip.decompress(data)), weights_only=True, map_location="cpu")


def size_bytes(state: Mapping[str, Any]) -> int:
    """Of a state dict on disk."""
    return len(packed_bytes(dict(state)))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are not zero."""
    parameters = list(model.parameters())
    return sum(each.numel() for each in parameters), sum(int((each != 0).sum()) for each in parameters)


def latencies(models: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS) -> dict[str, Latency]:
    """How long a call of each takes, measured in turn. `models`: what calls each on an example."""
    calls = {name: _calls_in_a_round(call) for name, call in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, call in models.items():
            seconds[name].append(_measure(call, calls[name]))
    return {name: _latency(np.sort(measured) * 1e3) for name, measured in seconds.items()}


def _calls_in_a_round(call: Callable[[], Any]) -> int:
    seconds = min(_measure(call, 1) for _ in range(WARM_UP_CALLS))
    return max(1, round(ROUND_SECONDS / seconds))


def _measure(call: Callable[[], Any], calls: int) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        for _ in range(calls):
            call()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has not typed it yet
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / calls


def _latency(milliseconds: np.ndarray[Any, np.dtype[np.float64]]) -> Latency:
    """The median, and the order statistics that hold it with 95% whatever the distribution. `milliseconds`: sorted."""
    n = len(milliseconds)
    below = max(0, math.floor(n / 2 - NORMAL_95 * math.sqrt(n) / 2) - 1)  # the binomial's quantile, or one less
    return Latency(
        milliseconds=float(np.median(milliseconds)),
        interval95=(float(milliseconds[below]), float(milliseconds[n - 1 - below])),
    )
