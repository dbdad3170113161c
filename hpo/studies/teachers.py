"""Which trained model does a study learn from? A trial of the history, or a checkpoint by its path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.studies.folds import fit_params
from hpo.studies.spec import Distil, StudySpec, TeacherFile
from hpo.studies.study_file import parse_spec
from hpo.studies.trainer_settings import trainer_config
from storage import history
from storage.database import Store
from storage.errors import StudyNotFoundError
from storage.history import StudySummary, TrialRecord
from storage.privacy import is_hidden
from trainers.job import TrainerConfig

KEY = "trainer.compress.distil.teacher"


def compress_section(spec: StudySpec, store: Store | None, *, folder: Path) -> dict[str, Any] | None:
    """`trainer.compress` of a study file with its teacher found; None where there is none. Raises SpecError.

    store: None on a machine that has no history.
    """
    section = spec.training.compress
    if section is None:
        return None
    content = section.model_dump(mode="json", exclude_defaults=True)
    if section.distil is not None:
        content["distil"]["teacher"] = _teacher(section.distil, spec, store, folder)
    return content


def config_of(summary: StudySummary, store: Store) -> TrainerConfig:
    """The settings with which a study of the history trained. Raises SpecError where `hpo tune` did not run it."""
    if summary.spec is None:
        raise SpecError(f"study {summary.name!r} was not run by `hpo tune`: what it trained is not known")
    spec = parse_spec(summary.spec, source=f"study {summary.name}")
    known = (summary.provenance or {}).get("folder")
    folder = Path.cwd() if known is None or is_hidden(known) else Path(known)
    return trainer_config(spec, folder=folder, compress=compress_section(spec, store, folder=folder))


def _teacher(distil: Distil, spec: StudySpec, store: Store | None, folder: Path) -> dict[str, Any]:
    if isinstance(distil.teacher, TeacherFile):
        return _from_file(distil.teacher, spec, folder)
    if store is None:
        raise SpecError(f"{KEY}: the checkpoint of {distil.teacher} is where its study was run; name a file instead")
    return _from_history(distil.teacher, store)


def _from_file(teacher: TeacherFile, spec: StudySpec, folder: Path) -> dict[str, Any]:
    path = (folder / Path(teacher.checkpoint).expanduser()).resolve()
    if not path.is_file():
        raise SpecError(f"{KEY}: there is no checkpoint {path}")
    config = trainer_config(spec, folder=folder)
    if teacher.model is not None:
        config = replace(config, model=teacher.model.class_path, model_args=dict(teacher.model.init_args))
    return {"checkpoint": str(path), "config": config.to_json(), "params": {}}


def _from_history(text: str, store: Store) -> dict[str, Any]:
    name, separator, number = text.rpartition("#")
    if not separator or not number.isdigit():
        name, number = text, ""
    try:
        summary = history.get_study(store, name)
    except StudyNotFoundError as error:
        raise SpecError(f"{KEY}: {error} (a checkpoint ends in .ckpt)") from error
    trial = _trial(summary, history.list_trials(store, summary.study_id), number)
    if trial.checkpoint is None or not Path(trial.checkpoint).exists():
        raise SpecError(f"{KEY}: the checkpoint of trial {trial.number} of {name!r} is gone: {trial.checkpoint}")
    config = config_of(summary, store)
    return {"checkpoint": trial.checkpoint, "config": config.to_json(), "params": fit_params(summary, trial)}


def _trial(summary: StudySummary, trials: list[TrialRecord], number: str) -> TrialRecord:
    """The trial of that number, or the best one."""
    complete = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE}
    if number:
        if int(number) not in complete:
            raise SpecError(f"{KEY}: study {summary.name!r} has no complete trial {number}")
        return complete[int(number)]
    if len(summary.directions) > 1:
        raise SpecError(f"{KEY}: study {summary.name!r} has several objectives; say which trial, {summary.name}#N")
    best = next((trial for trial in complete.values() if trial.value == summary.best), None)
    if best is None:
        raise SpecError(f"{KEY}: no trial of study {summary.name!r} has succeeded")
    return best
