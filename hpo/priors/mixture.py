"""How good will a point be, by all models that are still plausible together?

Models: the history of past tasks, under a few deviations and scales, and this study alone, under a few kernels. Each
counts by its evidence times its prior weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp, ndtr

from hpo.acquisition import log_expected_improvement
from hpo.arrays import Array, Mask, best_and_some
from hpo.gaussian_process import GaussianProcess, sample_kernels
from hpo.priors.history import DEVIATIONS, History, HistoryProcess, Outlook, candidate_scales
from hpo.statistics.loss_scale import LossScale

KERNELS = 8  # of the study alone
FITTED_TRIALS = 100  # that weigh the models and choose the kernels
LEAST_WEIGHT = 0.01  # of a model that is kept
CLOSEST_TASKS = 8  # past tasks that are asked
Process: TypeAlias = GaussianProcess | HistoryProcess


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """One process with the scales and weights it is used with."""

    process: Process
    scales: Sequence[LossScale]  # (c,)
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
    chosen: NDArray[np.intp]  # which of the past tasks the history has
    past_tasks: int

    @property
    def history_weight(self) -> float:
        """How much the models that know the past count."""
        return float(sum(model.weights.sum() for model in self.models if isinstance(model.process, HistoryProcess)))

    def log_expected_improvement(self, points: Array) -> Array:
        """Of the raw loss, at points (m, d): shape (m,)."""
        outlook = self._look(points)
        scores = []
        for model, incumbents in zip(self.models, self.incumbents, strict=True):
            means, std = model.predict(points, outlook)
            for mean, scale, weight, incumbent in zip(means, model.scales, model.weights, incumbents, strict=True):
                scores.append(np.log(weight * scale.unit) + log_expected_improvement(mean, std, incumbent))
        score: Array = logsumexp(scores, axis=0)
        return score

    def quantiles(self, point: Array, levels: Sequence[float]) -> list[float]:
        """Of the next raw loss at a point (d,), noise included."""
        below, low, high = self._next_loss(point)
        return [_bisect(below, level, low, high) for level in levels]

    def probability_below(self, point: Array, loss: float) -> float:
        """That the next raw loss at a point (d,) is smaller, noise included."""
        below, _, _ = self._next_loss(point)
        return below(loss)

    def credit(self, point: Array) -> Array:
        """Every past task's share in what is expected at a point (d,), shape (t,): sums to the history's weight."""
        credit = np.zeros(self.past_tasks)
        if self.history is None:
            return credit
        outlook = self.history.look(point[None, :])
        for model in self.models:
            if isinstance(model.process, HistoryProcess):
                precisions = outlook.precisions(model.process.deviation)[:, 0]
                credit[self.chosen] += model.weights.sum() * precisions / precisions.sum()
        return credit

    def _next_loss(self, point: Array) -> tuple[Callable[[float], float], float, float]:
        """Its distribution function, and between what it surely is."""
        outlook = self._look(point[None, :])
        parts: list[tuple[float, LossScale, float, float]] = []
        for model in self.models:
            means, std = model.predict(point[None, :], outlook)
            width = float(np.hypot(std[0], np.sqrt(model.noise)))
            parts += [
                (float(weight), scale, float(mean[0]), width)
                for weight, scale, mean in zip(model.weights, model.scales, means, strict=True)
            ]
        ends = np.array([scale.restore(np.array([mean - 5 * w, mean + 5 * w])) for _, scale, mean, w in parts])

        def below(loss: float) -> float:
            return sum(
                weight * float(ndtr((scale.standardise(np.array(loss)) - mean) / width))
                for weight, scale, mean, width in parts
            )

        return below, float(ends.min()), float(ends.max())

    def _look(self, points: Array) -> Outlook | None:
        return None if self.history is None else self.history.look(points)


def mixture(
    X: Array,
    losses: Array,
    categorical: Mask,
    rng: np.random.Generator,
    *,
    pending: Array,
    history: History | None,
) -> Mixture:
    """What X (n, d) with raw losses (n,), evaluations running at `pending` (p, d), and the past say together.

    History counts by its Bayes factor against the same model without its knowledge, on the same scales: against a model
    whose scale these few losses chose, any history would look unlikely. Its prior odds are the number of past tasks.
    """
    fitted = np.sort(best_and_some(losses, FITTED_TRIALS, rng))
    models = _plain(X, losses, fitted, categorical, rng)
    past_tasks = 0 if history is None else len(history.tasks)
    chosen = np.arange(0) if history is None else history.closest(X, losses, CLOSEST_TASKS)
    if history is not None:
        history = history.only(chosen)
        outlook = history.look(X)
        informed = _informed(X, losses, fitted, history, outlook)
        ignorant = _informed(X, losses, fitted, history, outlook.forgotten())
        log_odds = np.log(past_tasks) + _log_total(informed) - _log_total(ignorant)
        models = [
            *_weighed(models, log_expit(-log_odds) - _log_total(models)),
            *_weighed(informed, log_expit(log_odds) - _log_total(informed)),
        ]
    models = _normalised(models)
    if not any(isinstance(model.process, HistoryProcess) for model in models):
        history = None
    at_X = None if history is None else history.look(X)
    if len(pending):
        at_pending = None if history is None else history.look(pending)
        models = [_believing(model, pending, at_pending) for model in models]
    incumbents = [model.predict(X, at_X)[0].min(axis=1) for model in models]
    return Mixture(models=models, incumbents=incumbents, history=history, chosen=chosen, past_tasks=past_tasks)


def _plain(
    X: Array, losses: Array, fitted: NDArray[np.intp], categorical: Mask, rng: np.random.Generator
) -> list[Model]:
    """The study alone, on its own scale, under equally likely kernels."""
    scale = LossScale.of(losses)
    y = scale.standardise(losses)
    kernels = sample_kernels(X[fitted], y[fitted], categorical, rng, count=KERNELS)
    return [
        Model(
            process=GaussianProcess(X=X, y=y, kernel=kernel),
            scales=[scale],
            weights=np.zeros(1),
            noise=kernel.noise,
        )
        for kernel in kernels
    ]


def _informed(X: Array, losses: Array, fitted: NDArray[np.intp], history: History, outlook: Outlook) -> list[Model]:
    """The study as one more task like those of the history, given its outlook at X."""
    expected, _ = outlook.pooled(DEVIATIONS[1])
    scales, log_prior = candidate_scales(losses, expected, [task.scale for task in history.tasks])
    Z = np.array([scale.standardise(losses) for scale in scales]).T
    log_slopes = np.array([scale.log_slope(losses[fitted]).sum() for scale in scales])
    models = []
    for deviation in DEVIATIONS:
        part = HistoryProcess(
            X=X[fitted], Z=Z[fitted], kernel=history.kernel, deviation=deviation, outlook=outlook.at(fitted)
        )
        process = HistoryProcess(X=X, Z=Z, kernel=history.kernel, deviation=deviation, outlook=outlook)
        log_weights = part.log_evidence() + log_slopes + log_prior - np.log(len(DEVIATIONS))
        models.append(Model(process=process, scales=scales, weights=log_weights, noise=process.noise))
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
    least = min(LEAST_WEIGHT, max(float(share.max()) for share in shares))
    rest = sum(float(share[share >= least].sum()) for share in shares)
    kept: list[Model] = []
    for model, share in zip(models, shares, strict=True):
        columns = np.flatnonzero(share >= least)
        if len(columns):
            process = model.process.keeping(columns) if isinstance(model.process, HistoryProcess) else model.process
            kept.append(
                Model(
                    process=process,
                    scales=[model.scales[int(c)] for c in columns],
                    weights=share[columns] / rest,
                    noise=model.noise,
                )
            )
    return kept


def _believing(model: Model, pending: Array, outlook: Outlook | None) -> Model:
    if isinstance(model.process, HistoryProcess):
        assert outlook is not None
        process: Process = model.process.believing(pending, outlook)
    else:
        process = model.process.believing_its_mean(pending)
    return Model(process=process, scales=model.scales, weights=model.weights, noise=model.noise)


def _bisect(below: Callable[[float], float], level: float, low: float, high: float) -> float:
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if below(middle) >= level else (middle, high)
    return 0.5 * (low + high)
