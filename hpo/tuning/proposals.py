"""Which configuration next, and why? Decided from what a study and its past say; there is no storage in sight here.

1. The first trials are a portfolio: configurations that cover what past tasks with these parameters were like.
2. Without a past there is a space-filling design instead, its first point the centre of where the user hopes.
3. Then the largest expected improvement, by turns: under the models that know this study's own trials only, which no
   past can mislead, and under all models that are plausible together (`hpo.priors.mixture`).
4. Where the first trials show that the past misleads, the space-filling start is made up for before that.

Notation: m points, d parameters, k candidates. Losses: smaller is better, of the metric's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from hpo.arrays import Array, Mask, best_and_some
from hpo.priors.costs import CostModel, TaskCosts, cost_model
from hpo.priors.mixture import Mixture, mixture
from hpo.spaces.encoding import Encoding
from hpo.surrogates.search import CANDIDATES, SMALL_SPACE, around, best_listed, maximise, untried
from hpo.tuning.evidence import Evidence
from hpo.tuning.hypervolume import Objectives, on_the_front
from hpo.tuning.past import FIRST_POINTS, LISTED_POINTS, Past
from hpo.tuning.preferences import Term, log_feasibility, log_hope, log_thrift, where_hoped

MODELLED_TRIALS = 200  # beyond them: the best half and a random one
WIDE_EVERY = 4  # one proposal in so many may be anywhere; the others are near good points (heuristic)
SAFE_EVERY = 2  # one proposal in so many is made as if only this study's own trials were known (measured)
MISLED_SENTENCE = "What the past led to expect does not fit: the start that a study without a past has is made up for."
MISLED = 0.35  # history's weight, below which good points are not where it led
ANCHORS = 5  # good trials whose neighbourhood is searched
INTERVAL = (0.05, 0.95)
LEAST_SHARE = 0.01  # of history, to be mentioned

Role: TypeAlias = Literal["portfolio", "start", "exploit", "explore", "safety", "feasible", "front", "guess"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """Where a proposal may be, and what trials cost there."""

    encoding: Encoding
    candidates: Array | None = None  # (k, d): nowhere else
    costs: CostModel | None = None  # where they count and are known; `propose` finds out


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A point to try, and what speaks for it."""

    point: Array  # (d,)
    role: Role
    why: str  # one sentence
    predicted: float | None = None  # median of the next loss
    interval90: tuple[float, float] | None = None  # of the next loss
    best_case: float | None = None  # 5% quantile of the loss, noise left out
    incumbent: float | None = None  # the least loss so far
    improvement_probability: float | None = None  # that the next loss is less
    history_weight: float | None = None
    pending: int = 0  # trials running beside it
    credit: Array | None = None  # (t,) of each past study
    without_history: Array | None = None  # (d,) what would have been tried had there been no past
    cost: tuple[float, tuple[float, float]] | None = None  # median of what the trial costs, and its 90% interval
    seconds: float = 0.0  # that the decision took


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """What a study's finished trials and its past say, whatever runs beside them."""

    known: Evidence  # the trials that are modelled; `X`, `losses` and `feasible` alone are meant
    models: Mixture
    feasibility: Term | None


def propose(
    ground: Ground,
    evidences: Sequence[Evidence],
    pasts: Sequence[Past | None],
    *,
    design: np.random.Generator,
    rng: np.random.Generator,
    learned: Callable[[], Learned] | None = None,
) -> Proposal:
    """The next point, from the evidence and the past of each objective: of the same trials.

    design: the randomness of a start without a past, the same for all trials of a study. learned: what `learn` said of
    the same finished trials, where somebody knows it; of a study with one objective.
    """
    begun = time.perf_counter()
    ground = replace(ground, costs=_costs(ground, evidences[0], pasts, rng))
    if len(evidences) == 1:
        learned = learned or (lambda: learn(ground.encoding, evidences[0], pasts[0], rng))
        proposal = _decide(ground, evidences[0], pasts[0], learned, design, rng)
    else:
        proposal = _decide_for_several(ground, evidences, pasts, design, rng)
    cost = None if ground.costs is None else ground.costs.predict(proposal.point)
    return replace(proposal, cost=cost, seconds=time.perf_counter() - begun)


