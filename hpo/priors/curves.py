"""What does a curve look like at this point, against those of the same study that went to their end?

Everything is a loss. Notation: k reports of a curve, r reports that are looked at, c reference curves.
All that is looked at is a ratio of differences of losses, so no increasing affine change of the metric matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array, Mask

End: TypeAlias = Literal["last", "best"]  # which of its reports a trial's value is

START_UPS = 4  # curves that went to their end before anything is said; they set the scale (heuristic)
FIRST_PROBE = 8  # th trial; then the 16th, 32nd, ... (heuristic)
LEADERS = 3  # of the reference curves: those that ended best
FARTHEST = 1e3  # scales; losses farther off, and those that are no numbers, are as good as there
STRETCH = 10.0  # of the signed logarithm, and for the roughness of curves 10 times as much (heuristic)
LEAST_SCALE = 1e-3  # of what was gained since the first report (heuristic)
HUNDRED = (30.0, 300.0)  # times: percentages against fractions, whose usual values differ (heuristic)
FEWEST_ON_A_SIDE = 2  # trials before and after a change of the metric's meaning (heuristic)
UNEVEN = 2.0  # times as long
VANISHING = 1e-12  # relative to the losses: less is rounding

FEATURES = {  # by name: how the probability to end better may change with it: 1 up, -1 down, 0 either way
    "time": 0,  # share of the horizon
    "trials": 0,  # log of how many are finished
    "gap": -1,  # to where the incumbent ended
    "gap at this time": -1,  # to the incumbent, now
    "gap of the best": -1,  # of the best report so far to where the incumbent ended
    "gain, last half": 0,
    "gain, last fifth": 0,
    "incumbent's gain to come": 0,
    "incumbent's gain, last half": 0,
    "leaders beaten": 1,  # share of the leaders whose best report by now was no better
    "largest gain to come": 0,  # of the reference curves from now to their end
    "usual gain to come": 0,
    "roughness": 0,  # mean second difference of the curve so far
    "incumbent's roughness": 0,
    "deficit made good": 1,  # the largest at this time of a reference curve that ended better than the other
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The reports of one trial."""

    steps: Array  # (k,) increasing
    losses: Array  # (k,) NaN and infinite ones included
    is_ended: bool  # else it was stopped early, or still runs

    def end(self, end: End) -> float:
        """The loss that it ended with; infinite where that is no number."""
        finite = self.losses[np.isfinite(self.losses)]
        last = float(self.losses[-1]) if len(self.losses) else np.inf
        if end == "best":
            return float(finite.min()) if len(finite) else np.inf
        return last if np.isfinite(last) else np.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """What a study has seen so far of curves that went to their end. Made by `standing`."""

    references: Sequence[Curve]  # c: the first ones, and those that were the best when they ended; the best first
    ends: Array  # (c,) what they ended with, ascending
    scale: float  # > 0: how far the usual first one ended from the incumbent
    origin: float  # one step before the first report
    horizon: float  # the last step

    @property
    def is_uneven(self) -> bool:
        """Whether some curves went on for more than twice as long as others: a step is not the same share of each."""
        lengths = [float(curve.steps[-1]) - self.origin for curve in self.references]
        return max(lengths) > UNEVEN * min(lengths)

    @property
    def incumbent(self) -> float:
        """The best loss that a curve ended with."""
        return float(self.ends[0])

    def features(self, curve: Curve, at: NDArray[np.intp], finished: int) -> Array:
        """What a running curve looks like at some of its reports: (r, d) in the order of `FEATURES`.

        at: (r,) indices of reports, each seen with what went before it alone. finished: trials, whatever became of
        them.
        """
        steps = curve.steps[at]
        own = self.capped(curve.losses)
        best = np.minimum.accumulate(own)
        elapsed = steps - self.origin
        now, then = own[at], self._referred(steps)
        before = self._referred(self.origin + 0.5 * elapsed)
        lowest = self._lowest(steps)
        gains = lowest - self.ends[:, None]
        half = own[_last_by(curve.steps, self.origin + 0.5 * elapsed)]
        fifth = own[_last_by(curve.steps, self.origin + 0.8 * elapsed)]
        columns = (
            elapsed / (self.horizon - self.origin),
            np.full(len(at), np.log(finished)),
            self._shown(now - self.incumbent),
            self._shown(now - then[0]),
            self._shown(best[at] - self.incumbent),
            self._shown(half - now),
            self._shown(fifth - now),
            self._shown(then[0] - self.incumbent),
            self._shown(before[0] - then[0]),
            (best[at] <= lowest[:LEADERS]).mean(axis=0),
            self._shown(gains.max(axis=0)),
            self._shown(np.median(gains, axis=0)),
            self._shown(_roughness(own)[at], STRETCH),
            np.full(len(at), self._incumbents_roughness),
            self._shown(_deficit_made_good(then)),
        )
        return np.stack(columns, axis=1)

    def may_still_win(self, curve: Curve, at: NDArray[np.intp]) -> Mask:
        """Whether a curve is no farther behind the incumbent than this study has seen made good: shape (r,).

        A deficit at some time has been made good if of two reference curves the one that was behind by so much then
        ended better. Such a curve is not stopped, whatever other studies were like.
        """
        then = self._referred(curve.steps[at])
        behind = self.capped(curve.losses)[at] - then[0]
        return np.asarray(behind <= _deficit_made_good(then), dtype=bool)

    def gains(self, curve: Curve, at: NDArray[np.intp], end: float) -> Array:
        """What a curve that ended with that loss gained from some of its reports on, in scales: shape (r,)."""
        gains: Array = (self.capped(curve.losses)[at] - self.capped(np.array([end]))) / self.scale
        return gains

    def capped(self, losses: Array) -> Array:
        """Losses, the worst of them as bad as can be told here: any shape."""
        worst = self.incumbent + FARTHEST * self.scale
        capped: Array = np.minimum(np.where(np.isfinite(losses), losses, worst), worst)
        return capped

    def _shown(self, losses: Array, stretch: float = 1.0) -> Array:
        """Differences of losses in scales, with a signed logarithm."""
        scaled = np.clip(losses / self.scale, -FARTHEST, FARTHEST)
        shown: Array = np.sign(scaled) * np.log1p(STRETCH * stretch * np.abs(scaled))
        return shown

    def _referred(self, steps: Array) -> Array:
        """The losses of the reference curves at steps (r,), as last reported by then: shape (c, r)."""
        return np.array([losses[_last_by(known, steps)] for known, losses, _ in self._references])

    def _lowest(self, steps: Array) -> Array:
        """Their best losses by then, shape (c, r)."""
        return np.array([lowest[_last_by(known, steps)] for known, _, lowest in self._references])

    @cached_property
    def _references(self) -> list[tuple[Array, Array, Array]]:
        """Steps, losses and the best losses so far of each."""
        capped = [self.capped(each.losses) for each in self.references]
        return [
            (each.steps, losses, np.minimum.accumulate(losses))
            for each, losses in zip(self.references, capped, strict=True)
        ]

    @cached_property
    def _incumbents_roughness(self) -> float:
        _, losses, _ = self._references[0]
        return float(self._shown(_roughness(losses)[-1:], STRETCH)[0])


