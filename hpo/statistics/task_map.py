r"""Which tasks resemble which? A map on which tasks whose response surfaces rise and fall together lie side by side.

Two tasks resemble each other as their surfaces correlate over the search space, whatever their scales. Unit vectors
with correlation $r$ are $\sqrt{2 (1 - r)}$ apart; classical multidimensional scaling puts them into the plane that
keeps most of the squares of these distances (Torgerson, Multidimensional scaling, Psychometrika 1952).

Notation: t tasks, m points of a design of the space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array

FLAT = 1e-9  # a surface that varies less over the space, against the others, rises and falls with nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskMap:
    """Where tasks lie, of those whose surfaces are not flat."""

    tasks: NDArray[np.intp]  # (k,) which of the t tasks
    places: Array  # (k, 2)
    correlations: Array  # (k, k) of the surfaces
    kept: float  # share of the squares of the distances that the map shows


def task_map(surfaces: Array) -> TaskMap:
    """The map of tasks with surfaces (t, m). The sign of an axis is that of its farthest task: always the same."""
    centred = surfaces - surfaces.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    tasks = np.flatnonzero(lengths > FLAT * lengths.max(initial=0.0))
    units = centred[tasks] / lengths[tasks, None]
    correlations = np.clip(units @ units.T, -1.0, 1.0)
    about = units - units.mean(0) if len(units) else units
    left, scales, _ = np.linalg.svd(about, full_matrices=False)
    places = np.zeros((len(tasks), 2))
    axes = min(2, len(scales))
    places[:, :axes] = left[:, :axes] * scales[:axes]
    for axis in range(axes):
        places[:, axis] *= np.sign(places[np.abs(places[:, axis]).argmax(), axis]) or 1.0
    total = float((scales**2).sum())
    kept = float((scales[:2] ** 2).sum()) / total if total > FLAT else 1.0
    return TaskMap(tasks=tasks, places=places, correlations=correlations, kept=kept)
