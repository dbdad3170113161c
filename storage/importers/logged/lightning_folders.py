"""What a folder says of a Lightning run: its hyperparameters, and what was logged.

`hparams.yaml` with `metrics.csv` (CSVLogger) or TensorBoard's event files (TensorBoardLogger). Nothing is executed:
of the Python objects that Lightning may have written into hparams.yaml, tuples, names and paths are read as what they
stand for; a run with any other is an error, unless that parameter is dropped.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import walk
from pathlib import Path
from typing import Any

import yaml

from storage.errors import ImportFailedError
from storage.importers.inference import is_technical
from storage.importers.logged.tensorboard_events import last_values, read_events
from storage.importers.mapping import PlainLoader, load_yaml
from storage.importers.runs import Curve

HPARAMS, METRICS, EVENTS = "hparams.yaml", "metrics.csv", "events.out.tfevents."
COUNTERS = ("step", "epoch")
MAX_COLUMNS = 10_000
MOST_STEPS = 2**53
PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A folder in which a run was logged."""

    path: Path
    hparams: Path | None
    metrics: Path | None  # of CSVLogger
    events: tuple[Path, ...]  # of TensorBoard, oldest first

    def changed_at(self) -> float:
        """When one of its files was last written, in seconds since the epoch."""
        files = [file for file in (self.hparams, self.metrics, *self.events) if file is not None]
        return max(file.stat().st_mtime for file in files)


@dataclass(kw_only=True)
class Recording:
    """What was logged in a folder. Times are seconds since the epoch."""

    key: str  # a hash of the parameters and the first row: the same wherever the folder is
    params: dict[str, Any]
    scalars: dict[str, Curve]  # by name, in the order of logging
    last: dict[str, float]
    points: int  # how much was logged
    epochs: dict[int, int] = field(default_factory=dict)  # by step
    monitored: frozenset[str] = frozenset()  # metrics that the checkpoints' names tell
    started_at: float | None = None
    finished_at: float | None = None
    is_whole: bool = True  # False: the last line was cut off

    def history(self, metric: str) -> Curve:
        """The curve of a metric: by epoch where that is known and there is one value for each, else by step."""
        series = self.scalars.get(metric, ())
        epochs = [self.epochs.get(step) for step, _ in series]
        if None in epochs or len(set(epochs)) < len({step for step, _ in series}):
            return series
        return [(epoch, value) for epoch, (_, value) in zip(epochs, series, strict=True) if epoch is not None]


def find_run_folders(root: Path) -> Iterator[RunFolder]:
    """Every folder below `root`, itself included, in which something was logged, by name."""
    for folder, below, names in walk(root):
        below.sort(key=_natural)
        path = Path(folder)
        events = tuple(path / name for name in sorted(names) if name.startswith(EVENTS))
        metrics = path / METRICS if METRICS in names else None
        if events or metrics:
            yield RunFolder(
                path=path, hparams=path / HPARAMS if HPARAMS in names else None, metrics=metrics, events=events
            )


def read_run(folder: RunFolder, *, is_dropped: Callable[[str], bool]) -> Recording:
    """What a folder says.

    is_dropped: whether a parameter is not wanted, and need not be readable.
    Raises LookupError where it has no hyperparameters, ValueError where a file makes no sense.
    """
    if folder.metrics is not None:
        params = None if folder.hparams is None else _params(folder.hparams, is_dropped)
        if params is None:
            raise LookupError("has no hyperparameters: there is no hparams.yaml beside metrics.csv, or it is empty")
        recording = _from_csv(folder.metrics, params)
    else:
        params = None if folder.hparams is None else _params(folder.hparams, is_dropped)
        recording = _from_events(folder.events, params)
    recording.monitored = _monitored(folder.path, recording.scalars)
    return recording


# Hyperparameters


@dataclass(frozen=True)
class _Object:
    """A Python object in a file, which is not made."""

    tag: str


class _HparamsLoader(PlainLoader):
    """Reads what is data as data and leaves objects alone."""


def _sequence(loader: Any, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.SequenceNode):
        return _Object(node.tag)
    return loader.construct_sequence(node, deep=True)


def _name(loader: Any, suffix: str, node: yaml.Node) -> str:
    return suffix


def _applied(loader: Any, suffix: str, node: yaml.Node) -> Any:
    if suffix.rpartition(".")[0] in ("pathlib", "pathlib._local") and suffix.rpartition(".")[2] in PATHS:
        parts = _sequence(loader, node)
        if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
            return str(Path(*parts))
    return _Object(f"python/object/apply:{suffix}")


def _unknown(loader: Any, suffix: str, node: yaml.Node) -> _Object:
    return _Object(node.tag.removeprefix("tag:yaml.org,2002:"))


_PYTHON = "tag:yaml.org,2002:python/"
_HparamsLoader.add_constructor(f"{_PYTHON}tuple", _sequence)
_HparamsLoader.add_multi_constructor(f"{_PYTHON}name:", _name)
_HparamsLoader.add_multi_constructor(f"{_PYTHON}object/apply:", _applied)
_HparamsLoader.add_multi_constructor("", _unknown)  # the last: the first whose beginning fits is taken


