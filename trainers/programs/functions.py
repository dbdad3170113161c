"""How does a trial run a plain function of the user's?

The function is called as `train(config, report)`, or as `train(config)` where it takes one argument:

    def train(config, report):
        for epoch in range(10):
            loss = ...                                  # torch or not
            report(val_loss=loss)                       # ends the trial here if it is to be pruned
        return loss                                     # or {"val_loss": loss, "seconds": 3.2}; or nothing

`config` is a dict of the fixed arguments and, on top, the trial's parameters. The seeds of Python, NumPy and torch are
set. `report.directory` is a folder for files of its own, the same for each attempt at the trial: what an attempt that
was killed has saved there, the next one finds. A function that returns nothing is worth its best report.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch

from trainers.devices.choice import choose_devices, peak_memory_bytes
from trainers.errors import ModelImportError, TrainerError
from trainers.job import FailureKind, FitJob, Outcome, TrainerConfig
from trainers.objectives import with_further_values
from trainers.processes.launch_environment import place_in_launch
from trainers.processes.remote_channel import TOKEN_VARIABLE
from trainers.programs.imports import import_object
from trainers.reports import FitError
from trainers.reports import Report as Tell

FILES = "files"  # in a trial's directory, where nothing else is said


class TrialPruned(Exception):  # noqa: N818  as Optuna's is called
    """The trial is to end here: `report` raises it, and a function may raise it by itself."""


@dataclass(frozen=True, kw_only=True)
class FunctionProgram:
    """A function that trains by itself and reports."""

    config: TrainerConfig
    function: Callable[..., Any]
    takes_report: bool

    @classmethod
    def load(cls, config: TrainerConfig) -> FunctionProgram:
        """Raises ModelImportError."""
        path = str(config.function)
        function = import_object(path, role="function")
        if not callable(function) or isinstance(function, type):
            raise ModelImportError(f"function {path!r} is of type {type(function).__name__}, not a function")
        return cls(config=config, function=function, takes_report=_takes_report(function, path))

    def check(self, names: Collection[str]) -> None:
        """A function takes parameters of every name, in one process. Raises TrainerError."""
        if TOKEN_VARIABLE in os.environ and (count := place_in_launch(os.environ).world_size) > 1:
            raise TrainerError(
                f"the launcher starts {count} processes, and a function is called in one, which may start others"
            )

    def run(self, job: FitJob, *, slot: int, report: Tell) -> Outcome:
        """Call the function. Raises FitError, and whatever the function raises."""
        lightning.seed_everything(job.seed, workers=True, verbose=False)
        torch.set_num_threads(self.config.threads)
        _show_only(choose_devices(self.config, slot=slot))
        reporter = Reporter(job, tell=report)
        config = {**self.config.trainer_args, **job.params}
        is_pruned, returned = False, None
        try:
            returned = self.function(config, reporter) if self.takes_report else self.function(config)
        except Exception as error:
            if not _means_pruned(error):
                raise reporter.failure or error from None
            is_pruned = True
        return reporter.conclude(returned, is_pruned=is_pruned, name=str(self.config.function))


class Reporter:
    """What a function calls after each epoch, or whatever its steps are: `report(val_loss=0.3, val_accuracy=0.9)`.

    Raises TrialPruned when the trial is to end: let it pass, or catch it to clean up. `directory` is a folder for the
    function's own files.
    """

    def __init__(self, job: FitJob, *, tell: Tell) -> None:
        self.directory = Path(job.files or Path(job.directory, FILES))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.failure: FitError | None = None  # to be raised, whatever the function makes of it
        self._job, self._tell = job, tell
        self._started, self._waited_seconds = time.monotonic(), 0.0
        self._best: tuple[float, int] | None = None  # value and step
        self._of_best: dict[str, float] = {}  # all that was reported at that step
        self._last_step, self._reports = -1, 0
        self._names: set[str] = set()
        self._is_pruned = False

    def __call__(self, *values: object, step: int | None = None, **metrics: Any) -> None:
        """Report numbers by their names. step: counted from 0 by itself where it is left out."""
        if values:
            raise TypeError(f"report({values[0]!r}): name what it is, as in report({self._job.metric}={values[0]!r})")
        if not metrics:
            raise TypeError(f"report() without a metric; write report({self._job.metric}=...)")
        if step is None:
            step = self._last_step + 1
        elif (step := operator.index(step)) <= self._last_step:
            raise ValueError(f"step = {step} does not follow step {self._last_step}: steps are whole numbers that grow")
        numbers = {name: _number(value, name) for name, value in metrics.items()}
        self._take(step, numbers)
        if self._is_pruned:
            raise TrialPruned(f"pruned at step {step}")

    def conclude(self, returned: Any, *, is_pruned: bool, name: str) -> Outcome:
        """How the trial came out, by what the function returned or has reported. Raises FitError."""
        if self.failure:
            raise self.failure
        result = None if is_pruned else self._result(returned, name)
        if result and (self._best is None or len(result) > 1):
            self._take(self._last_step + 1, result)
        if self._best is None and is_pruned:
            raise self._fail("exception", f"{name} ended as pruned before it reported {self._job.metric}")
        if self._best is None:
            told = ", ".join(sorted(self._names)) or "nothing"
            raise self._fail(
                "missing_metric", f"{self._job.metric} was neither reported nor returned; reported: {told}"
            )
        value, best_step = self._best
        device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")  # type: ignore[no-untyped-call]
        outcome = Outcome(
            value=result[self._job.metric] if result else value,
            best_epoch=best_step,
            epochs=self._reports,
            seconds=time.monotonic() - self._started - self._waited_seconds,
            peak_memory_bytes=peak_memory_bytes(device),
            checkpoint=None,
            pruned=is_pruned or self._is_pruned,
        )
        return with_further_values(outcome, self._job, {**self._of_best, **(result or {})})

    def _result(self, returned: Any, name: str) -> dict[str, float] | None:
        """The returned numbers by their names, the metric among them; None where nothing was returned."""
        metric = self._job.metric
        if returned is None:
            return None
        if not isinstance(returned, Mapping):
            returned = {metric: returned}
        if metric not in returned:
            raise self._fail(
                "missing_metric", f"{name} returned {', '.join(map(str, returned)) or 'nothing'}, no {metric}"
            )
        try:
            result = {str(key): _number(value, str(key)) for key, value in returned.items()}
        except TypeError as error:
            reason = f"{name} returned {error}; return a number, a mapping of numbers with {metric!r}, or nothing"
            raise self._fail("exception", reason) from error
        if not math.isfinite(result[metric]):
            raise self._fail("nan", f"{name} returned {metric} = {result[metric]}")
        return result

    def _take(self, step: int, numbers: dict[str, float]) -> None:
        self._last_step, self._reports = step, self._reports + 1
        self._names.update(numbers)
        value = numbers.get(self._job.metric)
        if value is not None:
            if not math.isfinite(value):
                raise self._fail("nan", f"{self._job.metric} is {value} in step {step}")
            sign = 1 if self._job.direction == "minimize" else -1
            if self._best is None or sign * value < sign * self._best[0]:
                self._best, self._of_best = (value, step), numbers
        asked = time.monotonic()
        self._is_pruned |= self._tell(epoch=step, value=value, metrics=numbers)
        self._waited_seconds += time.monotonic() - asked

    def _fail(self, kind: FailureKind, reason: str) -> FitError:
        self.failure = FitError(kind, reason)
        return self.failure


def _number(value: Any, name: str) -> float:
    """A Python, NumPy or torch number as a float. Raises TypeError."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} = {value!r}, which is no number") from error


def _takes_report(function: Callable[..., Any], path: str) -> bool:
    """Whether it takes `report` beside `config`. Raises ModelImportError where it takes neither one nor two."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built in
        return True
    for arguments in (2, 1):
        try:
            signature.bind(*range(arguments))
        except TypeError:
            continue
        return arguments == 2
    raise ModelImportError(f"function {path!r} takes {signature}; it is called as `train(config, report)`")


def _means_pruned(error: BaseException) -> bool:
    """Whether it is ours, or Optuna's where the function uses that."""
    optuna = sys.modules.get("optuna")
    return isinstance(error, TrialPruned) or (optuna is not None and isinstance(error, optuna.TrialPruned))


def _show_only(devices: int | list[int]) -> None:
    """Let the function, and processes that it starts, see only the GPUs of its trial."""
    if isinstance(devices, list):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        known = seen.split(",") if seen else []
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(known[device] if known else str(device) for device in devices)