def learn(encoding: Encoding, evidence: Evidence, past: Past | None, rng: np.random.Generator) -> Learned:
    """The models of the finished trials: most of the work of a proposal, and the same for all until another ends."""
    known = evidence.at(np.sort(best_and_some(_standing(evidence.losses, evidence.feasible), MODELLED_TRIALS, rng)))
    models = mixture(
        known.X,
        known.losses,
        encoding.categorical,
        rng,
        history=None if past is None else past.history,
        shares=None if past is None else past.shares,
        feasible=known.feasible,
    )
    return Learned(known=known, models=models, feasibility=log_feasibility(known, encoding, rng))


def _costs(
    ground: Ground, evidence: Evidence, pasts: Sequence[Past | None], rng: np.random.Generator
) -> CostModel | None:
    """What trials cost, by all that is known of it; None where costs do not count."""
    if evidence.costs is None:
        return None
    own = TaskCosts.of(evidence.X, evidence.costs)
    rows = np.sort(rng.permutation(len(own.logs))[:MODELLED_TRIALS])
    past = next((past.costs for past in pasts if past is not None and past.costs is not None), None)
    return cost_model(TaskCosts(X=own.X[rows], logs=own.logs[rows]), past, ground.encoding.categorical, rng)


def _decide(  # noqa: PLR0917
    ground: Ground,
    evidence: Evidence,
    past: Past | None,
    learned: Callable[[], Learned],
    design: np.random.Generator,
    rng: np.random.Generator,
) -> Proposal:
    if evidence.position >= FIRST_POINTS and len(evidence.losses):
        return _from_model(ground, evidence, past, learned(), design, rng)
    start = _from_design(ground, evidence, design, rng)
    if past is not None and evidence.position == LISTED_POINTS:
        why = "Far from where the past leads, in case it misleads."
        return replace(start, role="safety", why=why, without_history=start.point)
    listed = _from_portfolio(past, evidence) if past is not None and evidence.position < LISTED_POINTS else None
    return start if listed is None else replace(listed, without_history=start.point)


def _from_portfolio(past: Past, evidence: Evidence) -> Proposal | None:
    """The next entry of the portfolio that nobody has tried, or is about to; None if there is no other."""
    points = np.array([pick.point for pick in past.picks])
    new = [pick for pick, is_new in zip(past.picks, untried(points, evidence.tried), strict=True) if is_new]
    if len(new) <= evidence.waiting:
        return None
    pick = new[evidence.waiting]
    return Proposal(
        point=pick.point,
        role="portfolio",
        credit=pick.credit,
        pending=len(evidence.pending),
        why=f"Among the few points that together do well on {count(len(past.studies), 'past study')}.",
    )


def _from_design(ground: Ground, evidence: Evidence, design: np.random.Generator, rng: np.random.Generator) -> Proposal:
    """The next point of the start; anything untried where it is taken, or where there is no other."""
    points = _start(ground, design)
    point = points[min(evidence.position, len(points) - 1)]
    if not untried(point[None, :], evidence.tried)[0] or evidence.position >= len(points):
        anywhere = ground.encoding.uniform(rng.random((CANDIDATES, len(ground.encoding.names))))
        point = _searched(ground, lambda points: rng.random(len(points)), anywhere, evidence, rng)
    return Proposal(
        point=point,
        role="start",
        pending=len(evidence.pending),
        why="No history of these parameters: a space-filling start.",
    )


def _next_of_the_start(ground: Ground, evidence: Evidence, design: np.random.Generator) -> Array | None:
    """The point (d,) that a start without a past would have had, where the past has misled; None where all are tried.

    The last of them has been tried by then: it was the safe one among the first points.
    """
    points, place = _start(ground, design), evidence.position - FIRST_POINTS
    is_new = place < len(points) - 1 and bool(untried(points[None, place], evidence.tried)[0])
    return points[place] if is_new else None


def _start(ground: Ground, design: np.random.Generator) -> Array:
    """The centre of where good values are hoped for, then a Latin hypercube: shape (s, d)."""
    encoding = ground.encoding
    if ground.candidates is not None:
        return _spread_out(ground.candidates, FIRST_POINTS, design)
    return encoding.uniform(where_hoped(encoding, _centred_latin_hypercube(FIRST_POINTS, len(encoding.names), design)))


