"""Studies whose truth is known: functions, noise, and what Optuna's TPE tried on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import optuna

from hpo.arrays import Array

Function = Callable[[Array], Array]  # (m, d) points in the unit cube to (m,) losses
NOISE = 0.5  # standard deviation, where the functions have 1 over their space


def branin(x: Array) -> Array:
    a, b = 15 * x[:, 0] - 5, 15 * x[:, 1]
    return (b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10


def hartmann6(x: Array) -> Array:
    A = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    P = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    return -(np.array([1, 1.2, 3, 3.2]) * np.exp(-(A * (x[:, None, :] - P) ** 2).sum(-1))).sum(-1)


def bowl(x: Array) -> Array:
    return ((x - np.array([0.3, 0.7, 0.55, 0.4])) ** 2 * np.array([4, 2, 1, 0.3])).sum(-1)


def cliff(x: Array) -> Array:
    """Nearly flat where it is good, and steep beyond, like a learning rate."""
    steep = np.log1p(np.exp(12 * (x[:, 0] - 0.7)))
    return steep + 2 * (x[:, 0] - 0.55) ** 2 + 0.5 * (x[:, 1] - 0.4) ** 2 + 0.2 * np.abs(x[:, 2] - 0.5)


DIMENSIONS: dict[str, int] = {"bowl": 4, "branin": 2, "cliff": 3, "hartmann6": 6, "drawn": 3}
_FUNCTIONS: dict[str, Function] = {"bowl": bowl, "branin": branin, "cliff": cliff, "hartmann6": hartmann6}


def function(name: str, seed: int) -> Function:
    """The function, of standard deviation 1 over its space; `drawn` is another one for each seed."""
    d = DIMENSIONS[name]
    if name == "drawn":
        rng = np.random.default_rng(seed)
        W, phases, weights = (
            rng.standard_t(5, size=(d, 2000)) / 0.5,
            rng.uniform(0, 2 * np.pi, 2000),
            rng.normal(size=2000),
        )
        return lambda x: np.sqrt(2 / 2000) * np.cos(x @ W + phases) @ weights
    raw = _FUNCTIONS[name]
    values = raw(np.random.default_rng(0).random((20_000, d)))
    return lambda x: (raw(x) - values.mean()) / values.std()


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyStudy:
    """What a tuner tried, what it saw, and what was true."""

    X: Array  # (n, d)
    y: Array  # (n,)
    truth: Array  # (n,)

    def first(self, n: int) -> NoisyStudy:
        """As it was after n trials."""
        return NoisyStudy(X=self.X[:n], y=self.y[:n], truth=self.truth[:n])


def tuned_by_tpe(name: str, *, heavy: bool, n: int, seed: int) -> NoisyStudy:
    """A study of n trials; heavy: Student's t noise of three degrees of freedom, of the same standard deviation."""
    f, rng = function(name, seed), np.random.default_rng([seed, heavy])
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        X, y, truth = [], [], []
        for _ in range(n):
            trial = study.ask()
            x = np.array([trial.suggest_float(f"x{j}", 0, 1) for j in range(DIMENSIONS[name])])
            noise = rng.standard_t(3) / np.sqrt(3) if heavy else rng.standard_normal()
            X.append(x)
            truth.append(float(f(x[None])[0]))
            y.append(truth[-1] + NOISE * noise)
            study.tell(trial, y[-1])
    finally:
        optuna.logging.set_verbosity(verbosity)
    return NoisyStudy(X=np.array(X), y=np.array(y), truth=np.array(truth))
