"""How does the model of a trial come into MLflow's model registry, as the champion that others load?

torch and the study's code belong to a process of their own (`trainers.registry`), which this one asks.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpo.decisions.winner import Best, best
from hpo.errors import SettingsError, StudyFailedError
from hpo.settings import mlflow_uri, refuse_shared_database, storage_url
from hpo.studies.folds import fit_params
from hpo.studies.front import front_of
from hpo.studies.teachers import config_of
from storage import history
from storage.errors import TrialNotFoundError
from storage.history import StudySummary, TrialRecord
from storage.mlflow_runs import known_run
from storage.schema import open_store
from trainers.job import COMPRESSED_MODEL, FitJob

NOT_IN_NAMES = re.compile(r"[/:%.\"'\s]+")  # of registered models: MLflow reads them in URIs
NUMBERS_SHOWN = 12  # trials of a front, in an error


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What another training run of the promoted configuration is expected to bring."""

    value: float
    interval95: tuple[float, float]
    by: str  # how that is known


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A model in the registry, and what is known of it."""

    study: str
    trial: int
    why: str  # that trial
    objectives: dict[str, float]  # what its training run came to
    expected: Expected | None  # None: too few trials to tell
    name: str
    version: str
    alias: str
    model_uri: str
    mlflow_uri: str
    serialization: str  # pt2: a graph that needs no code; pickle: the code is kept with it
    note: str  # why it is not pt2; else empty
    checkpoint: str
    compressed: bool  # whether the compressed model beside it is meant
    metrics: dict[str, float]  # of the validation, run again on what was registered
    largest_difference: float  # between the predictions of the checkpoint and of the registered model

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def promote(
    study: str,
    *,
    trial: int | None = None,
    name: str | None = None,
    mlflow: str | None = None,
    storage: str | None = None,
) -> Promotion:
    """Register the model of a trial, with its signature, its evaluation and the alias `champion`.

    trial: its number; by default the best one, as `hpo.best` judges. name: in the registry; by default the task's.
    Raises StudyNotFoundError, TrialNotFoundError, SettingsError, SpecError, StudyFailedError.
    """
    url = storage_url(storage)
    store = open_store(url, upgrade=False)
    summary = history.get_study(store, study)
    uri = mlflow_uri(mlflow) if mlflow is not None or summary.mlflow_uri is None else summary.mlflow_uri
    trials = {record.number: record for record in history.list_trials(store, summary.study_id)}
    number, why, expected = _choose(summary, list(trials.values()), trial, url)
    chosen = _usable(summary, trials, number)
    if uri is None:
        raise SettingsError("a model is registered in MLflow: name one by --mlflow")
    refuse_shared_database(url, uri)
    config = config_of(summary, store)
    checkpoint = Path(chosen.checkpoint or "")
    compressed = checkpoint.with_name(COMPRESSED_MODEL)
    objectives = dict(zip(summary.objectives, chosen.values, strict=True))
    job = FitJob(
        params=fit_params(summary, chosen),
        seed=chosen.seed or 0,
        metric=summary.metric or "value",
        direction="maximize" if summary.directions[0] == "maximize" else "minimize",
        directory=str(checkpoint.parent),
    )
    order = {
        "config": config.to_json(),
        "job": job.to_json(),
        "checkpoint": str(checkpoint),
        "compressed": str(compressed) if compressed.exists() else None,
        "name": registry_name(name or summary.task or summary.name),
        "mlflow_uri": uri,
        "experiment": summary.task or summary.name,
        "run_id": known_run(store, summary.study_id, chosen.number, chosen.attempt, mlflow_uri=uri),
        "tags": _tags(summary, chosen, objectives, expected),
        "description": _description(summary, chosen, why, objectives, expected),
    }
    entry = _register(order)
    return Promotion(
        study=summary.name,
        trial=number,
        why=why,
        objectives=objectives,
        expected=expected,
        mlflow_uri=uri,
        checkpoint=str(checkpoint),
        compressed=order["compressed"] is not None,
        **entry,
    )


def registry_name(text: str) -> str:
    """A name that MLflow takes, as near as possible to the text."""
    return NOT_IN_NAMES.sub("-", text).strip("-") or "model"


# Which trial ----------------------------------------------------------------------------------------------------------


def _choose(
    summary: StudySummary, trials: Sequence[TrialRecord], asked: int | None, storage: str
) -> tuple[int, str, Expected | None]:
    """The trial's number, why it is that one, and what is expected of it."""
    if len(summary.directions) > 1:
        return _from_front(summary, trials, asked), "chosen from the front", None
    judged = best(summary.name, storage, against=asked)
    if asked is not None:
        return asked, "chosen by its number", _expected_of(judged, asked)
    if judged.winner is not None:
        return judged.winner.number, "the best, by all trials of the study", _expected_of(judged, judged.winner.number)
    if judged.raw_best is None:
        raise SettingsError(f"no trial of study {summary.name!r} has been completed yet")
    return judged.raw_best[0], f"the best value; {judged.not_enough}", None


