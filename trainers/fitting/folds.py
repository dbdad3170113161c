"""How is a configuration trained on each fold of the data in turn, and what does it come to (k-fold cross-validation)?

The data module is given `fold` (from 0) and `folds`. Each fold is a fit of its own, with checkpoints in a folder of its
own and its own seed, so that the mean averages over the randomness of training too. What is reported of a trial is the
mean so far after each fold, so that it can be pruned between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch.distributed

from trainers.errors import ParameterMismatchError
from trainers.fitting.checkpoints import FROM_THE_BEGINNING, Start, find_start, identity_of
from trainers.fitting.fit import fit
from trainers.job import FOLD, FOLD_FOLDER, FOLDS, FitJob, Outcome, TrainerConfig
from trainers.programs import LightningProgram
from trainers.programs.build import signature_of
from trainers.programs.modules import ModuleProgram
from trainers.reports import FitError, Report


def train(
    program: LightningProgram,
    config: TrainerConfig,
    job: FitJob,
    *,
    slot: int,
    report: Report,
    pulse: Callable[[], None],
    starts: Sequence[Start] = (),
) -> Outcome:
    """Train a configuration, on each fold if there are several.

    starts: from which checkpoints its fits go on, by fold; none: from the beginning. Raises what `fit` raises.
    """
    jobs = fits_of(config, job)
    starts = starts or [FROM_THE_BEGINNING] * len(jobs)
    if len(jobs) == 1:
        return fit(program, config, job, slot=slot, report=report, pulse=pulse, start=starts[0])
    told: list[Mapping[str, float]] = []  # by fold, what was logged in its best epoch
    outcomes: list[Outcome] = []
    for fold, (its_job, start) in enumerate(zip(jobs, starts, strict=True)):
        epochs: dict[int, Mapping[str, float]] = {}
        try:
            outcome = fit(program, config, its_job, slot=slot, report=_note_epochs(epochs), pulse=pulse, start=start)
        except FitError as error:
            raise FitError(error.kind, f"{error.reason} (in fold {fold})") from error
        outcomes.append(outcome)
        told.append(epochs.get(outcome.best_epoch, {}))
        metrics = {**_means(told), f"fold_{job.metric}": outcome.value}
        if _is_to_be_pruned(report, outcomes, metrics) and len(outcomes) < len(jobs):
            return replace(sum_up(outcomes), pruned=True)
    return sum_up(outcomes)


def find_starts(config: TrainerConfig, job: FitJob) -> list[Start]:
    """The checkpoints of earlier attempts, by fold; to be looked for before ranks are forked."""
    return [_find_start(config, its_job) for its_job in fits_of(config, job)]


def fits_of(config: TrainerConfig, job: FitJob) -> list[FitJob]:
    """The fits that a trial takes: itself, or one for each fold."""
    if config.folds == 1:
        return [job]
    return [
        replace(
            job,
            params={**job.params, FOLD: fold, FOLDS: config.folds},
            seed=int(np.random.SeedSequence([job.seed, fold]).generate_state(1)[0]),
            directory=_folder(job.directory, fold),
            earlier=tuple(_folder(earlier, fold) for earlier in job.earlier),
        )
        for fold in range(config.folds)
    ]


def check_folds(program: LightningProgram, config: TrainerConfig, names: Collection[str]) -> list[str]:
    """The names of all parameters, those of the folds among them. Raises ParameterMismatchError where that cannot be.

    names: of the space.
    """
    if config.folds == 1:
        return list(names)
    said = f"folds = {config.folds}"
    if taken := [name for name in (FOLD, FOLDS, "fold", "folds") if name in names]:
        raise ParameterMismatchError(f"{said}: the space has {taken[0]}, which cross-validation sets: remove it")
    if isinstance(program, ModuleProgram):  # the parser of a LightningCLI project says so by itself
        data = program.classes.data
        known = () if data is None else signature_of(data).names
        if not {"fold", "folds"} <= set(known):
            has = "there is no data module" if data is None else f"{data.__name__} takes {', '.join(known) or 'none'}"
            raise ParameterMismatchError(
                f"{said}: the data module is to take the arguments `fold` (from 0) and `folds`, and {has}"
            )
    return [*names, FOLD, FOLDS]


def sum_up(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of the folds; checkpoint and best epoch are those of the fold whose value is nearest to it."""
    value = fmean(outcome.value for outcome in outcomes)
    typical = min(outcomes, key=lambda outcome: abs(outcome.value - value))
    return replace(
        typical,
        value=value,
        more_values=tuple(map(fmean, zip(*(outcome.more_values for outcome in outcomes), strict=True))),
        measured=_means([outcome.measured for outcome in outcomes]),
        epochs=sum(outcome.epochs for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        peak_memory_bytes=max(outcome.peak_memory_bytes for outcome in outcomes),
        notes=tuple(f"fold {fold}: {note}" for fold, outcome in enumerate(outcomes) for note in outcome.notes),
    )


def _find_start(config: TrainerConfig, job: FitJob) -> Start:
    folder, earlier = Path(job.directory), [Path(folder) for folder in job.earlier]
    folder.mkdir(parents=True, exist_ok=True)
    return find_start(folder, identity=identity_of(config, job), earlier=earlier)


def _folder(directory: str, fold: int) -> str:
    return str(Path(directory, f"{FOLD_FOLDER}{fold}"))


def _note_epochs(epochs: dict[int, Mapping[str, float]]) -> Report:
    def note(*, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        epochs[epoch] = metrics
        return False

    return note


def _is_to_be_pruned(report: Report, outcomes: Sequence[Outcome], metrics: dict[str, float]) -> bool:
    """Report the mean of the folds so far, on rank 0, and tell every rank the answer."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    answer = [False]
    if not is_distributed or torch.distributed.get_rank() == 0:
        value = fmean(outcome.value for outcome in outcomes)
        answer = [report(epoch=len(outcomes) - 1, value=value, metrics=metrics)]
    if is_distributed:
        torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def _means(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each name that all of them have."""
    names = set.intersection(*(set(record) for record in records))
    return {name: fmean(record[name] for record in records) for name in sorted(names)}