def _params(path: Path, is_dropped: Callable[[str], bool]) -> dict[str, Any] | None:
    try:
        content, _ = load_yaml(path, _HparamsLoader)
    except ImportFailedError as error:
        raise ValueError(f"hyperparameters that cannot be read: {error}") from error
    if not content:
        return None
    if not isinstance(content, Mapping):
        raise ValueError(f"hyperparameters that cannot be read: {path.name} holds no names with values")
    found: dict[str, Any] = {}
    for name, value in _flat(content, ""):
        if is_dropped(name):
            continue
        if _has_object(value):
            raise ValueError(
                f"hyperparameters that cannot be read: {name} is a Python object; `drop: [{name}]` in a mapping file"
                " leaves it out"
            )
        found[name] = value
    return found


def _flat(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Names with values; those of dictionaries are joined by dots."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _has_object(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return any(map(_has_object, value))
    if isinstance(value, Mapping):
        return any(map(_has_object, value.values()))
    return isinstance(value, _Object)


# CSVLogger


def _from_csv(path: Path, params: dict[str, Any]) -> Recording:
    scalars: dict[str, list[tuple[int, float]]] = {}
    epochs: dict[int, int] = {}
    first: dict[str, str] | None = None
    is_whole = _ends_with_a_line(path)
    rows = list(_rows(path))
    names = rows[0] if rows else []
    _check_header(path, names)
    if len(rows) > 1 and (not is_whole or len(rows[-1]) < len(names)):
        is_whole = not rows.pop()
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ValueError(f"a damaged metrics.csv: line {number} has {len(row)} of {len(names)} columns")
        cells = {name: cell for name, cell in zip(names, row, strict=True) if cell.strip()}
        values = {name: _float(name, cell, number) for name, cell in cells.items()}
        step = number - 2 if "step" not in values else _integer("step", values["step"], number)
        if "epoch" in values:
            epochs[step] = _integer("epoch", values["epoch"], number)
        for name, value in values.items():
            if name not in COUNTERS:
                scalars.setdefault(name, []).append((step, value))
        if first is None and any(name not in COUNTERS and not is_technical(name) for name in cells):
            first = cells
    return Recording(
        key=_key(params, first if first is not None else rows),
        params=params,
        scalars=dict(scalars),
        last=last_values(scalars),
        points=sum(map(len, scalars.values())),
        epochs=epochs,
        finished_at=path.stat().st_mtime,
        is_whole=is_whole,
    )


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from (row for row in csv.reader(file) if row)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"a damaged metrics.csv: {error}") from error


def _check_header(path: Path, names: list[str]) -> None:
    if not names:
        raise ValueError(f"an empty {path.name}: nothing was logged")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) <= MAX_COLUMNS else []
    if twice or len(names) > MAX_COLUMNS:
        what = f"{twice[0]!r} stands twice" if twice else f"{len(names):,} are too many"
        raise ValueError(f"a damaged metrics.csv: of its columns, {what}")


def _ends_with_a_line(path: Path) -> bool:
    """Whether the last line is whole. A number that is cut off looks like another number."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 1, 0))
        return file.read(1) in (b"\n", b"")


def _float(name: str, cell: str, line: int) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise ValueError(f"a damaged metrics.csv: line {line}: {name} = {cell[:80]!r} is no number") from error


def _integer(name: str, value: float, line: int) -> int:
    if not value.is_integer() or abs(value) >= MOST_STEPS:
        raise ValueError(f"a damaged metrics.csv: line {line}: {name} = {value:g} is no integer")
    return int(value)


# TensorBoard


def _from_events(files: tuple[Path, ...], params: dict[str, Any] | None) -> Recording:
    events = read_events(files)
    params = params or events.hparams
    if not params:
        raise LookupError("has no hyperparameters: neither a filled hparams.yaml nor among the events")
    if events.first is None:
        raise ValueError("no scalars: nothing was logged")
    scalars = events.scalars
    counted = scalars.pop("epoch", [])
    epochs = {step: int(value) for step, value in counted if value.is_integer() and abs(value) < MOST_STEPS}
    return Recording(
        key=_key(params, events.first),
        params=params,
        scalars=dict(scalars),
        last=last_values(scalars),
        points=sum(map(len, scalars.values())),
        epochs=epochs,
        started_at=events.started_at,
        finished_at=events.finished_at,
        is_whole=events.is_whole,
    )


# Both


def _key(params: Mapping[str, Any], first: Any) -> str:
    content = json.dumps([params, first], sort_keys=True, default=str)
    return f"lightning:{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _monitored(folder: Path, metrics: Mapping[str, Any]) -> frozenset[str]:
    """The metrics in the names of checkpoints, such as `epoch=3-val_loss=0.21.ckpt`."""
    names = [file.stem for file in folder.glob("checkpoints/*.ckpt")]
    return frozenset(metric for metric in metrics if any(f"{metric}=" in name for name in names))


def _natural(name: str) -> tuple[str, int, str]:
    """The order in which a person counts: version_10 comes after version_9."""
    digits = len(name) - len(name.rstrip("0123456789"))
    return name[: len(name) - digits], int(name[len(name) - digits :] or -1), name
