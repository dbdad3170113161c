"""`/machines`: which machines are there, what does each train, and what waits in the queue, and why?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboards.frame import PageOperator, PageReader, back_to, page
from hpo.api.access import ServiceState
from hpo.service import launching
from hpo.service.launching import MOST_PRIORITY
from hpo.service.limits import Limits
from hpo.service.turns import Round, places_of
from storage import history, launches, machines
from storage.launches import ACTIVE, Launch
from storage.load import current_load

GONE_SHOWN = 20  # machines that are not here any more
ENDED_SHOWN = 10  # studies that are over

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A study in the queue."""

    launch: Launch
    places: int  # trials that it has running, or may fill by itself
    why: str | None  # it takes no more places now


@router.get("/machines")
def get_machines(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
    """The queue in the order of its turns, the owners' shares, and the machines."""
    known = launches.list_launches(service.store)
    over = sorted((launch for launch in known if launch.state not in ACTIVE), key=_ended, reverse=True)
    found = machines.list_machines(service.store)
    here = [machine for machine in found if machine.is_here]
    names = history.names_of_ids(service.store, {held.study_id for machine in found for held in machine.holds})
    turns = Round(current_load(service.store), service.limits)
    return page(
        request,
        "machines.html",
        who,
        queue=[
            _Waiting(launch=launch, places=places_of(launch), why=turns.why_waiting(launch.study_id))
            for launch in turns.launches
        ],
        over=over[:ENDED_SHOWN],
        shares=turns.shares,
        limits=_in_words(service.limits),
        limit=service.limits.trials_per_owner or service.limits.trials,
        machines=here + [machine for machine in found if not machine.is_here][:GONE_SHOWN],
        present=len(here),
        names=names,
        base=str(request.base_url).rstrip("/"),
        may_change=who.may("operate"),
        largest=MOST_PRIORITY,
    )


@router.post("/machines/{study_id}/priority")
def post_priority(
    who: PageOperator,
    service: ServiceState,
    study_id: Annotated[int, Path(ge=1, le=2**31 - 1)],
    priority: Annotated[int, Form(ge=-MOST_PRIORITY, le=MOST_PRIORITY)],
) -> RedirectResponse:
    """Let a study have its turn sooner, or later."""
    launching.set_priority(service, study_id, priority, who=who.owner)
    return back_to("/machines")


def _in_words(limits: Limits) -> list[tuple[str, int]]:
    """The limits that there are."""
    given = [
        ("trials at once", limits.trials),
        ("devices at once", limits.devices),
        ("trials of one user", limits.trials_per_owner),
        ("devices of one user", limits.devices_per_owner),
        ("trials on the server itself", limits.trials_on_server),
    ]
    return [(words, limit) for words, limit in given if limit is not None]


def _ended(launch: Launch) -> Any:
    return launch.ended_at or launch.requested_at
