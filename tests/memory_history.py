"""Optuna's memory storage with what the sampler asks of a history: for tests that need many small histories fast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from optuna.storages import InMemoryStorage

from storage.arrays import TrialArrays
from storage.distributions import distribution_of, fields_of
from storage.families import Family, family_of
from storage.learned import Learned, Losses
from storage.summaries import StudySample, sample_study


class MemoryHistory(InMemoryStorage):
    """Every study is a family of its own."""

    def past_families(self) -> list[Family]:
        return [family for study in self.get_all_studies() for family in [self._family(study)] if family is not None]

    def past_studies(self, family: Family) -> tuple[StudySample, ...]:
        trials = [trial for trial in self._finished(family.family_id) if trial.params]
        arrays = self._arrays(family, trials)
        sample = sample_study(family, self.get_study_name_from_id(family.family_id), arrays, np.arange(len(trials)))
        return () if sample is None else (sample,)

    def past_costs(self, family: Family, study_ids, cost, most) -> dict[int, TrialArrays]:
        known = [
            trial for trial in self._finished(family.family_id)
            if trial.params and trial.state.name == "COMPLETE" and cost in trial.user_attrs
        ]  # fmt: skip
        costs = np.array([float(trial.user_attrs[cost]) for trial in known])
        arrays = replace(self._arrays(family, known), costs=costs).of(np.arange(min(most, len(known))))
        return {family.family_id: arrays} if known else {}

    def _arrays(self, family: Family, trials) -> TrialArrays:
        names = tuple(family.space)
        distributions = tuple(distribution_of(name, fields) for name, fields in family.space.items())
        internal = [
            [
                distribution.to_internal_repr(trial.params[name]) if name in trial.params else np.nan
                for name, distribution in zip(names, distributions, strict=True)
            ]
            for trial in trials
        ]
        n = len(trials)
        return TrialArrays(
            names=names,
            distributions=distributions,
            study_ids=np.full(n, family.family_id),
            numbers=np.array([trial.number for trial in trials]),
            states=np.array([trial.state.value for trial in trials], dtype=np.int64),
            values=np.array([np.nan if trial.value is None else trial.value for trial in trials]),
            internal=np.array(internal, dtype=float).reshape(n, len(names)),
            costs=np.full(n, np.nan),
        )

    def losses(self) -> Losses:
        return ()

    def recall(self, subject: str) -> Learned | None:
        return vars(self).get("learned", {}).get(subject)

    def keep(self, subject: str, content: Learned, *, since: Losses) -> None:
        self.learned = {**vars(self).get("learned", {}), subject: content}

    def _family(self, study) -> Family | None:
        space = {
            name: fields_of(distribution)
            for trial in self._finished(study._study_id)
            for name, distribution in trial.distributions.items()
        }
        directions = tuple(direction.name.lower() for direction in study.directions)
        if not space or len(directions) != 1:
            return None
        return Family(
            family_id=study._study_id,
            name=family_of(space, None, directions),
            metric=None,
            directions=directions,
            space=space,
            revision=1,
            lost_at=0,
        )

    def _finished(self, study_id: int):
        return [trial for trial in self.get_all_trials(study_id, deepcopy=False) if trial.state.is_finished()]
