"""`/statistics`: what the past says, worked out beside the server and kept until something changes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hpo.answers import pictures, questions
from hpo.answers.advice import RangeAdvice
from hpo.answers.effects import Effects, ParameterImportance
from hpo.answers.front import FrontFound
from hpo.answers.pictures import MEDIA_TYPES, Format
from hpo.answers.plan import Plan
from hpo.api.access import Reader, ServiceState
from hpo.api.answers import already_json, is_file, says
from hpo.api.routes.trials import Where
from hpo.api.slow_answers import SlowRoute
from hpo.decisions.comparisons import Comparisons
from hpo.decisions.winner import Best
from hpo.errors import SpecError
from hpo.service.calculations import Question
from hpo.service.state import Service
from hpo.studies.study_file import parse_spec
from hpo.studies.yaml_lines import Path_, parse_yaml
from storage.revisions import history_mark

Target = Annotated[
    str, Query(min_length=1, max_length=300, description="A task or a family.", examples=["digits_mlp/all"])
]
StudyName = Annotated[str, Query(min_length=1, max_length=300, description="The name of a study.")]
Side = Annotated[
    str,
    Query(
        min_length=1,
        max_length=300,
        description="A study, a pattern of names, or a trial as STUDY#TRIAL.",
        examples=["digits/new", "new/*", "digits_mlp/all#3"],
    ),
]
PictureFormat = Annotated[Format, Query(description="Of the file.")]
MOST_SIDES = 20

router = APIRouter(prefix="/statistics", tags=["statistics"], route_class=SlowRoute)


class Rival(BaseModel):
    """What a winner is to beat: one of the two."""

    model_config = ConfigDict(extra="forbid")

    number: int | None = Field(None, ge=0, le=2**31 - 1, description="A trial of the study.")
    params: dict[str, Any] | None = Field(None, min_length=1, description="A configuration.")

    @model_validator(mode="after")
    def _is_one(self) -> Rival:
        if (self.number is None) == (self.params is None):
            raise ValueError("give either a trial's number or the params of a configuration")
        return self


class BestQuestion(BaseModel):
    """Which study, and what its winner is compared with."""

    model_config = ConfigDict(extra="forbid")

    study: str = Field(min_length=1, max_length=300)
    against: Rival | None = Field(None, description="By default what was enqueued first.")


class PlanQuestion(BaseModel):
    """A study file, as its content or as YAML, and how it is to run."""

    model_config = ConfigDict(extra="forbid")

    file: dict[str, Any] | None = Field(None, description="The content of a study file.")
    yaml: str | None = Field(None, max_length=1_000_000, description="The same as YAML.")
    trials: int | None = Field(None, ge=1, le=10_000, description="Trials in all; overrides the file's budget.")
    jobs: int = Field(1, ge=1, le=10_000, description="Trials side by side.")
    price_per_hour: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Of an hour that one trial trains."
    )

    @model_validator(mode="after")
    def _is_one(self) -> PlanQuestion:
        if (self.file is None) == (self.yaml is None):
            raise ValueError("give either file, the content of a study file, or yaml, its text")
        return self


@router.get("/effects", responses=says(Effects))
def get_effects(
    who: Reader,
    service: ServiceState,
    target: Target,
    where: Where = "",
    parameter: Annotated[list[str] | None, Query(max_length=100, description="Only these; all by default.")] = None,
    *,
    pairs: Annotated[bool, Query(description="Also the ranges of pairs of parameters.")] = False,
    importance: Annotated[bool, Query(description="Also which parameters the outcome depends on.")] = False,
    raw_units: Annotated[bool, Query(description="Outcomes of one task as they were recorded.")] = False,
) -> Response:
    """What each range of each hyperparameter was worth, as `hpo stats --json`.

    Two estimates stand side by side: what went along with a range, and what is left of it when the other parameters are
    spread evenly (`adjusted`), each with 95% intervals for the mean over tasks and for a new task (`prediction`).
    404 `no-history`: no such task or family, or no finished trial of it.
    """
    return _answered(
        service,
        questions.effects,
        target=target,
        where=where,
        parameters=parameter or [],
        pairs=pairs,
        importance=importance,
        raw_units=raw_units,
    )


@router.get("/effects/figure", response_class=Response, responses=is_file(*MEDIA_TYPES.values()))
def draw_effects(
    who: Reader,
    service: ServiceState,
    target: Target,
    where: Where = "",
    parameter: Annotated[
        list[str] | None, Query(max_length=100, description="Only these; of one also its tasks.")
    ] = None,
    format: PictureFormat = "png",
    *,
    raw_units: Annotated[bool, Query(description="Outcomes of one task as they were recorded.")] = False,
) -> Response:
    """The same as curves, as a file; as `hpo stats --figure`. 422 `settings` where there is nothing to draw."""
    parameters = parameter or []
    asked = {"target": target, "where": where, "parameters": parameters, "raw_units": raw_units}
    return _drawn(service, pictures.effects_picture, format, **asked)


@router.get("/importance", responses=says(ParameterImportance | None))
def get_importance(who: Reader, service: ServiceState, target: Target, where: Where = "") -> Response:
    """Which hyperparameters, and pairs of them, the outcome depends on, with intervals; null with too few trials."""
    return _answered(service, questions.importance, target=target, where=where)


@router.get("/resemblance", responses=says(questions.TaskMap))
def get_resemblance(who: Reader, service: ServiceState, target: Target, where: Where = "") -> Response:
    """Which past tasks resemble which: a map by what their own runs say of the hyperparameters."""
    return _answered(service, questions.resemblance, target=target, where=where)


@router.get("/best", responses=says(Best))
def get_best(
    who: Reader,
    service: ServiceState,
    study: StudyName,
    against: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="A trial to compare with.")] = None,
) -> Response:
    """Which configuration of a study is best, what it is worth, and how sure that is; as `hpo best --json`."""
    return _answered(service, questions.best, study=study, against=against)


@router.post("/best", responses=says(Best))
def ask_best(who: Reader, service: ServiceState, question: BestQuestion) -> Response:
    """The same, against a configuration too. It changes nothing."""
    rival = question.against
    against = None if rival is None else rival.params if rival.number is None else rival.number
    return _answered(service, questions.best, study=question.study, against=against)


@router.get("/front", responses=says(FrontFound))
def get_front(who: Reader, service: ServiceState, study: StudyName) -> Response:
    """The trials of a study of several objectives that no other beats in everything; as `hpo front --json`."""
    return _answered(service, questions.front, study=study)


@router.get("/compare", responses=says(Comparisons))
def get_comparison(
    who: Reader,
    service: ServiceState,
    first: Side,
    other: Annotated[list[Side], Query(min_length=1, max_length=MOST_SIDES, description="What it is compared with.")],
) -> Response:
    """Is one study better than others, or one trial than others, and is that enough to say so? `hpo compare --json`."""
    return _answered(service, questions.compare, first=first, others=other)


@router.post("/plan", responses=says(Plan))
def ask_plan(who: Reader, service: ServiceState, question: PlanQuestion) -> Response:
    """What a study will reach, how long it will take and what it will cost; as `hpo plan --json`. It changes nothing.

    422 `spec` tells all that is wrong with the study file, each with its place.
    """
    file = _checked(question)
    return _answered(service, questions.plan, file=file, jobs=question.jobs, price_per_hour=question.price_per_hour)


@router.post("/plan/figure", response_class=Response, responses=is_file(*MEDIA_TYPES.values()))
def draw_plan(who: Reader, service: ServiceState, question: PlanQuestion, format: PictureFormat = "png") -> Response:
    """The same as curves with their bands, as a file; as `hpo plan --figure`. It changes nothing."""
    asked = {"file": _checked(question), "jobs": question.jobs, "price_per_hour": question.price_per_hour}
    return _drawn(service, pictures.plan_picture, format, **asked)


@router.get("/advise/figure", response_class=Response, responses=is_file(*MEDIA_TYPES.values()))
def draw_advice(
    who: Reader,
    service: ServiceState,
    target: Target,
    format: PictureFormat = "png",
    *,
    together: Annotated[bool, Query(description="As of `/statistics/advise`.")] = False,
) -> Response:
    """Where good values of past tasks lay, and what is advised, as a file; as `hpo advise --plot`."""
    return _drawn(service, pictures.advice_picture, format, target=target, together=together)


@router.get("/advise", responses=says(RangeAdvice))
def get_advice(
    who: Reader,
    service: ServiceState,
    target: Target,
    *,
    together: Annotated[bool, Query(description="Wider: good configurations lie inside all regions at once.")] = False,
) -> Response:
    """Where a good value of each hyperparameter lies for a new task; as `hpo advise --json`."""
    return _answered(service, questions.advise, target=target, together=together)


def _checked(question: PlanQuestion) -> Mapping[str, Any]:
    """The content of a study file that has nothing wrong. Raises SpecError."""
    content, lines = _content(question)
    parse_spec(content, lines=lines, trials=question.trials)
    if question.trials is None:
        return content
    budget = content.get("budget")
    return {**content, "budget": {**(budget if isinstance(budget, Mapping) else {}), "trials": question.trials}}


def _content(question: PlanQuestion) -> tuple[Mapping[str, Any], Mapping[Path_, int]]:
    """A study file, and the lines of its keys where it came as a text."""
    content, lines = (question.file, {}) if question.yaml is None else parse_yaml(question.yaml, "study")
    if not isinstance(content, Mapping):
        raise SpecError("study: a study file is a mapping of keys (study, task, trainer, space, budget, …)")
    return content, lines


def _answered(service: Service, question: Question, **options: Any) -> Response:
    as_of = history_mark(service.store)
    return already_json(service.calculations.answer(question, store_url=service.store.url, as_of=as_of, **options))


def _drawn(service: Service, question: Question, format: Format, **options: Any) -> Response:
    as_of = history_mark(service.store)
    told = service.calculations.say(question, store_url=service.store.url, as_of=as_of, format=format, **options)
    headers = {"Content-Disposition": f'attachment; filename="figure.{format}"'}
    return Response(base64.b64decode(told), media_type=MEDIA_TYPES[format], headers=headers)
