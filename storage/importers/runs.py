"""What a past run is, wherever it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

Curve = Sequence[tuple[int, float]]
"""Steps and values of the metric along the training; NaN where it was none."""


@dataclass(frozen=True, kw_only=True)
class PastTask:
    """What a group of runs was about: they become one study."""

    name: str  # of the task
    study: str  # the name its study gets; the same at every import
    metric: str
    direction: str  # minimize or maximize
    space: Mapping[str, Mapping[str, Any]]  # in the words of a study file
    created_at: float | None = None  # seconds since the epoch; None: now
    provenance: Mapping[str, Any] = field(default_factory=dict)
    user_attrs: Mapping[str, Any] = field(default_factory=dict)  # of the study


@dataclass(kw_only=True, slots=True)
class PastRun:
    """One run. Times are seconds since the epoch."""

    key: str  # what it is called where it comes from: the same at every import
    params: Mapping[str, Any]  # active parameters only, all of them in the task's space
    value: float | None  # of the metric; None: it failed
    state: TrialState = TrialState.COMPLETE  # COMPLETE, PRUNED or FAIL
    curve: Curve = ()
    started_at: float | None = None
    finished_at: float | None = None
    cost_seconds: float | None = None
    epochs: int | None = None
    seed: int | None = None
    code_version: str | None = None
    data_fingerprint: str | None = None
    hardware: str | None = None
    checkpoint: str | None = None
    error: str | None = None
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None  # what a person calls it, for the report; None: by its key


@dataclass(frozen=True, kw_only=True, eq=False)
class RunColumns:
    """Many runs of one task as columns: the fast way in."""

    keys: Sequence[str]  # n
    names: tuple[str, ...]  # d parameters, all of them in the task's space
    internal: NDArray[np.float64]  # (n, d) Optuna's internal values (a choice is its index); NaN where inactive
    values: NDArray[np.float64]  # (n,); NaN: the run failed
    states: NDArray[np.int64] | None = None  # (n,) of optuna.trial.TrialState; None: COMPLETE, or FAIL without a value
    started_at: NDArray[np.float64] | None = None  # (n,) NaN where unknown, like the following
    finished_at: NDArray[np.float64] | None = None
    cost_seconds: NDArray[np.float64] | None = None
    epochs: NDArray[np.float64] | None = None
    seeds: Sequence[int | None] | None = None  # n; integers, of which doubles cannot hold all
    curves: Mapping[int, Curve] | None = None  # by row
    user_attrs: Mapping[int, Mapping[str, Any]] | None = None  # by row
    errors: Mapping[int, str] | None = None  # by row
    code_versions: Mapping[int, str] | None = None  # by row, like the following
    data_fingerprints: Mapping[int, str] | None = None
    hardware: Mapping[int, str] | None = None
    checkpoints: Mapping[int, str] | None = None
    labels: Sequence[str] | None = None  # n; what a report calls them; None: by their keys
