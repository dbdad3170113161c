"""What proposes and prunes in a study? An Optuna study with the sampler and the pruner that its file asks for."""

from __future__ import annotations

import optuna

from hpo.studies.spec import Pruner, StudySpec
from hpo.tuning.halving import HistoryHalving
from hpo.tuning.pruner import HistoryPruner
from hpo.tuning.sampler import HistorySampler
from storage.optuna_storage import HistoryStorage

NONE = Pruner(name="none")


def tuned_study(storage: HistoryStorage, spec: StudySpec) -> optuna.Study:
    """The study of that file, which is there already. Studies of several objectives are not pruned."""
    return optuna.load_study(
        study_name=spec.study,
        storage=storage,
        sampler=HistorySampler(storage, seed=spec.seeds.tuner, cost=spec.cost),
        pruner=_make_pruner(spec.pruner if len(spec.task.metrics) == 1 else NONE, storage),
    )


def _make_pruner(pruner: Pruner, storage: HistoryStorage) -> optuna.pruners.BasePruner:
    if pruner.name == "none":
        return optuna.pruners.NopPruner()
    promised = {} if pruner.false_prunes is None else {"false_prunes": pruner.false_prunes}
    if pruner.name == "halving":
        return HistoryHalving(storage, warmup_steps=pruner.warmup_epochs, **promised)
    if pruner.name == "history":
        return HistoryPruner(
            storage,
            startup_trials=pruner.startup_trials,
            warmup_steps=pruner.warmup_epochs,
            **promised,
        )
    return optuna.pruners.MedianPruner(n_startup_trials=pruner.startup_trials, n_warmup_steps=pruner.warmup_epochs)
