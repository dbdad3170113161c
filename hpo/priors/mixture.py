"""How good will a point be, by all models that are still plausible together?

Models: the history of past tasks, under a few beliefs and scales, and this study alone, under a few kernels. Each
counts by its evidence times its prior weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logit, logsumexp, ndtri

from hpo.arrays import Array, Mask, best_and_some
from hpo.priors.beliefs import DEVIATIONS, RELATED, UNRELATED, Shares
from hpo.priors.history import Belief, History, HistoryProcess, Outlook, candidate_scales
from hpo.priors.next_loss import NextLoss
from hpo.statistics.loss_scale import LossScale, LossScales
from hpo.surrogates.acquisition import log_expected_improvement
from hpo.surrogates.gaussian_process import GaussianProcess, Kernel, fit_kernel, sample_kernels

KERNELS = 8  # of the study alone, beside the likeliest
TASKS_FOR_A_RULE = 8  # before their kernel is what is usual
MOSTLY_NOISE = 0.5  # variance of a kernel from which there is nothing to learn
MOST_TRUST = 0.7  # in history: what a few trials say for it may be chance (measured: see the decisions)
FITTED_TRIALS = 100  # that weigh the models and choose the kernels
KEPT_WEIGHT = 0.98  # of all models together with their scales, that is kept ...
MOST_KEPT = 64  # ... by no more of them than these
Process: TypeAlias = GaussianProcess | HistoryProcess


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """One process with the scales and weights it is used with."""

    process: Process
    scales: LossScales  # (c,)
    weights: Array  # (c,)
    noise: float  # variance, standardised

    def predict(self, points: Array, outlook: Outlook | None) -> tuple[Array, Array]:
        """Standardised means (c, m) and standard deviation (m,)."""
        if isinstance(self.process, HistoryProcess):
            assert outlook is not None
            return self.process.predict(points, outlook)
        mean, std = self.process.predict(points)
        return mean[None, :], std


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """The average of models by their weights."""

    models: Sequence[Model]
    incumbents: Sequence[Array]  # per model (c,)
    history: History | None
    past_tasks: int
    alone: Mixture | None  # the models that know this study only; None where these are all

    def believing(self, pending: Array) -> Mixture:
        """As if the evaluations running at `pending` (p, d) had come out as each model expects: its mean stays."""
        return self if not len(pending) else self._believing(pending, {})

    def _believing(self, pending: Array, known: dict[int, Process]) -> Mixture:
        outlook = self._look(pending)
        for model in self.models:
            if id(model.process) not in known:  # the others are those of `alone` as well
                known[id(model.process)] = _process_believing(model.process, pending, outlook)
        return replace(
            self,
            models=[replace(model, process=known[id(model.process)]) for model in self.models],
            alone=None if self.alone is None else self.alone._believing(pending, known),
        )

    @property
    def history_weight(self) -> float:
        """How much the models that know the past count."""
        return float(sum(model.weights.sum() for model in self.models if isinstance(model.process, HistoryProcess)))

    def log_expected_improvement(self, points: Array, outlook: Outlook | None = None) -> Array:
        """Of the raw loss, at points (m, d): shape (m,). The outlook there is found unless it is known already."""
        outlook = outlook if outlook is not None else self._look(points)
        scores = []
        for model, incumbents in zip(self.models, self.incumbents, strict=True):
            means, std = model.predict(points, outlook)
            worth = np.log(model.weights * model.scales.units)
            for mean, log_worth, incumbent in zip(means, worth, incumbents, strict=True):
                scores.append(log_worth + log_expected_improvement(mean, std, incumbent))
        score: Array = logsumexp(scores, axis=0)
        return score

    def draws(self, points: Array, uniforms: Array) -> Array:
        """Raw losses without noise at points (m, d), each drawn alone: shape (s, m).

        uniforms: (2, s) in (0, 1), for the model and for the place in it: the same for every point.
        """
        outlook = self._look(points)
        weights = np.concatenate([model.weights for model in self.models])
        owners = [(model, column) for model in self.models for column in range(len(model.weights))]
        last = len(owners) - 1
        chosen = np.minimum(np.searchsorted(np.cumsum(weights), uniforms[0]), last)
        deviates = ndtri(uniforms[1])
        losses = np.empty((uniforms.shape[1], len(points)))
        predictions: dict[int, tuple[Array, Array]] = {}
        for draw, index in enumerate(chosen):
            model, column = owners[int(index)]
            if id(model) not in predictions:
                predictions[id(model)] = model.predict(points, outlook)
            means, std = predictions[id(model)]
            scale = model.scales.at(np.array([column]))
            losses[draw] = scale.restore((means[column] + deviates[draw] * std)[:, None])[:, 0]
        return losses

    def next_loss(self, point: Array) -> NextLoss:
        """What the next raw loss at a point (d,) will be."""
        outlook = self._look(point[None, :])
        credit = np.zeros(self.past_tasks)
        parts: list[tuple[float, float, float, float]] = []
        for model in self.models:
            means, std = model.predict(point[None, :], outlook)
            parts += [(weight, mean[0], std[0], model.noise) for weight, mean in zip(model.weights, means, strict=True)]
            if isinstance(model.process, HistoryProcess):
                assert outlook is not None
                precisions = outlook.precisions(model.process.belief.deviation)[:, 0]
                credit += model.weights.sum() * precisions / precisions.sum()
        weights, means, deviations, noises = np.array(parts).T
        return NextLoss(
            weights=weights,
            means=means,
            deviations=deviations,
            noises=noises,
            scales=LossScales.together([model.scales for model in self.models]),
            credit=credit,
        )

    def _look(self, points: Array) -> Outlook | None:
        return None if self.history is None else self.history.look(points)


def mixture(
    X: Array,
    losses: Array,
    categorical: Mask,
    rng: np.random.Generator,
    *,
    history: History | None,
    shares: Shares | None = None,
    feasible: Mask | None = None,
) -> Mixture:
    """What X (n, d) with raw losses (n,) and the past say together.

    History counts by its Bayes factor against the same model without its knowledge, on the same scales: against a model
    whose scale these few losses chose, any history would look unlikely. Its prior odds are those of the `shares` that
    past tasks taught. Only what is `feasible` (n,) is to be improved on.
    """
    fitted = np.sort(best_and_some(losses, FITTED_TRIALS, rng))
    best = np.ones(len(X), dtype=bool) if feasible is None or not feasible.any() else feasible
    plain = _plain(X, losses, fitted, categorical, rng, _usual(history))
    alone = _together(plain, X[best])
    if history is None:
        return alone
    outlook = history.look(X)
    study = _Study(X=X, losses=losses, fitted=fitted, history=history, outlook=outlook)
    shares = shares or Shares.unknown()
    unrelated = np.full(len(UNRELATED), np.log(shares.unrelated / len(UNRELATED)))
    informed = study.models(RELATED, np.log(shares.related), outlook)
    ignorant = study.models(UNRELATED, unrelated, outlook.forgotten())
    log_odds = min(_log_total(informed) - _log_total(ignorant), float(logit(MOST_TRUST)))
    models = [
        *_weighed(plain, log_expit(-log_odds) - _log_total(plain)),
        *_weighed(informed, log_expit(log_odds) - _log_total(informed)),
    ]
    return _together(models, X[best], history, outlook.at(np.flatnonzero(best)), alone)


def _together(
    models: Sequence[Model],
    best: Array,
    history: History | None = None,
    at_best: Outlook | None = None,
    alone: Mixture | None = None,
) -> Mixture:
    """The average of models by their log weights. best: (b, d) tried points that are to be improved on.

    at_best: what the history says of these.
    """
    models = _normalised(models)
    past_tasks = 0 if history is None else len(history.tasks)
    if not any(isinstance(model.process, HistoryProcess) for model in models):
        history = None
    return Mixture(
        models=models,
        incumbents=[model.predict(best, at_best)[0].min(axis=1) for model in models],
        history=history,
        past_tasks=past_tasks,
        alone=alone,
    )


def _usual(history: History | None) -> Kernel | None:
    """The kernel of past tasks, where they are enough for a rule and their losses depend on their parameters at all."""
    if history is None or len(history.tasks) < TASKS_FOR_A_RULE or history.kernel.noise > MOSTLY_NOISE:
        return None
    return history.kernel


def _plain(  # noqa: PLR0917
    X: Array, losses: Array, fitted: NDArray[np.intp], categorical: Mask, rng: np.random.Generator, usual: Kernel | None
) -> list[Model]:
    """The study alone, on its own scale: half by its likeliest kernel, half by others that may be as right.

    One kernel finds what it fits soonest, and is too sure of itself; an average is neither.
    """
    scale = LossScale.of(losses)
    y = scale.standardise(losses)
    likeliest = fit_kernel([(X[fitted], y[fitted])], categorical, rng, restarts=1)
    kernels: list[Kernel] = []
    centres = (None,) if usual is None else (usual, None)  # half as if none were usual: this task may be another
    for centre in centres:
        count = KERNELS // len(centres)
        kernels += sample_kernels(X[fitted], y[fitted], rng, start=likeliest, count=count, like=centre)
    return [
        Model(
            process=GaussianProcess(X=X, y=y, kernel=kernel),
            scales=LossScales.of([scale]),
            weights=np.log([weight]),
            noise=kernel.noise,
        )
        for kernel, weight in [(likeliest, KERNELS), *((kernel, 1) for kernel in kernels)]
    ]


class _Study:
    """The study as one more task like those of the history."""

    def __init__(
        self, *, X: Array, losses: Array, fitted: NDArray[np.intp], history: History, outlook: Outlook
    ) -> None:
        self._X, self._fitted, self._kernel = X, fitted, history.kernel
        expected, _ = outlook.pooled(DEVIATIONS[1])
        self._scales, self._log_prior = candidate_scales(losses, expected, [task.scale for task in history.tasks])
        self._Z = self._scales.standardise(losses[:, None])
        self._log_slopes = self._scales.log_slopes(losses[fitted])

    def models(self, beliefs: Sequence[Belief], log_shares: Array, outlook: Outlook) -> list[Model]:
        """One for each belief, weighed by its evidence, given the outlook at X."""
        models = []
        for belief, log_share in zip(beliefs, log_shares, strict=True):
            process = HistoryProcess(X=self._X, Z=self._Z, kernel=self._kernel, belief=belief, outlook=outlook)
            part = process if len(self._fitted) == len(self._X) else process.at(self._fitted)
            log_weights = part.log_evidence() + self._log_slopes + self._log_prior + log_share
            models.append(Model(process=process, scales=self._scales, weights=log_weights, noise=process.noise))
        return models


def _weighed(models: Sequence[Model], log_prior: float) -> list[Model]:
    return [
        Model(process=model.process, scales=model.scales, weights=model.weights + log_prior, noise=model.noise)
        for model in models
    ]


def _log_total(models: Sequence[Model]) -> float:
    return float(logsumexp(np.concatenate([model.weights for model in models])))


def _normalised(models: Sequence[Model]) -> list[Model]:
    """From log weights to weights that sum to one, without those that hardly count."""
    total = logsumexp(np.concatenate([model.weights for model in models]))
    shares = [np.exp(model.weights - total) for model in models]
    ordered = np.sort(np.concatenate(shares))[::-1]
    enough = int(np.searchsorted(np.cumsum(ordered), KEPT_WEIGHT))
    least = ordered[min(enough + 1, MOST_KEPT, len(ordered)) - 1]
    rest = sum(float(share[share >= least].sum()) for share in shares)
    kept: list[Model] = []
    for model, share in zip(models, shares, strict=True):
        columns = np.flatnonzero(share >= least)
        if len(columns):
            process = model.process.keeping(columns) if isinstance(model.process, HistoryProcess) else model.process
            kept.append(
                Model(
                    process=process,
                    scales=model.scales.at(columns),
                    weights=share[columns] / rest,
                    noise=model.noise,
                )
            )
    return kept


def _process_believing(process: Process, pending: Array, outlook: Outlook | None) -> Process:
    if isinstance(process, HistoryProcess):
        assert outlook is not None
        return process.believing(pending, outlook)
    return process.believing_its_mean(pending)
