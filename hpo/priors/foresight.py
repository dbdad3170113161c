r"""How probable is it that a running curve ends better than the incumbent, and from where on is it too improbable?

*Chances.* A classifier (gradient boosted trees, monotone in what can only speak for or against a curve) learns from
past tasks, and from generated ones, which curves ended better than the incumbent of their time. The trials of a task
are replayed in random orders; what a curve looks like is in `hpo.priors.curves`. Curves that were stopped early have no
end, so they teach nothing here.

*The rule.* After $n$ finished trials, one of which nothing is known has the chance $1 / (n + 1)$ to be better than all
of them. A curve whose chance is below a share $\lambda$ of that is stopped. Of $N$ trials, one that is better than all
before it is the best of all with probability $(n + 1) / N$; so each stop costs at most $\lambda / N$, and were the
chances right, at most $\lambda$ of all studies would lose their best trial, however many trials they have.

*The promise.* A study's pruning is false if it stops a trial that would have ended better than everything the study is
left with: if, in short, the study loses its best trial, which it does iff the least share on that trial's way was below
$\lambda$. Let $L_t(\lambda)$ be the rate at which the orders of past task $t$, looked at by a classifier that has not
learned from it, lose their best trial, and $L_g(\lambda)$ the same for generated tasks. The share is the largest whose
estimated rate is kept:

$$\hat r(\lambda) = \tfrac{1}{T + w} (\sum_t L_t(\lambda) + w L_g(\lambda) / c) \le \alpha.$$

Generated tasks stand in like $w$ past ones, and as they are not the user's own, their loss counts $1 / c$ times. What
holds for any new task that is exchangeable with the past ones is $r \le \tfrac{1}{T + 1} (\sum_t L_t(\lambda) + 1)$:
Angelopoulos et al., Conformal Risk Control, ICLR 2024, theorem 1; it is told beside the estimate.

A past trial that was itself stopped early might have been its study's best: it counts as lost with that chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from hpo.arrays import Array, Mask
from hpo.one_thread import one_openmp_thread
from hpo.priors.curves import FEATURES, START_UPS, Curve, End, Standing, is_probe, standing
from hpo.priors.generated_curves import generated_losses

LEAST_ENDED = 2 * START_UPS  # curves of a past task that can teach (heuristic)
GENERATED_TASKS = 100  # each replayed once
GENERATED_TRIALS = 50
GENERATED_LOSSES = (  # rate at which further ones lose their best trial, by share (tests.benchmarks.decisions.pruning)
    *((0.0162, 0.0003), (0.023, 0.0015), (0.0326, 0.0037), (0.0461, 0.0095), (0.0653, 0.017), (0.0926, 0.026)),
    *((0.1311, 0.0405), (0.1857, 0.0645), (0.2631, 0.096), (0.3728, 0.1415), (0.5, 0.181)),
)
STAND_IN = 4.0  # past tasks that generated ones count like (heuristic)
CAUTION = 0.5  # of generated tasks: share of the rate that would be spent on them alone (heuristic)
REPLAYS = 144  # of all past tasks together ...
REPLAYS_OF_A_TASK = (2, 12)  # ... within these bounds for each
REPORTS = 7  # of a curve that are learned from
FOLDS = 2
UNEVEN_CARE = 0.25  # of the share where curves differ in length: the long ones, behind at first, end better (measured)
SHARES = np.geomspace(1e-3, 0.5, 120)  # of the chance that any trial has
NEIGHBOURS = 100
NEIGHBOURHOOD = ("time", "gap", "gap at this time", "gap of the best", "gain, last half")
MOST_NEIGHBOURS = 30_000  # rows to look for them among


@dataclass(frozen=True, kw_only=True, eq=False)
class PastCurves:
    """The curves of one past task, in the order of its trials."""

    name: str
    curves: Sequence[Curve]

    @property
    def ended(self) -> int:
        """How many went to their end."""
        return sum(curve.is_ended for curve in self.curves)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """What is expected of a running curve."""

    chance: float  # that it ends better than the incumbent
    predicted: float  # loss at its end
    interval90: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Foresight:
    """What is known of curves before a study begins."""

    classifier: Any  # of scikit-learn
    least_share: float  # of the chance that any trial has: less is too little
    estimated_rate: float  # of studies that lose their best trial
    proven_rate: float  # the same for any task exchangeable with the past ones; 1 without any
    past: Sequence[str]  # the names of the past tasks that taught
    looks: Array = field(repr=False)  # (n, d) rows like those that were learned from
    gains: Array = field(repr=False)  # (n,) what the loss fell by from there to the end, in scales

    def chances(self, features: Array) -> Array:
        """The chance to end better than the incumbent, shape (r,) for features (r, d)."""
        with one_openmp_thread():
            chances: Array = self.classifier.predict_proba(features)[:, 1]
        return chances

    def threshold_after(self, finished: int, *, uneven: bool = False) -> float:
        """The chance below which a curve is stopped when so many trials are finished.

        uneven: whether the study's curves differ in length.
        """
        return self.least_share * (UNEVEN_CARE if uneven else 1.0) / (finished + 1)

    def stops(self, now: Standing, curve: Curve, at: NDArray[np.intp], finished: int) -> Mask:
        """Whether a running curve is to be stopped at some of its reports, seen with what went before: shape (r,)."""
        is_hopeless = ~now.may_still_win(curve, at)
        if is_hopeless.any():
            chances = self.chances(now.features(curve, at[is_hopeless], finished))
            is_hopeless[is_hopeless] = chances < self.threshold_after(finished, uneven=now.is_uneven)
        return is_hopeless

    def outlook(self, now: Standing, curve: Curve, finished: int) -> Outlook:
        """What is expected at the end, from how the past curves went on that looked alike."""
        last = np.array([len(curve.losses) - 1])
        features = now.features(curve, last, finished)
        _, places = self._tree.query(self._near(features)[0], k=min(NEIGHBOURS, len(self.looks)))
        chance = float(self.chances(features)[0])
        shares = np.array([0.05, 0.5, 0.95])
        gains = np.quantile(self.gains[places], 1.0 - shares)
        ends = float(now.capped(curve.losses)[-1]) - now.scale * gains
        ends = np.where(
            chance < shares, np.maximum(ends, now.incumbent), ends
        )  # what the chance says of these quantiles
        low, middle, high = ends.tolist()
        return Outlook(chance=chance, predicted=middle, interval90=(low, high))

    def _near(self, features: Array) -> Array:
        columns = [list(FEATURES).index(name) for name in NEIGHBOURHOOD]
        scaled: Array = features[:, columns] / self._spreads[columns]
        return scaled

    @cached_property
    def _spreads(self) -> Array:
        spreads: Array = np.maximum(self.looks.std(axis=0), 1e-9)
        return spreads

    @cached_property
    def _tree(self) -> KDTree:
        return KDTree(self._near(self.looks))


def learn(past: Sequence[PastCurves], end: End, *, false_prunes: float) -> Foresight:
    """What past tasks, if any, and generated ones teach; the same for everyone who asks.

    end: which report the values of trials are. false_prunes: the promised rate, between 0 and 1.
    """
    rng = np.random.default_rng(0)
    usable = [task for task in past if task.ended >= LEAST_ENDED]
    generated = _generated(end)
    replays = int(np.clip(REPLAYS // max(len(usable), 1), *REPLAYS_OF_A_TASK))
    real = _replay(usable, replays, end, rng)
    everything = [*generated, *real]
    lost = _lost(real, generated)
    place, estimated_rate = _largest_that_keeps(lost, false_prunes)
    looks = np.concatenate([task.looks for task in everything])
    gains = np.concatenate([task.gains for task in everything])
    thinned = rng.permutation(len(looks))[:MOST_NEIGHBOURS]
    return Foresight(
        classifier=_classifier(everything),
        least_share=0.0 if place is None else float(SHARES[place]),
        estimated_rate=estimated_rate,
        proven_rate=(1.0 + (0.0 if place is None else float(lost[:, place].sum()))) / (len(real) + 1.0),
        past=[task.name for task in real],
        looks=looks[thinned],
        gains=gains[thinned],
    )


# Replaying tasks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Way:
    """What one trial looked like at each report where it might have been stopped."""

    replay: int
    features: Array  # (r, d)
    finished: int  # trials before it
    is_best: bool  # of its replay; else it was stopped early, and what it would have become is not known


@dataclass(frozen=True, kw_only=True, eq=False)
class _Replayed:
    """One task, its trials in several random orders."""

    name: str
    trials: int
    replays: int
    looks: Array  # (n, d) of curves that went to their end, at some of their reports
    gains: Array  # (n,) from there to the end, in scales
    beats: Mask  # (n,) whether they ended better than the incumbent
    ways: Sequence[_Way]


def _replay(tasks: Sequence[PastCurves], replays: int, end: End, rng: np.random.Generator) -> list[_Replayed]:
    found = [_replayed(task, replays, end, rng) for task in tasks]
    return [each for each in found if each is not None]


def _replayed(task: PastCurves, replays: int, end: End, rng: np.random.Generator) -> _Replayed | None:
    looks, gains, beats, ways = [], [], [], []
    for replay in range(replays):
        order = [task.curves[place] for place in rng.permutation(len(task.curves))]
        ends = np.array([curve.end(end) if curve.is_ended else np.inf for curve in order])
        best = int(np.argmin(ends))
        for place, now in _standings(order, ends, end):
            curve = order[place]
            open_reports = np.arange(len(curve.steps) - curve.is_ended)  # at its end nothing is left to be saved
            if not len(open_reports):
                continue
            if curve.is_ended:
                at = np.unique(np.round(np.geomspace(1, len(open_reports), REPORTS)).astype(np.intp)) - 1
                looks.append(now.features(curve, at, place))
                gains.append(now.gains(curve, at, ends[place]))
                beats.append(np.full(len(at), ends[place] < now.incumbent))
            if not is_probe(place) and (place == best or not curve.is_ended):
                stoppable = open_reports[~now.may_still_win(curve, open_reports)]
                features = now.features(curve, stoppable, place)
                ways.append(_Way(replay=replay, features=features, finished=place, is_best=place == best))
    if not looks:
        return None
    return _Replayed(
        name=task.name,
        trials=len(task.curves),
        replays=replays,
        looks=np.concatenate(looks),
        gains=np.concatenate(gains),
        beats=np.concatenate(beats),
        ways=ways,
    )


def _standings(order: Sequence[Curve], ends: Array, end: End) -> Iterator[tuple[int, Standing]]:
    """Each place in the order with what was known when that trial began, once that says enough."""
    ended: list[Curve] = []
    best, now = np.inf, None
    for place, curve in enumerate(order):
        if now is not None:
            yield place, now
        if not curve.is_ended:
            continue
        ended.append(curve)
        if now is None or ends[place] < best:  # others change nothing
            now = standing(ended, end)
        best = min(best, float(ends[place]))


@cache
def _generated(end: End) -> Sequence[_Replayed]:
    """The same tasks for everyone who asks."""
    rng = np.random.default_rng(0)
    studies = [generated_losses(GENERATED_TRIALS, rng) for _ in range(GENERATED_TASKS)]
    return _replay([PastCurves(name="generated", curves=list(map(_ended, study))) for study in studies], 1, end, rng)


def _ended(losses: Array) -> Curve:
    return Curve(steps=np.arange(1.0, len(losses) + 1.0), losses=losses, is_ended=True)


# Learning from them ---------------------------------------------------------------------------------------------------


def _classifier(tasks: Sequence[_Replayed]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - it takes a second

    classifier = HistGradientBoostingClassifier(
        max_iter=100,
        learning_rate=0.09,
        max_leaf_nodes=12,
        min_samples_leaf=50,
        l2_regularization=1.0,
        monotonic_cst=list(FEATURES.values()),
        early_stopping=False,
        random_state=0,
    )
    looks, beats = np.concatenate([task.looks for task in tasks]), np.concatenate([task.beats for task in tasks])
    with one_openmp_thread():
        return classifier.fit(looks, beats)


def _lost(tasks: Sequence[_Replayed], generated: Sequence[_Replayed]) -> Array:
    """The share of a task's replays that lose their best trial under each of `SHARES`: shape (t, q).

    Each task is looked at by a classifier that has not learned from it.
    """
    lost = np.zeros((len(tasks), len(SHARES)))
    for fold in range(min(FOLDS, len(tasks))):
        classifier = _classifier([*generated, *(task for t, task in enumerate(tasks) if t % FOLDS != fold)])
        for t in range(fold, len(tasks), FOLDS):
            lost[t] = _lost_of(tasks[t], classifier)
    return lost


def _lost_of(task: _Replayed, classifier: Any) -> Array:
    lost = np.zeros((task.replays, len(SHARES)))
    ways = [way for way in task.ways if len(way.features)]
    if not ways:
        return np.asarray(lost.mean(axis=0))
    with one_openmp_thread():
        chances = classifier.predict_proba(np.concatenate([way.features for way in ways]))[:, 1]
    ends = np.cumsum([len(way.features) for way in ways])[:-1]
    for way, along in zip(ways, np.split(chances, ends), strict=True):
        usual = 1.0 / (way.finished + 1)  # chance
        is_stopped = along.min() / usual < SHARES
        lost[way.replay] += is_stopped * (1.0 if way.is_best else along[-1] / usual / task.trials)
    return np.asarray(np.minimum(lost, 1.0).mean(axis=0))


def _largest_that_keeps(lost: Array, rate: float) -> tuple[int | None, float]:
    """The place among `SHARES` of the largest that keeps the rate, None where none does; and its estimated rate.

    lost: (t, q) shares of past tasks' replays that lose their best trial under each of them.
    """
    shares, generated = np.array(GENERATED_LOSSES).T
    stand_in = np.interp(np.log(SHARES), np.log(shares), generated) / CAUTION
    rates = (lost.sum(axis=0) + STAND_IN * stand_in) / (len(lost) + STAND_IN)
    kept = np.flatnonzero(rates <= rate)
    return (int(kept[-1]), float(rates[kept[-1]])) if len(kept) else (None, 0.0)
