"""What a study trains where no tuner proposes: a list that may grow with what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import optuna
from optuna.trial import FrozenTrial


class Plan(ABC):
    """Which configurations the runner trains, and on which seeds; what it decides follows from the trials."""

    @abstractmethod
    def extend(self, study: optuna.Study) -> int:
        """Enqueue what is to be trained next, if anything; how many trials the study is to have for now."""

    @abstractmethod
    def job(self, trial: FrozenTrial) -> tuple[dict[str, Any], int]:
        """The parameters and the seed of a trial that was enqueued."""