def _from_model(  # noqa: PLR0917
    ground: Ground,
    evidence: Evidence,
    past: Past | None,
    learned: Learned,
    design: np.random.Generator,
    rng: np.random.Generator,
) -> Proposal:
    """The largest expected improvement, by history and by this study's own trials."""
    n, known = len(evidence.losses), learned.known
    models = learned.models.believing(evidence.pending)
    preferences = _preferences(ground, learned.feasibility, n)
    anchors = known.X[np.argsort(_standing(known.losses, known.feasible))[:ANCHORS]]
    misled = past is not None and models.history_weight < MISLED  # and so were the first points
    of_the_start = _next_of_the_start(ground, evidence, design) if misled else None
    search_seed = int(rng.integers(2**31))

    def best_by(models: Mixture, past: Past | None) -> Array:
        own = np.random.default_rng(search_seed)  # all searches look at the same points
        starts = _starts(ground, anchors, [past], own, wide=evidence.position % WIDE_EVERY == 0 or misled)

        def score(points: Array) -> Array:
            improvement = models.log_expected_improvement(points) if known.feasible.any() else np.zeros(len(points))
            return np.asarray(np.sum([improvement, *(term(points) for term in preferences)], axis=0))

        return _searched(ground, score, starts, evidence, own)

    if of_the_start is not None:
        point = without = of_the_start
    elif models.alone is None:
        point, without = best_by(models, None), None
    else:
        without = best_by(models.alone, None)
        is_safe = models.history_weight == 0.0 or (evidence.position - LISTED_POINTS) % SAFE_EVERY == 0
        point = without if is_safe else best_by(models, past)
    expected = models.next_loss(point)
    low, middle, high = expected.quantiles((INTERVAL[0], 0.5, INTERVAL[1]))
    best = float(evidence.losses[evidence.feasible].min()) if evidence.feasible.any() else None
    return Proposal(
        point=point,
        role=_role(point, without, middle, best),
        predicted=middle,
        interval90=(low, high),
        best_case=expected.quantiles(INTERVAL[:1], noise=False)[0],
        incumbent=best,
        improvement_probability=None if best is None else expected.probability_below(best),
        history_weight=models.history_weight,
        pending=len(evidence.pending),
        credit=None if past is None or point is without else expected.credit,
        without_history=without,
        why=_reason(n, models, past) if of_the_start is None else MISLED_SENTENCE,
    )


def _decide_for_several(
    ground: Ground,
    evidences: Sequence[Evidence],
    pasts: Sequence[Past | None],
    design: np.random.Generator,
    rng: np.random.Generator,
) -> Proposal:
    evidence, known = evidences[0], [past for past in pasts if past is not None]
    if known and evidence.position < LISTED_POINTS:  # each objective's past in turn
        proposal = _from_portfolio(known[evidence.position % len(known)], evidence)
        if proposal is not None:
            return replace(proposal, credit=None)
    if evidence.position < FIRST_POINTS or not all(len(each.losses) for each in evidences):
        return _from_design(ground, evidence, design, rng)
    return _from_models(ground, evidences, pasts, rng)


def _from_models(
    ground: Ground, evidences: Sequence[Evidence], pasts: Sequence[Past | None], rng: np.random.Generator
) -> Proposal:
    """The largest expected hypervolume improvement, by turns without and with history."""
    encoding, n = ground.encoding, len(evidences[0].losses)
    losses = np.stack([each.losses for each in evidences], axis=1)
    everyone = evidences[0]
    goal = everyone.feasible if everyone.feasible.any() else np.ones(n, dtype=bool)
    front = np.flatnonzero(goal)[on_the_front(losses[goal])]
    rows = np.sort(best_and_some(_standing_of_several(losses, goal, front), MODELLED_TRIALS, rng))
    known = everyone.at(rows)
    objectives = Objectives(
        models=[
            mixture(
                known.X,
                column,
                encoding.categorical,
                rng,
                history=None if past is None else past.history,
                shares=None if past is None else past.shares,
            ).believing(known.pending)
            for column, past in zip(losses[rows].T, pasts, strict=True)
        ],
        losses=losses[goal],
        front=losses[front],
    )
    preferences = _preferences(ground, log_feasibility(known, encoding, rng), n)
    anchors = everyone.X[rng.permutation(front)[:ANCHORS]]
    alone = objectives.alone
    is_safe = alone is None or (known.position - LISTED_POINTS) % SAFE_EVERY == 0
    used = objectives if alone is None or not is_safe else alone
    starts = _starts(ground, anchors, [] if is_safe else pasts, rng, wide=known.position % WIDE_EVERY == 0)

    def score(points: Array) -> Array:
        improvement = used.log_expected_improvement(points) if known.feasible.any() else np.zeros(len(points))
        return np.asarray(np.sum([improvement, *(term(points) for term in preferences)], axis=0))

    return Proposal(
        point=_searched(ground, score, starts, known, rng),
        role="feasible" if not known.feasible.any() else "front" if alone is None or not is_safe else "safety",
        history_weight=objectives.history_weight,
        pending=len(known.pending),
        why=f"The largest expected gain of all {len(evidences)} objectives together after {count(n, 'trial')}.",
    )


