"""A plain Optuna script that keeps its history and starts from it: two lines differ from any other."""

import math

import optuna

from hpo import HistorySampler, HistoryStorage


def objective(trial: optuna.Trial) -> float:
    """Stands for a training run: the best is lr = 0.01, depth = 3."""
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    depth = trial.suggest_int("depth", 1, 8)
    return (math.log10(lr) + 2) ** 2 + (depth - 3) ** 2 / 4


storage = HistoryStorage("sqlite:///hpo.db")
study = optuna.create_study(storage=storage, sampler=HistorySampler(storage))
study.optimize(objective, n_trials=20)
print(f"first trial {study.trials[0].value:.4f}, best of {len(study.trials)} {study.best_value:.4f}")
