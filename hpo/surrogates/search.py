"""Where is a score largest, among the points nobody has tried?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpo.arrays import Array, Mask, keys
from hpo.spaces.encoding import Encoding

SMALL_SPACE = 4096  # a space of fewer points is looked at completely
CANDIDATES = 1024  # uniform points in a larger one
NEIGHBOURS = 32  # of each point that is looked around
CLOSE_RADII = (0.3, 0.1, 0.03)  # around the anchors, in units of a range
RADII = (0.1, 0.03, 0.01, 0.003)  # of the local refinement, in units of a range
KEPT = 3  # points that are refined


def best_listed(score: Callable[[Array], Array], points: Array, tried: Array, *, after: int = 0) -> Array:
    """The best of the points (m, d) after so many others; one that was tried (n, d) only where there is no other."""
    best = _best(_preferably_untried(points, tried), score, after + 1)
    last: Array = best[-1]
    return last


def maximise(
    score: Callable[[Array], Array], starts: Array, encoding: Encoding, tried: Array, rng: np.random.Generator
) -> Array:
    """The untried point (d,) of the largest score: the best of the starts (m, d), then closer and closer around them.

    score: (m,) of points (m, d). tried: (n, d), never returned while something else is left.
    """
    kept = _best(_preferably_untried(starts, tried), score, KEPT)
    for radius in RADII:
        nearby = neighbours(kept, radius, encoding, rng)
        kept = _best(np.vstack([kept, nearby[untried(nearby, tried)]]), score, KEPT)
    found: Array = kept[0]
    return found


def around(anchors: Array, encoding: Encoding, rng: np.random.Generator) -> Array:
    """The anchors (a, d), and points far and near around each."""
    return np.vstack([anchors, *(neighbours(anchors, radius, encoding, rng) for radius in CLOSE_RADII)])


def neighbours(points: Array, radius: float, encoding: Encoding, rng: np.random.Generator) -> Array:
    """For each of the points (a, d) some that differ in a few parameters: numbers by about `radius`, choices freely."""
    copies = np.repeat(points, NEIGHBOURS, axis=0)
    a, d = copies.shape
    changed = rng.random((a, d)) < max(0.3, 1.0 / d)
    changed[np.arange(a), rng.integers(d, size=a)] = True
    anywhere, nearby = encoding.uniform(rng.random((a, d))), copies + rng.normal(0.0, radius, (a, d))
    moved = np.where(encoding.categorical, anywhere, nearby)
    woken = np.where(encoding.active(copies), copies, anywhere)  # in case a changed parent makes it matter
    return encoding.project(np.where(changed, moved, woken))


def untried(points: Array, tried: Array) -> Mask:
    """Which of the points (m, d) are not among those tried (n, d): shape (m,)."""
    known = set(keys(tried))
    return np.array([key not in known for key in keys(points)], dtype=bool)


def _preferably_untried(points: Array, tried: Array) -> Array:
    new = untried(points, tried)
    return points[new] if new.any() else points


def _best(points: Array, score: Callable[[Array], Array], count: int) -> Array:
    return points[np.argsort(-score(points), kind="stable")[:count]]