def standing(curves: Sequence[Curve], end: End) -> Standing | None:
    """How a study stands whose `curves` went to their end, in the order of its trials; None where that says too little.

    It takes four curves of more than one report, not all with the same end.
    """
    if len(curves) < START_UPS:
        return None
    ends = np.array([curve.end(end) for curve in curves])
    record = np.r_[True, ends[1:] < np.minimum.accumulate(ends)[:-1]]
    record[:START_UPS] = True
    kept = np.flatnonzero(record)
    order = kept[np.argsort(ends[kept], kind="stable")]
    incumbent = float(ends[order[0]])
    scale = _scale(curves[:START_UPS], ends[:START_UPS], incumbent)
    starts = [float(curve.steps[0]) for curve in curves[:START_UPS]]
    spacings = [float(np.median(np.diff(curve.steps))) for curve in curves[:START_UPS] if len(curve.steps) > 1]
    if scale is None or not spacings:
        return None
    return Standing(
        references=[curves[place] for place in order],
        ends=np.minimum(ends[order], incumbent + FARTHEST * scale),
        scale=scale,
        origin=min(starts) - float(np.median(spacings)),
        horizon=max(float(curves[place].steps[-1]) for place in order),
    )


def is_probe(number: int) -> bool:
    """Whether the trial of that number goes to its end whatever it looks like: trials 7, 15, 31, 63 and so on.

    What is always stopped is never seen to make good; these let a study see for itself, at a cost that fades.
    """
    return number + 1 >= FIRST_PROBE and (number + 1) & number == 0


