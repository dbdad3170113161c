"""`/history`: what there is, what nobody learns from, and letting go; `/sources`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from optuna.distributions import distribution_to_json
from pydantic import BaseModel, ConfigDict, Field

from hpo.answers import questions
from hpo.answers.history import (
    AboutName,
    HistoryOverview,
    HistoryTotals,
    SourceForgotten,
    SpacesFound,
    StudyQuarantined,
    StudyRepaired,
    StudyTrusted,
    about_fields,
    forgotten_fields,
    overview_fields,
    quarantined_fields,
    totals_fields,
    trusted_fields,
)
from hpo.answers.named_history import named_history
from hpo.api.access import Operator, Reader, ServiceState
from hpo.api.answers import already_json, as_json, says
from hpo.api.problems import ApiError
from hpo.api.routes.trials import Where
from hpo.api.slow_answers import SlowRoute
from storage import sources
from storage.audit import Doer
from storage.history import get_study
from storage.importers.flags import quarantine, trust
from storage.overview import overview
from storage.queries import select_trials, totals
from storage.repairs import repair
from storage.revisions import history_mark
from storage.sources import KnownSource

Name = Annotated[str, Field(min_length=1, max_length=300)]

router = APIRouter(tags=["history"], route_class=SlowRoute)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QuarantineRequest(_Request):
    """A study that nobody is to learn from."""

    study: Name
    reason: str = Field(min_length=1, max_length=1_000, description="Why; it is shown wherever the study is.")


class TrustRequest(_Request):
    """A study that is right after all."""

    study: Name


class RepairRequest(_Request):
    """What is to be mended about a study; `GET /families/{name}/quality` says what that would do."""

    study: Name
    kind: Literal["scale break", "reversed direction"]


class ForgetRequest(_Request):
    """A source whose studies are to go."""

    source: Name
    dry_run: bool = Field(False, description="Only say what would go.")


@router.get("/history", responses=says(HistoryOverview))
def get_history(who: Reader, service: ServiceState) -> Response:
    """The sources, the families and what is in quarantine; as `hpo history list --json`."""
    return as_json(overview_fields(sources.list_sources(service.store), overview(service.store)))


@router.get("/history/about", responses=says(AboutName))
def get_about(
    who: Reader,
    service: ServiceState,
    name: Annotated[str, Query(min_length=1, max_length=300, description="A source, a task, a family or a study.")],
) -> Response:
    """How much is in it, the best of it, its cost, its space; as `hpo history show --json`. 404 `no-history`."""
    return as_json(about_fields(named_history(service.store, name)))


@router.get("/history/totals", responses=says(HistoryTotals))
def get_totals(who: Reader, service: ServiceState, where: Where = "") -> Response:
    """How many trials meet a condition, at what cost, the best of each task; as `hpo history query --totals --json`."""
    return as_json(totals_fields(totals(service.store, where)))


@router.get("/history/parameters", responses=says(dict[str, list[str]]))
def get_parameters(who: Reader, service: ServiceState, where: Where = "") -> Response:
    """What the parameters of the trials that meet a condition may have been drawn from, as Optuna writes it in JSON."""
    with select_trials(service.store, where, limit=0) as found:
        drawn = {name: [distribution_to_json(each) for each in known] for name, known in found.parameters.items()}
    return as_json(drawn)


@router.get("/history/spaces", responses=says(SpacesFound))
def get_spaces(who: Reader, service: ServiceState) -> Response:
    """The space of each family, and how the spaces of near families relate; as `hpo history spaces --json`."""
    as_of = history_mark(service.store)
    return already_json(service.calculations.answer(questions.spaces, store_url=service.store.url, as_of=as_of))


@router.get("/sources", responses=says(list[KnownSource]))
def list_sources(who: Reader, service: ServiceState) -> Response:
    """Everything that studies came from, by name."""
    return as_json(sources.list_sources(service.store))


@router.post("/history/quarantine", responses=says(StudyQuarantined))
def put_in_quarantine(who: Operator, service: ServiceState, request: QuarantineRequest) -> Response:
    """Let nobody learn from a study, until `POST /history/trust`. Nothing of it is lost."""
    doer = Doer(who=who.owner, action="study.quarantine")
    before = quarantine(service.store, request.study, f"{who.owner}: {request.reason}", doer=doer)
    return as_json(quarantined_fields(request.study, request.reason, before))


@router.post("/history/trust", responses=says(StudyTrusted))
def trust_study(who: Operator, service: ServiceState, request: TrustRequest) -> Response:
    """Let the tuner learn again from a study that was in quarantine; as `hpo history trust --json`."""
    get_study(service.store, request.study)  # says near names where there is none
    reason = trust(service.store, request.study, doer=Doer(who=who.owner, action="study.trust"))
    return as_json(trusted_fields(request.study, reason))


@router.post("/history/repair", responses=says(StudyRepaired))
def repair_study(who: Operator, service: ServiceState, request: RepairRequest) -> Response:
    """Mend what is odd about a study, and learn from it again. What was done is kept with the study.

    422 `storage`: there is nothing of that kind to mend, or its trials have not all finished.
    """
    doer = Doer(who=who.owner, action="study.repair")
    done = repair(service.store, request.study, kind=request.kind, who=who.owner, doer=doer)
    told: StudyRepaired = {"study": request.study, "done": done}
    return as_json(told)


@router.post("/history/forget", responses=says(SourceForgotten))
def forget_source(who: Operator, service: ServiceState, request: ForgetRequest) -> Response:
    """Remove a source with all its studies and trials, and what was learned from them; `hpo history forget --json`.

    What was imported; studies that ran here are everybody's, and only an admin lets all of them go (else 403). 409
    `launch` while one of them is to run.
    """
    is_allowed = request.dry_run or who.may("administer")
    if not is_allowed and sources.ran_here(service.store, request.source):
        whose = f"{request.source!r} is everybody's studies that ran here, and not an import"
        raise ApiError(403, "not-allowed", f"{whose}; it takes an admin to forget them. Single studies can be deleted")
    doer = Doer(who=who.owner, action="source.forget")
    gone = sources.forget(service.store, request.source, dry_run=request.dry_run, doer=doer)
    return as_json(forgotten_fields(request.source, gone, dry_run=request.dry_run))
