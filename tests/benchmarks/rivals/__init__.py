"""What ours is raced against: other storages (`storages`), and other ways to choose the next configuration."""

from __future__ import annotations

RIVALS = {
    "rgpe": f"{__name__}.rgpe:RGPE",
    "cts": f"{__name__}.cts:CTS",
    "cts+updates": f"{__name__}.cts:CTSWithUpdates",
    "plain-gp": f"{__name__}.gaussian_processes:PlainGP",
    "plain-gp+portfolio": f"{__name__}.gaussian_processes:GPPortfolio",
    "history-mean": f"{__name__}.gaussian_processes:HistoryMean",
    "optuna-gp": f"{__name__}.optuna_on_rows:OptunaGP",
    "optuna-tpe": f"{__name__}.optuna_on_rows:OptunaTPE",
    "syne-tune-cts": f"{__name__}.syne_tune:SyneTuneCTS",
}
"""Methods by their names in tables, each as `hpo.replay.methods.load_method` takes it."""

OPTIONAL = {"syne-tune-cts": "syne_tune"}
"""Rivals that need a module which the development environment does not bring."""