def end_of(values: Array, curves: Sequence[Curve]) -> End | None:
    """Which report the values (n,) of ended trials are, as losses: the last or the best; None where most are neither.

    Where both are the same throughout it is the last.
    """
    if not len(values):
        return None
    agreed = {
        end: np.mean([_is_close(value, curve.end(end)) for value, curve in zip(values, curves, strict=True)])
        for end in _ENDS
    }
    likeliest = max(_ENDS, key=lambda end: agreed[end])  # the first of equals
    return likeliest if agreed[likeliest] > 0.5 else None


def changes_its_meaning(curves: Sequence[Curve]) -> bool:
    """Whether fractions become percentages or the reverse, from one trial on or within most curves.

    curves: in the order of their trials.
    """
    finite = [np.abs(curve.losses[np.isfinite(curve.losses)]) for curve in curves]
    told = [sizes for sizes in finite if len(sizes)]
    if len(told) < START_UPS:
        return False
    if np.mean([_turns_into_percent(sizes) for sizes in told]) > 0.5:
        return True
    usual = np.array([float(np.median(sizes)) for sizes in told])
    places = range(FEWEST_ON_A_SIDE, len(usual) - FEWEST_ON_A_SIDE + 1)
    return any(_are_fractions_and_percent(usual[:place], usual[place:]) for place in places)


_ENDS: tuple[End, ...] = ("last", "best")


def _is_close(value: float, end: float) -> bool:
    return bool(np.isclose(value, end, rtol=1e-6, atol=0.0))


def _turns_into_percent(sizes: Array) -> bool:
    places = range(1, len(sizes))
    return any(sizes[place] > 1.0 and _are_fractions_and_percent(sizes[:place], sizes[place:]) for place in places)


def _are_fractions_and_percent(one: Array, other: Array) -> bool:
    """Whether all of one are fractions and all of the other about a hundred times as large."""
    small, large = sorted((one, other), key=np.median)
    ratio = float(np.median(large)) / max(float(np.median(small)), VANISHING)
    low, high = HUNDRED
    return bool(small.max() <= 1.0 < large.min() and large.max() <= 100.0 and low <= ratio <= high)


def _scale(start_ups: Sequence[Curve], ends: Array, incumbent: float) -> float | None:
    """The usual distance of the first ends from the incumbent's; None where there is none."""
    if not np.isfinite(incumbent):
        return None
    usual = float(np.median(ends))
    firsts = [float(curve.losses[0]) for curve in start_ups if np.isfinite(curve.losses[0])]
    gained = abs(float(np.median(firsts)) - incumbent) if firsts else 0.0
    finite = ends[np.isfinite(ends)]
    distance = (usual if np.isfinite(usual) else float(finite.max(initial=incumbent))) - incumbent
    scale = max(distance, LEAST_SCALE * gained)
    better = finite[finite <= usual]  # a diverged end says nothing of what is rounding
    size = float(np.abs(better).max(initial=abs(incumbent)))
    return scale if np.isfinite(scale) and scale > VANISHING * size else None


def _last_by(steps: Array, when: Array) -> NDArray[np.intp]:
    """The index of the last report by then, or of the first: shape of `when`."""
    return np.maximum(np.searchsorted(steps, when * (1.0 + 1e-12) + 1e-12, side="right") - 1, 0)


def _roughness(losses: Array) -> Array:
    """The mean absolute second difference up to each report, 0 before the third: shape (k,)."""
    rough = np.zeros(len(losses))
    if len(losses) > 2:
        rough[2:] = np.cumsum(np.abs(np.diff(losses, 2))) / np.arange(1, len(losses) - 1)
    return rough


def _deficit_made_good(losses: Array) -> Array:
    """The farthest that a curve was behind one that ended worse: shape (r,), of (c, r), those that ended best first."""
    if len(losses) < 2:
        return np.zeros(losses.shape[1])
    lowest_of_worse = np.minimum.accumulate(losses[:0:-1], axis=0)[::-1]
    deficits: Array = np.maximum((losses[:-1] - lowest_of_worse).max(axis=0), 0.0)
    return deficits
