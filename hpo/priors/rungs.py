r"""At which steps are trials compared, and which share of them goes on? From how past tasks' curves kept their order.

Successive halving compares the trials of a study at a few steps, the rungs, and lets the best share go on (Li et al., A
System for Massively Parallel Hyperparameter Tuning, MLSys 2020). Here past tasks say which share. Let $p_{t,r}$ be the
share of a past task's trials that were better at rung r than the one that ended best. A trial goes on where fewer than
$q_r$ of all trials were better there, $q_r$ the $(1 - \epsilon)$ quantile of $p_{t,r}$: so a rung at which the order
means nothing yet stops nobody. Trials that were stopped before count as worse. $\epsilon$ is the largest with which at
most the promised rate of past tasks, halved again in random orders by what the others say, lose their best trial;
where even $\epsilon = 0$ loses more, something is added to the shares until it does not.

A study's first trials have few to be compared with, so past tasks' values at a rung stand in for a few more: a trial
is as far behind as three of four past tasks agree that it is; where scales differ they do not agree, and nobody is.

History that misleads does bounded harm: no share is smaller than halving at every rung would have it, own trials
outnumber the past's soon, some trials go to their end whatever they look like, and no trial is stopped that is not
farther behind than this study's own best was.

Notation: n trials in their order, r rungs, t tasks. Losses: smaller is better; what is no number is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array, Mask
from hpo.priors.curves import Curve, End, is_probe
from hpo.priors.foresight import LEAST_ENDED, PastCurves

FACTOR = 2  # between the places of two rungs
LATEST = 0.8  # of the longest curve: later a stop saves too little
USELESS = 0.9  # share that goes on, from which a rung is left out
STAND_INS = 4.0  # trials that the past counts for at a rung (heuristic)
AGREED = 0.25  # quantile over past tasks of how far behind a trial is
SLIPS = (0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.0)  # epsilon, from the boldest on ...
MARGINS = (0.05, 0.1, 0.15, 0.2, 0.3)  # ... and what is added to the shares where even none is too bold
ORDERS = 3  # in which a past task is halved again
PARTS = 8  # of a past task, each half of its trials, of which the best is followed
CAUTION = 0.25  # tasks that lose their best trial, beside those that were seen to: with few tasks more is at stake


@dataclass(frozen=True, kw_only=True, eq=False)
class Rungs:
    """What past tasks teach of halving."""

    steps: Array  # (r,) ascending
    shares: Array  # (r,) of all trials that may be better at a rung, below it
    past: Sequence[Sequence[Array]]  # per task and rung the losses there, ascending
    names: Sequence[str]  # of the past tasks
    estimated_rate: float  # of studies that lose their best trial

    def behind(self, rung: int, loss: float) -> float:
        """The share of past trials that were better at a rung, as most past tasks agree."""
        return float(_behind([task[rung] for task in self.past], np.array([loss]))[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """How a trial stands at a rung."""

    better: float  # share of all trials, the past's stand-ins included
    allowed: float  # share that may be better
    trials: int  # of this study that it was compared with

    @property
    def is_lost(self) -> bool:
        """Whether too many are better for the trial to go on."""
        return self.better > 0.0 and self.better >= self.allowed


def compare(rungs: Rungs, rung: int, loss: float, others: Array, best: float | None) -> Comparison:
    """How a loss at a rung stands against the other trials' (n,) there, those stopped before with an infinite loss.

    best: the loss at this rung of the trial that has ended best so far; None where none has ended.
    """
    return _compare(rungs.shares[rung], rungs.behind(rung, loss), loss, others, best)


def at_rungs(curve: Curve, steps: Array, end: End) -> Array:
    """What a curve had to show when it came to each rung: shape (r,); NaN where it has not come there yet."""
    losses = np.where(np.isfinite(curve.losses), curve.losses, np.inf)
    shown = np.minimum.accumulate(losses) if end == "best" else losses
    places = np.searchsorted(curve.steps, steps)
    known = np.append(shown, shown[-1] if curve.is_ended else np.nan)
    return np.asarray(known[places])


def learn_rungs(past: Sequence[PastCurves], end: End, *, false_prunes: float) -> Rungs | None:
    """What past tasks teach; None where none has curves enough. Where it is never safe to stop, there are no rungs.

    false_prunes: the promised rate of studies that lose their best trial.
    """
    tasks = [task for task in past if task.ended >= LEAST_ENDED]
    if not tasks:
        return None
    steps = _candidate_steps(tasks)
    halved = [_Halved.of(task, steps, end) for task in tasks]
    overtaken = [task.overtaken(np.random.default_rng(0)) for task in halved]
    sorted_losses = [np.sort(task.losses, axis=0).T for task in halved]
    behind = [
        _behind_others(halved[t].losses, [*sorted_losses[:t], *sorted_losses[t + 1 :]]) for t in range(len(tasks))
    ]
    shares, rate = np.ones(len(steps)), 0.0
    for slip, margin in [*((slip, 0.0) for slip in SLIPS), *((0.0, margin) for margin in MARGINS)]:
        lost = [
            halved[t].lost(_shares(_without(overtaken, t), slip, margin), behind[t], np.random.default_rng(t))
            for t in range(len(tasks))
        ]
        seen = float(np.sum(lost))
        rate = (seen + CAUTION) / (len(lost) + 1.0)
        if rate <= false_prunes or (slip == 0.0 and not seen):  # few tasks cannot show more than that
            shares = _shares(overtaken, slip, margin)
            break
    kept = np.flatnonzero(shares < 1.0)
    return Rungs(
        steps=steps[kept],
        shares=shares[kept],
        past=[list(task[kept]) for task in sorted_losses],
        names=[task.name for task in tasks],
        estimated_rate=rate,
    )


def _candidate_steps(tasks: Sequence[PastCurves]) -> Array:
    """Those of the 1st, 2nd, 4th, 8th, ... report of the longest curve."""
    longest = max(
        (curve for task in tasks for curve in task.curves if curve.is_ended), key=lambda each: len(each.steps)
    )
    count = max(1, int(np.ceil(np.log(max(LATEST * len(longest.steps), 1.0)) / np.log(FACTOR))))
    return np.asarray(longest.steps[FACTOR ** np.arange(count) - 1])


def _shares(overtaken: Sequence[Array], slip: float, margin: float) -> Array:
    """Which share may be better at each rung, shape (r,); 1 where that would stop hardly anybody."""
    every = np.concatenate(overtaken)
    quantiles = np.quantile(every, 1.0 - slip, axis=0, method="higher")
    floor = 0.5 ** np.arange(1, every.shape[1] + 1)
    shares = np.maximum(quantiles + margin + 1.0 / PARTS**2, floor)
    return np.where(shares > USELESS, 1.0, shares)


def _without(overtaken: Sequence[Array], task: int) -> Sequence[Array]:
    """All but one, where there are others."""
    return [*overtaken[:task], *overtaken[task + 1 :]] or overtaken


def _behind(past: Sequence[Array], losses: Array) -> Array:
    """The share of past losses that are less than each of the losses (n,), as most tasks agree: shape (n,)."""
    if not past:
        return np.zeros(len(losses))
    shares = [np.searchsorted(task, losses, side="left") / len(task) for task in past]
    return np.asarray(np.quantile(shares, AGREED, axis=0))


def _behind_others(losses: Array, past: Sequence[Array]) -> Array:
    """The same at each rung, for losses (n, r)."""
    columns = [_behind([task[rung] for task in past], losses[:, rung]) for rung in range(losses.shape[1])]
    return np.stack(columns, axis=1)


def _compare(share: float, behind: float, loss: float, others: Array, best: float | None) -> Comparison:
    n = len(others)
    better = (float((others < loss).sum()) + STAND_INS * behind) / (n + STAND_INS)
    if best is not None:  # this study's own best was behind as well
        share = max(share, float((others < best).mean()) + 1e-9) if n else share
    return Comparison(better=better, allowed=share, trials=n)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Halved:
    """A past task whose trials went to their end, as it is halved again."""

    losses: Array  # (n, r) at the rungs
    comes: Mask  # (n, r) whether there was something left to be saved then
    ends: Array  # (n,)

    @classmethod
    def of(cls, task: PastCurves, steps: Array, end: End) -> _Halved:
        ended = [curve for curve in task.curves if curve.is_ended]
        return cls(
            losses=np.array([at_rungs(curve, steps, end) for curve in ended]),
            comes=np.array([curve.steps[-1] > steps for curve in ended]),
            ends=np.array([curve.end(end) for curve in ended]),
        )

    def overtaken(self, rng: np.random.Generator) -> Array:
        """Which share was better at each rung than the trial that ended best, in parts of the task: shape (p, r)."""
        n = len(self.ends)
        parts = [np.arange(n), *(rng.permutation(n)[: max(LEAST_ENDED, n // 2)] for _ in range(PARTS - 1))]
        return np.array(
            [(self.losses[rows] < self.losses[rows[np.argmin(self.ends[rows])]]).mean(axis=0) for rows in parts]
        )

    def lost(self, shares: Array, behind: Array, rng: np.random.Generator) -> float:
        """In which share of random orders the best trial is stopped."""
        orders = [rng.permutation(len(self.ends)) for _ in range(ORDERS)]
        return float(np.mean([self._loses_its_best(shares, behind, order) for order in orders]))

    def _loses_its_best(self, shares: Array, behind: Array, order: NDArray[np.intp]) -> bool:
        losses, comes, ends = self.losses[order].copy(), self.comes[order], self.ends[order]
        leader: int | None = None
        last = int(np.argmin(ends))
        for number in range(last + 1):
            stopped = False
            for rung in np.flatnonzero(comes[number] & (shares < 1.0)) if not is_probe(number) else ():
                others = losses[:number, rung]
                best = None if leader is None else float(losses[leader, rung])
                loss = float(losses[number, rung])
                if _compare(shares[rung], behind[order[number], rung], loss, others, best).is_lost:
                    losses[number, rung + 1 :] = np.inf
                    stopped = True
                    break
            if stopped and number == last:
                return True
            if not stopped and (leader is None or ends[number] < ends[leader]):
                leader = number
        return False