def _standing_of_several(losses: Array, feasible: Mask, front: NDArray[np.intp]) -> Array:
    """The place of each trial (n,) among all: the front first, then the feasible ones by their worst rank."""
    beaten = np.ones(len(losses), dtype=bool)
    beaten[front] = False
    return _standing(rankdata(losses, axis=0).max(axis=1) + len(losses) * beaten, feasible)


def _preferences(ground: Ground, feasibility: Term | None, trials: int) -> list[Term]:
    terms = [log_hope(ground.encoding, trials), feasibility, log_thrift(ground.costs)]
    return [term for term in terms if term is not None]


def _standing(losses: Array, feasible: Mask) -> Array:
    """The place of each trial (n,) among all: the feasible ones first, each by its loss."""
    standing = np.empty(len(losses))
    standing[np.lexsort((losses, ~feasible))] = np.arange(len(losses))
    return standing


def _role(point: Array, without: Array | None, predicted: float, best: float | None) -> Role:
    if best is None:
        return "feasible"
    if point is without:
        return "safety"
    return "exploit" if predicted < best else "explore"


def _starts(
    ground: Ground, anchors: Array, pasts: Sequence[Past | None], rng: np.random.Generator, *, wide: bool
) -> Array:
    """Points to look at first: around good ones, and, if `wide`, all over the space.

    In more than a few dimensions nearly all of a space is far from everything known, and a model's doubt there
    outweighs what it expects close by: changing a few parameters of a good point at a time is what makes such a search
    converge (Papenmeier et al., Understanding High-Dimensional Bayesian Optimization, ICML 2025).
    """
    encoding, known = ground.encoding, [past for past in pasts if past is not None]
    parts = [around(anchors, encoding, rng), *(past.close for past in known)]
    if wide:
        anywhere = encoding.uniform(where_hoped(encoding, rng.random((CANDIDATES, len(encoding.names)))))
        parts += [past.wide for past in known] or [anywhere]
    return np.vstack(parts)


def _searched(
    ground: Ground, score: Callable[[Array], Array], starts: Array, evidence: Evidence, rng: np.random.Generator
) -> Array:
    """The untried point (d,) of the largest score; on a list, after those that are asked for at this moment."""
    tried, waiting = evidence.tried, evidence.waiting
    if ground.candidates is not None:
        return best_listed(score, ground.candidates, tried, after=waiting)
    if ground.encoding.size <= SMALL_SPACE:
        return best_listed(score, ground.encoding.every_point(), tried)
    return maximise(score, starts, ground.encoding, tried, rng)


def _reason(trials: int, models: Mixture, past: Past | None) -> str:
    reason = f"The largest expected improvement after {count(trials, 'trial')} of this study"
    if past is None or models.history_weight < LEAST_SHARE:
        return reason + "."
    return f"{reason}; what {count(len(past.studies), 'past study')} led to expect counts {models.history_weight:.0%}."


def _spread_out(points: Array, size: int, rng: np.random.Generator) -> Array:
    """The point nearest to the middle of all (m, d), then points as far from those before as they can be."""
    jittered = points + rng.uniform(0.0, 1e-6, points.shape)  # equally good points: one by chance
    chosen = [int(np.argmin(((jittered - jittered.mean(axis=0)) ** 2).sum(axis=1)))]
    for _ in range(min(size, len(points)) - 1):
        distance = ((jittered[:, None, :] - jittered[None, chosen, :]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(np.argmax(distance)))
    return points[chosen]


def _centred_latin_hypercube(n: int, d: int, rng: np.random.Generator) -> Array:
    """The centre of the cube, then n - 1 points of which every parameter takes each (n - 1)-th of its range once.

    McKay, Beckman and Conover, A Comparison of Three Methods for Selecting Values of Input Variables, 1979.
    """
    strata = np.argsort(rng.random((n - 1, d)), axis=0)
    return np.vstack([np.full((1, d), 0.5), (strata + rng.random((n - 1, d))) / max(n - 1, 1)])


def count(n: int, noun: str) -> str:
    """`1 trial`, `2 studies`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n} {noun if n == 1 else plural}"
