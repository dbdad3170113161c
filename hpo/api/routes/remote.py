"""`/studies/{id}/ask`, `/work`, and what becomes of the trials that are given: trainers in any language take part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Response

from hpo.api.access import Identity, ServiceState, Worker
from hpo.api.idempotency import IdempotencyKey, request_name
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import TrialNumber
from hpo.api.wire import Trial, trial_of
from hpo.api.wire_remote import (
    Ask,
    AskForWork,
    Given,
    GivenWork,
    HeldLeases,
    Leases,
    Release,
    Released,
    Report,
    ShouldPrune,
    StudyToAsk,
    Tell,
    Verdict,
    claim_of,
    given_fields,
    held_of,
    study_to_train,
)
from hpo.errors import ServiceUnavailableError
from hpo.service.checkpoints import Whose, drop_unused, place_told
from hpo.service.desk import PROPOSAL_SECONDS, Assignment, Begun, Desk, Held
from storage import history, machines
from storage.errors import StudyNotFoundError
from storage.privacy import current
from storage.trial_pages import trial_numbered

NOTHING_NOW_SECONDS = 5  # after which to ask again, where another trial may have ended by then
NOTHING_NOW: dict[int | str, dict[str, Any]] = {
    204: {"description": "Nothing now; ask again after `Retry-After` seconds."}
}

router = APIRouter(tags=["remote work"])


@router.post("/studies/{study_id}/ask", responses=NOTHING_NOW, response_model=Given)
async def ask(
    who: Worker, service: ServiceState, study_id: StudyId, body: Ask, idempotency_key: IdempotencyKey = None
) -> Given | Response:
    """A trial to train. 410 where the study hands out no more, 409 where it is paused."""

    def begin() -> Begun | None:
        return service.desk.begin(
            study_id,
            worker=worker_name(who, body.worker),
            lease_seconds=body.lease_seconds,
            request=request_name(who.token.token_id, idempotency_key),
        )

    given = await _given(service.desk, begin, body)
    return _nothing_now() if given is None else Given(**given_fields(given))


@router.post("/work", responses=NOTHING_NOW, response_model=GivenWork)
async def work(
    who: Worker, service: ServiceState, body: AskForWork, idempotency_key: IdempotencyKey = None
) -> GivenWork | Response:
    """A trial of any study that was launched for workers: by priority, fairly among owners, within their limits."""
    worker = worker_name(who, body.worker)

    def begin() -> Begun | None:
        machines.see(service.store, worker)
        return service.desk.work(
            worker=worker,
            devices=body.devices,
            lease_seconds=body.lease_seconds,
            study=body.study,
            without=body.without,
            request=request_name(who.token.token_id, idempotency_key),
        )

    given = await _given(service.desk, begin, body)
    return _nothing_now() if given is None else GivenWork(**given_fields(given), study=study_to_train(given))


@router.get("/work/study")
def study_to_ask(
    who: Worker, service: ServiceState, name: Annotated[str, Query(max_length=200, description="Exactly this name.")]
) -> StudyToAsk:
    """The id of a study, for those who train its trials and may read nothing else of it."""
    found = history.newest_studies(service.store, limit=1, name=name)
    if not found:
        raise StudyNotFoundError(f"There is no study named {name!r}.")
    return StudyToAsk(id=found[0].study_id)


@router.post("/studies/{study_id}/trials/{number}/report")
def report(
    who: Worker,
    service: ServiceState,
    study_id: StudyId,
    number: TrialNumber,
    body: Report,
    idempotency_key: IdempotencyKey = None,
) -> Verdict:
    """Note what a trial reports; whether it is to be pruned. 409 where the attempt is not its current one."""
    held = Held(study_id=study_id, trial=number, attempt=body.attempt)
    return Verdict(
        prune=service.desk.report(held, step=body.step, value=body.value, metrics=body.metrics, owner=owner_of(who))
    )


@router.post("/studies/{study_id}/trials/{number}/should-prune")
def should_prune(
    who: Worker, service: ServiceState, study_id: StudyId, number: TrialNumber, body: ShouldPrune
) -> Verdict:
    """Whether a trial is to be pruned, by what it has reported."""
    held = Held(study_id=study_id, trial=number, attempt=body.attempt)
    return Verdict(prune=service.desk.should_prune(held, owner=owner_of(who)))


@router.post("/studies/{study_id}/trials/{number}/tell")
def tell(
    who: Worker,
    service: ServiceState,
    study_id: StudyId,
    number: TrialNumber,
    body: Tell,
    idempotency_key: IdempotencyKey = None,
) -> Trial:
    """End a trial. 409 where the attempt is not its current one: its value is kept as a late one."""
    whose = Whose(study_id=study_id, trial=number, attempt=body.attempt)
    service.desk.tell(
        Held(study_id=study_id, trial=number, attempt=body.attempt),
        state=body.state,
        values=body.values if body.value is None else [body.value],
        error=body.error,
        measured=body.measured,
        notes=body.notes,
        cost_seconds=body.cost_seconds,
        epochs=body.epochs,
        peak_memory_bytes=body.peak_memory_bytes,
        checkpoint=place_told(service, whose, body.checkpoint),
        study_error=body.study_error,
        owner=owner_of(who),
    )
    if body.checkpoint is not None or body.attempt > 1:
        drop_unused(service, whose)
    return trial_of(trial_numbered(service.store, study_id, number, known=service.known_sets))


@router.post("/studies/{study_id}/trials/{number}/release")
def release(
    who: Worker,
    service: ServiceState,
    study_id: StudyId,
    number: TrialNumber,
    body: Release,
    idempotency_key: IdempotencyKey = None,
) -> Released:
    """Give a trial back: it waits for whoever asks next."""
    held = Held(study_id=study_id, trial=number, attempt=body.attempt)
    again = service.desk.release(
        held, reason=body.reason, counts=body.counts, halve_batch=body.halve_batch, owner=owner_of(who)
    )
    if not again:
        drop_unused(service, Whose(study_id=study_id, trial=number, attempt=body.attempt))
    return Released(is_tried_again=again)


@router.post("/leases")
def extend_leases(who: Worker, service: ServiceState, body: Leases) -> HeldLeases:
    """Extend the leases of trials; which of them are still the worker's. The others must be stopped."""
    worker = worker_name(who, body.worker)
    machines.see(service.store, worker)
    held = service.desk.extend(
        [held_of(claim) for claim in body.claims], worker=worker, lease_seconds=body.lease_seconds
    )
    return HeldLeases(held=[claim_of(each) for each in held])


def worker_name(who: Identity, name: str) -> str:
    """A worker's name in the history: nobody has that of another's."""
    return f"{who.owner}/{name}"


def owner_of(who: Identity) -> str | None:
    """Whose trials somebody may speak of: a worker of its own owner's only, operators of all."""
    return current().user(who.owner) if who.role == "worker" else None  # as the trials have it


async def _given(desk: Desk, begin: Callable[[], Begun | None], asked: Ask) -> Assignment | None:
    """What is begun, once it has its parameters; no thread waits for them meanwhile."""
    begun = await to_thread.run_sync(begin)
    if begun is None:
        return None
    if begun.proposal is not None:
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(begun.proposal)), PROPOSAL_SECONDS)
        except (TimeoutError, ServiceUnavailableError):
            pass  # `hand_out` says so
        except asyncio.CancelledError:
            desk.give_up(begun, "whoever asked has gone")
            raise
    facts = {"hardware": asked.hardware, "code_version": asked.code_version}
    return await to_thread.run_sync(lambda: desk.hand_out(begun, **facts))


def _nothing_now() -> Response:
    return Response(status_code=204, headers={"Retry-After": str(NOTHING_NOW_SECONDS)})
