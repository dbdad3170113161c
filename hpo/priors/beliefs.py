r"""How may a new task be related to past ones? Some beliefs, and how far each is to be trusted.

Each past task is taken for new in turn: a few of its trials, and how probable the other tasks made them under each
belief, and how probable they are to whom the past says nothing. The shares of the beliefs are those under which all
these are most probable together (expectation maximisation of a mixture's proportions, with a Dirichlet prior that knows
nothing). So a history whose tasks explain each other is trusted at once, and one of unrelated tasks is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from hpo.arrays import Array
from hpo.priors.history import Belief, History, HistoryProcess, Outlook

DEVIATIONS = (0.1, 0.3, 0.7)
SLOPES_AND_LEVELS = ((0.1, 0.2), (0.3, 0.5))
KINSHIPS = (0.0, 1.0)
RELATED = tuple(
    Belief(deviation=deviation, slope=slope, level=level, kinship=kinship)
    for kinship, deviation, (slope, level) in product(KINSHIPS, DEVIATIONS, SLOPES_AND_LEVELS)
)
UNRELATED = tuple(Belief(deviation=deviation, slope=0.3, level=0.5, kinship=0.0) for deviation in (0.15, 0.35, 0.7))
PRIOR_TASKS = 2.0  # what the prior of the shares counts for: one task that history explains, one that it does not
LEAST_DOUBT = 0.02  # that the past says nothing, however well its tasks explain each other
LEFT_OUT = 32  # tasks at most
TRIALS = 10  # of each: about as many as a study has when its history matters
GUIDED = 6  # of them where the other tasks expect good losses
LOOKED_AT = 128  # trials of a task, to choose them from
ROUNDS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """Prior probabilities: of a new task being related to the past in each way, or in none."""

    related: Array  # (len(RELATED),)
    unrelated: float

    @classmethod
    def unknown(cls) -> Shares:
        """Before any past task could be compared with another."""
        return cls(related=np.full(len(RELATED), 0.5 / len(RELATED)), unrelated=0.5)


def learn_shares(history: History, rng: np.random.Generator) -> Shares:
    """From at least two past tasks; `Shares.unknown` from fewer."""
    if len(history.tasks) < 2:
        return Shares.unknown()
    tasks = rng.permutation(len(history.tasks))[:LEFT_OUT]
    log_evidence = np.array([_log_evidence(history, int(task), rng) for task in tasks])
    prior = np.append(Shares.unknown().related, Shares.unknown().unrelated)
    weights = np.array([history.tasks[task].weight for task in tasks])
    shares = proportions(log_evidence, weights, PRIOR_TASKS * prior)
    unrelated = max(float(shares[-1]), LEAST_DOUBT)
    return Shares(related=shares[:-1] * (1.0 - unrelated) / (1.0 - shares[-1]), unrelated=unrelated)


def proportions(log_evidence: Array, weights: Array, counts: Array) -> Array:
    """The shares (k,) of a mixture's parts whose posterior is largest.

    log_evidence: (t, k) of each observation under each part; weights: (t,) what an observation counts; counts: (k,) of
    a Dirichlet prior, as observations seen before (its parameters less one).
    """
    shares: Array = counts / counts.sum()
    likelihood = np.exp(log_evidence - log_evidence.max(axis=1, keepdims=True))
    for _ in range(ROUNDS):
        joint = likelihood * shares
        membership = joint / joint.sum(axis=1, keepdims=True)
        shares = (counts + weights @ membership) / (counts.sum() + weights.sum())
    return shares


def _log_evidence(history: History, task: int, rng: np.random.Generator) -> Array:
    """Of some trials of one task, given the others: by each belief, and where nothing is known: shape (k + 1,)."""
    X, y = history.tasks[task].X, history.tasks[task].y
    seen = rng.permutation(len(y))[:LOOKED_AT]
    outlook = history.look(X[seen]).without(task)
    rows = _as_a_study_would(outlook.pooled(DEVIATIONS[1])[0], rng)
    X, y, outlook = X[seen][rows], y[seen][rows], outlook.at(rows)

    def by(beliefs: Sequence[Belief], outlook: Outlook) -> list[float]:
        Z, kernel = y[:, None], history.kernel
        processes = [HistoryProcess(X=X, Z=Z, kernel=kernel, belief=belief, outlook=outlook) for belief in beliefs]
        return [float(process.log_evidence()[0]) for process in processes]

    unrelated = by(UNRELATED, outlook.forgotten())
    return np.array([*by(RELATED, outlook), logsumexp(unrelated) - np.log(len(unrelated))])


def _as_a_study_would(expected: Array, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of some trials, given what is expected of all (n,): promising ones for the most part, and others."""
    order = np.argsort(expected, kind="stable")
    promising = rng.permutation(order[: max(len(order) // 10, GUIDED)])[:GUIDED]
    others = rng.permutation(order[~np.isin(order, promising)])[: TRIALS - len(promising)]
    return np.concatenate([promising, others])
