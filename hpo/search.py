"""Where is an acquisition largest, among the points nobody has tried?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpo.arrays import Array, Mask
from hpo.encoding import Encoding

SMALL_SPACE = 4096  # a space of fewer points is looked at completely
CANDIDATES = 1024  # uniform points in a larger one
NEIGHBOURS = 64  # of each point that is looked around
CLOSE_RADII = (0.3, 0.1, 0.03)  # around the anchors, in units of a range
RADII = (0.1, 0.03, 0.01, 0.003)  # of the local refinement, in units of a range
KEPT = 5  # points that are refined
EQUAL_DIGITS = 9  # coordinates closer than this are the same


def maximise(
    acquisition: Callable[[Array], Array],
    encoding: Encoding,
    tried: Array,
    anchors: Array,
    rng: np.random.Generator,
    *,
    near: bool = False,
) -> Array:
    """The untried point (d,) of the largest acquisition: a wide look first, then closer and closer around the best.

    acquisition: scores (m,) of points (m, d). tried: (n, d), never returned while something else is left.
    anchors: (a, d), good points whose neighbourhood is worth a look. near: look nowhere else. In more than a few
    dimensions nearly all of a space is far from everything known, and a model's doubt there outweighs what it expects
    close by: changing a few parameters of a good point at a time is what makes such a search converge (Papenmeier et
    al., Understanding High-Dimensional Bayesian Optimization, ICML 2025).
    """
    if encoding.size <= SMALL_SPACE:
        best: Array = _best(_preferably_untried(encoding.every_point(), tried), acquisition, 1)[0]
        return best
    wide = anchors if near else encoding.uniform(rng.random((CANDIDATES, len(encoding.names))))
    close = [neighbours(anchors, radius, encoding, rng) for radius in CLOSE_RADII]
    kept = _best(_preferably_untried(np.vstack([wide, *close]), tried), acquisition, KEPT)
    for radius in RADII:
        around = neighbours(kept, radius, encoding, rng)
        kept = _best(np.vstack([kept, around[untried(around, tried)]]), acquisition, KEPT)
    found: Array = kept[0]
    return found


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
    known = {row.tobytes() for row in _rounded(tried)}
    return np.array([row.tobytes() not in known for row in _rounded(points)], dtype=bool)


def _preferably_untried(points: Array, tried: Array) -> Array:
    new = untried(points, tried)
    return points[new] if new.any() else points


def _rounded(points: Array) -> Array:
    rounded: Array = np.ascontiguousarray(np.round(points, EQUAL_DIGITS) + 0.0)  # no negative zero
    return rounded


def _best(points: Array, acquisition: Callable[[Array], Array], count: int) -> Array:
    return points[np.argsort(-acquisition(points), kind="stable")[:count]]
