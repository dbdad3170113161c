"""What TensorBoard's event files say of a run: scalars by step, and hyperparameters where they were logged.

TensorBoard's own reader is used, which is an optional dependency; nothing but scalars and hyperparameters is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import ImportFailedError
from storage.importers.runs import Curve

HPARAMS_TAG = "_hparams_/session_start_info"
FRAME = 16  # bytes around each record: its length and two checksums


@dataclass(kw_only=True)
class Events:
    """What event files hold. Times are seconds since the epoch."""

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # by tag, in the order of logging
    hparams: dict[str, Any] | None = None
    first: tuple[str, int, float, float] | None = None  # tag, step, value and time of the first scalar
    started_at: float | None = None
    finished_at: float | None = None
    is_whole: bool = True  # False: a file ends in the middle of a record, or is damaged from there on

    def add(self, tag: str, step: int, value: float, at: float) -> None:
        """Note a scalar."""
        if self.first is None:
            self.first = (tag, step, value, at)
        self.scalars.setdefault(tag, []).append((step, value))


def read_events(files: Sequence[Path]) -> Events:
    """The content of a run's event files. Raises ImportFailedError without TensorBoard; ValueError for other files."""
    events = Events()
    for file in files:
        for event in _events(file, events):
            at = float(event.wall_time)
            events.started_at = at if events.started_at is None else min(events.started_at, at)
            events.finished_at = at if events.finished_at is None else max(events.finished_at, at)
            for value in event.summary.value:
                if value.tag == HPARAMS_TAG:
                    events.hparams = _hparams(value.metadata.plugin_data.content)
                    continue
                number = _number(value)
                if number is not None:
                    events.add(str(value.tag), int(event.step), number, at)
    return events


def last_values(scalars: Mapping[str, Curve]) -> dict[str, float]:
    """The last value of each."""
    return {name: series[-1][1] for name, series in scalars.items() if series}


def _events(file: Path, events: Events) -> Iterator[Any]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import (  # noqa: PLC0415 - optional
            RawEventFileLoader,
        )
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
    except ImportError as error:
        raise ImportFailedError(
            "TensorBoard's files need its reader: pip install 'hindsight-hpo[tensorboard]'"
        ) from error
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with TensorBoard

    read = 0
    try:
        for record in RawEventFileLoader(str(file)).Load():
            read += len(record) + FRAME
            yield Event.FromString(record)
    except DecodeError as error:
        raise ValueError(f"a damaged event file: {file.name}: {error}") from error
    if read == 0 and file.stat().st_size > 0:
        raise ValueError(f"a damaged event file: {file.name} has no whole record")
    if read != file.stat().st_size:
        events.is_whole = False


def _number(value: Any) -> float | None:
    """The scalar of a summary, as old or new writers put it; None for pictures and the like."""
    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    if value.WhichOneof("value") == "tensor" and value.metadata.plugin_data.plugin_name in ("scalars", ""):
        from tensorboard.util.tensor_util import make_ndarray  # noqa: PLC0415 - optional

        try:
            array = make_ndarray(value.tensor)
        except (ValueError, TypeError):
            return None
        return float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else None
    return None


def _hparams(content: bytes) -> dict[str, Any] | None:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with TensorBoard
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # noqa: PLC0415 - optional

    try:
        found = HParamsPluginData.FromString(content).session_start_info.hparams
    except DecodeError:
        return None
    return {str(name): _python(value) for name, value in found.items()}


def _python(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind in ("number_value", "string_value", "bool_value"):
        found = getattr(value, kind)
        is_integer = kind == "number_value" and float(found).is_integer() and abs(found) < 2**53
        return int(found) if is_integer else found
    return None
