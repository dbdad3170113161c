"""How are the contenders of a study trained again on the server, on seeds that chose nothing?

Their replicates are kept as a study of their own, and that is launched like any other: it waits for its turn within the
limits, trains only code that is allowed, survives the server, and can be watched, paused, stopped, and let go on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass

from optuna.trial import TrialState

from hpo.errors import SettingsError
from hpo.running.creation import create_study
from hpo.service.launching import LaunchOptions, check_launch, devices_of
from hpo.service.state import Service
from hpo.studies.replicates import SUFFIX, check_name, spec_of_replicates
from hpo.studies.spec import StudySpec
from storage import history, launches
from storage.audit import Doer
from storage.database import Store
from storage.errors import StudyExistsError
from storage.history import StudySummary
from storage.launches import Launch
from storage.trial_pages import trial_numbered

REPLICATES = "replicates"  # setting of a launch: what `ReplicatesWanted` says


@dataclass(frozen=True, kw_only=True)
class ReplicatesWanted:
    """How many replicates, and of what."""

    study_id: int  # whose trials are trained again
    most: int  # replicates in all, those that there are included
    against: int | None  # a trial that is among the contenders whatever it came to


def start_replicates(
    service: Service, study_id: int, *, most: int, against: int | None, options: LaunchOptions, owner: str
) -> Launch:
    """Let the contenders of a study be trained again until one stands out, or `most` replicates have ended.

    Raises StudyNotFoundError, TrialNotFoundError, SettingsError, SpecError; LaunchError while they are being trained.
    """
    study = history.study_of_id(service.store, study_id)
    spec = spec_of_replicates(study, most)
    if (reason := why_not_replicated(study)) is not None:
        raise SettingsError(reason)
    if against is not None:
        trial_numbered(service.store, study_id, against, known=service.known_sets)
    check_launch(service, spec, options)
    details = {"study": study.name, "replicates": most, "jobs": options.jobs, "priority": options.priority}
    launch = launches.request_launch(
        service.store,
        _study_of_replicates(service, study, spec),
        owner=owner,
        place="server",
        jobs=options.jobs,
        devices=devices_of(spec),
        priority=options.priority,
        settings={
            "executor": options.executor or service.placement.executor,
            REPLICATES: asdict(ReplicatesWanted(study_id=study_id, most=most, against=against)),
        },
        doer=Doer(who=owner, action="study.replicate", details=details),
        anew=True,
    )
    service.called.set()
    return launch


def find_replicates(store: Store, study: StudySummary) -> StudySummary | None:
    """The study that holds the replicates of another; None where there is none."""
    return next(iter(history.newest_studies(store, limit=1, name=study.name + SUFFIX)), None)


def why_not_replicated(study: StudySummary) -> str | None:
    """Why the trials of a study cannot be trained again here, in words; None: they can."""
    if study.spec is None or study.spec.get("trainer") is None:
        return f"the file of study {study.name!r} names no trainer: only who trained its trials can train them again"
    if len(study.directions) != 1:
        return f"study {study.name!r} has {len(study.directions)} objectives: there is no one best of it"
    if not study.counts[TrialState.COMPLETE]:
        return f"study {study.name!r} has no complete trial yet: there is nothing to replicate"
    return None


def _study_of_replicates(service: Service, study: StudySummary, spec: StudySpec) -> int:
    """The id of the study that holds them, which is made where there is none."""
    check_name(service.store, study)
    with suppress(StudyExistsError):
        folder, mlflow = service.projects, service.mlflow_uri
        return create_study(service.store, spec, folder=folder, mlflow_uri=mlflow, is_planned=True)
    return history.get_study(service.store, spec.study).study_id
