"""Hindsight: hyperparameter tuning that learns from every training run you already have.

from hpo import HistorySampler, HistoryStorage

storage = HistoryStorage("sqlite:///hpo.db")
study = optuna.create_study(storage=storage, sampler=HistorySampler(storage))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.client.client import Client as Client
    from hpo.decisions.comparisons import compare as compare
    from hpo.decisions.importance_evaluator import HistoryImportanceEvaluator as HistoryImportanceEvaluator
    from hpo.decisions.winner import best as best
    from hpo.errors import HpoError as HpoError
    from hpo.running.replicating import replicate as replicate
    from hpo.running.runner import tune as tune
    from hpo.tuning.halving import HistoryHalving as HistoryHalving
    from hpo.tuning.pruner import HistoryPruner as HistoryPruner
    from hpo.tuning.sampler import HistorySampler as HistorySampler
    from hpo.tuning.stopping import StopWhenDone as StopWhenDone
    from storage.errors import StorageError as StorageError
    from storage.optuna_storage import HistoryStorage as HistoryStorage
    from trainers.optimization.optimizers import chosen_options as chosen_options
    from trainers.optimization.optimizers import make_optimizer as make_optimizer
    from trainers.optimization.schedules import make_schedule as make_schedule
    from trainers.programs.functions import TrialPruned as TrialPruned

__all__ = [
    "Client",
    "HistoryImportanceEvaluator",
    "HistoryHalving",
    "HistoryPruner",
    "HistorySampler",
    "HistoryStorage",
    "HpoError",
    "StopWhenDone",
    "StorageError",
    "TrialPruned",
    "best",
    "chosen_options",
    "compare",
    "make_optimizer",
    "make_schedule",
    "replicate",
    "tune",
]

_HOMES = {
    "Client": "hpo.client.client",
    "HistoryImportanceEvaluator": "hpo.decisions.importance_evaluator",
    "HistoryHalving": "hpo.tuning.halving",
    "HistoryPruner": "hpo.tuning.pruner",
    "HistorySampler": "hpo.tuning.sampler",
    "HistoryStorage": "storage.optuna_storage",
    "HpoError": "hpo.errors",
    "StopWhenDone": "hpo.tuning.stopping",
    "StorageError": "storage.errors",
    "TrialPruned": "trainers.programs.functions",
    "best": "hpo.decisions.winner",
    "chosen_options": "trainers.optimization.optimizers",
    "compare": "hpo.decisions.comparisons",
    "make_optimizer": "trainers.optimization.optimizers",
    "make_schedule": "trainers.optimization.schedules",
    "replicate": "hpo.running.replicating",
    "tune": "hpo.running.runner",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import hpo` and `hpo --help` are instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
