"""`/studies/{id}/trials/{number}/checkpoint`: the file from which a trial's model is promoted, sent by its worker."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel

from hpo.api.access import ServiceState, Worker
from hpo.api.problems import ApiError
from hpo.api.routes.remote import owner_of
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import TrialNumber
from hpo.service import checkpoints
from hpo.service.checkpoints import MOST_PART_BYTES, Part, Whose
from hpo.service.desk import Held

LARGEST = 2**53 - 1  # a whole number that every program can hold
router = APIRouter(prefix="/studies/{study_id}/trials/{number}", tags=["remote work"])


class Received(BaseModel):
    """How much of a file is there."""

    received: int  # bytes, from which to go on; all of them: the file is whole


@router.post("/checkpoint")
def send_checkpoint(
    who: Worker,
    service: ServiceState,
    study_id: StudyId,
    number: TrialNumber,
    part: Annotated[UploadFile, File(description="The next bytes, at most 8 MiB; none to ask how many are there.")],
    attempt: Annotated[int, Form(ge=1, le=2**31 - 1)],
    size: Annotated[int, Form(ge=1, le=LARGEST, description="Of the whole file, in bytes.")],
    digest: Annotated[str, Form(pattern="^[0-9a-f]{64}$", description="SHA-256 of the whole file.")],
    offset: Annotated[int, Form(ge=0, le=LARGEST, description="Of these bytes in the file.")] = 0,
    file: Annotated[checkpoints.File, Form(description="Lightning's checkpoint, or what was compressed of it.")] = (
        "checkpoint"
    ),
    place: Annotated[
        str, Form(max_length=4096, description="Where it lies, as HOST:/PATH: not sent where the server sees it.")
    ] = "",
) -> Received:
    """Send a trial's checkpoint in parts, before the trial is told of; parts may be sent again.

    Only while the attempt is yours, 409 `stale-attempt` then. 422 `settings`: too large, or it came damaged.
    """
    held = Held(study_id=study_id, trial=number, attempt=attempt)
    service.desk.check(held, owner=owner_of(who))
    whose = Whose(study_id=study_id, trial=number, attempt=attempt)
    if checkpoints.shared_place(service, whose, place) is not None:
        return Received(received=size)
    content = part.file.read(MOST_PART_BYTES + 1)
    if len(content) > MOST_PART_BYTES:
        raise ApiError(413, "part-too-large", f"send at most {MOST_PART_BYTES:,} bytes at once")
    piece = Part(file=file, size=size, digest=digest, offset=offset, content=content)
    return Received(received=checkpoints.take(service, whose, piece))