def _from_front(summary: StudySummary, trials: Sequence[TrialRecord], asked: int | None) -> int:
    if asked is not None:
        return asked
    numbers = [str(point.number) for point in front_of(summary, trials).points]
    there = ", ".join(numbers[:NUMBERS_SHOWN]) or "none yet"
    raise SettingsError(
        f"study {summary.name!r} has {len(summary.directions)} objectives, so that there is no one best trial; say "
        f"which of its front by --trial: {there} (`hpo front {summary.name}` shows them)"
    )


def _expected_of(judged: Best, number: int) -> Expected | None:
    """By fresh replicates where there are any, else by the model of the study's trials."""
    replication = judged.replication
    fresh = [each for each in replication.contenders if each.number == number] if replication is not None else []
    for each in fresh:
        if each.mean is not None and each.interval95 is not None:
            return Expected(value=each.mean, interval95=each.interval95, by=f"{len(each.values)} fresh replicates")
    by = f"all {judged.used} complete trials of the study"
    if judged.against is not None and judged.against.number == number:
        return Expected(value=judged.against.value, interval95=judged.against.interval95, by=by)
    for contender in judged.contenders:
        if contender.number == number:
            return Expected(value=contender.value, interval95=contender.interval95, by=by)
    return None


def _usable(summary: StudySummary, trials: dict[int, TrialRecord], number: int) -> TrialRecord:
    if number not in trials:
        raise TrialNotFoundError(f"There is no trial {number} in study {summary.name!r}.")
    refuse_unusable(summary, trials[number])
    return trials[number]


def refuse_unusable(summary: StudySummary, found: TrialRecord) -> None:
    """Raises SettingsError for a trial of which there is no model to register."""
    number = found.number
    if found.state != TrialState.COMPLETE:
        raise SettingsError(f"trial {number} of study {summary.name!r} is {found.state.name.lower()}, not complete")
    told = found.checkpoint
    if told is not None and not Path(told).is_absolute():
        raise SettingsError(
            f"the checkpoint of trial {number} of study {summary.name!r}, from which a model is registered, is not on "
            f"the server but at {told}: workers send files of up to 2 GiB; for larger ones, and for folders, they and "
            "the server take a folder of runs that they share (--runs)"
        )
    if told is None or not Path(told).exists():
        raise SettingsError(
            f"trial {number} of study {summary.name!r} has no checkpoint any more "
            f"({told or 'none was kept'}); a model is registered from it"
        )


# What is said of it ---------------------------------------------------------------------------------------------------


def _tags(
    summary: StudySummary, trial: TrialRecord, objectives: dict[str, float], expected: Expected | None
) -> dict[str, str]:
    tags = {
        "hindsight.study": summary.name,
        "hindsight.trial": str(trial.number),
        "hindsight.params": json.dumps(trial.params),
        "hindsight.seed": str(trial.seed),
        "hindsight.code_version": str(trial.code_version),
        **{f"hindsight.value.{_plain(name)}": repr(value) for name, value in objectives.items()},
    }
    if expected is not None:
        low, high = expected.interval95
        tags |= {"hindsight.expected": repr(expected.value), "hindsight.interval95": f"{low!r} … {high!r}"}
    return tags


def _description(
    summary: StudySummary, trial: TrialRecord, why: str, objectives: dict[str, float], expected: Expected | None
) -> str:
    values = ", ".join(f"{name} = {value:.6g}" for name, value in objectives.items())
    text = f"Trial {trial.number} of study {summary.name} ({why}): {values} in its training run."
    if expected is not None:
        low, high = expected.interval95
        text += (
            f" Another run is expected to bring {summary.objectives[0]} = {expected.value:.6g}, "
            f"95% {low:.6g} … {high:.6g}, by {expected.by}."
        )
    return text


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. ]", "_", name)


def _register(order: dict[str, Any]) -> dict[str, Any]:
    """What the process that knows torch answers. Raises StudyFailedError."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trainers.registry"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        tail = "\n".join(done.stderr.strip().splitlines()[-6:])
        raise StudyFailedError(f"the model cannot be registered:\n{tail}") from None
    if "error" in answer:
        raise StudyFailedError(f"the model cannot be registered: {answer['error']}")
    entry: dict[str, Any] = answer["entry"]
    return entry
