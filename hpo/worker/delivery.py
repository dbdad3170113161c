"""How does what a trial brought come to the service? What it reported, its checkpoint, and last how it ended.

A checkpoint takes minutes: each is sent in a thread of its own, beside what trains meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from hpo.client.refusals import is_trouble_of_service
from hpo.client.transport import Transport
from hpo.errors import HpoError, NotAllowedError, ServiceUnavailableError
from hpo.worker.checkpoints import named_place, send_checkpoint
from hpo.worker.kept import Message
from storage.errors import StaleAttemptError, StorageError


def begin_delivery(
    transport: Transport, message: Message, *, is_over: Callable[[], bool], notice: Callable[[str], None]
) -> Future[None]:
    """Tell all of a message in a thread that keeps no process alive: it may be told again until it is in.

    is_over: whether to leave a checkpoint where it is. notice: is told of what stays here.
    The future raises StaleAttemptError where somebody else has the trial: the service has kept its value as a late one;
    ServiceUnavailableError, and whatever the service refuses with.
    """
    told: Future[None] = Future()

    def tell() -> None:
        try:
            _tell_reports(transport, message, notice)
            _send_checkpoint(transport, message, is_over, notice)
            transport.post(message.path, dict(message.body), key=message.key)
        except Exception as error:
            told.set_exception(error)
        else:
            told.set_result(None)

    threading.Thread(target=tell, name=f"telling of {message.about}", daemon=True).start()
    return told


def may_be_taken_later(error: BaseException) -> bool:
    """Whether it is not for what was told: our token opens nothing, or there is a trouble in the service, or here."""
    is_refusal = isinstance(error, (HpoError, StorageError)) and not isinstance(error, NotAllowedError)
    return not is_refusal or (isinstance(error, Exception) and is_trouble_of_service(error))


def _tell_reports(transport: Transport, message: Message, notice: Callable[[str], None]) -> None:
    for report in message.reports:
        try:
            transport.post_again(f"{message.trial}/report", dict(report))
        except StaleAttemptError:
            return  # the end decides
        except ServiceUnavailableError:
            raise
        except (HpoError, StorageError) as error:
            if may_be_taken_later(error):
                raise
            notice(f"{message.about}: a report was refused, and is left out: {error}")


def _send_checkpoint(
    transport: Transport, message: Message, is_over: Callable[[], bool], notice: Callable[[str], None]
) -> None:
    """That of a complete trial; where it cannot be sent the trial is told all the same."""
    place = str(message.body.get("checkpoint"))
    checkpoint = Path(place.partition(":")[2])
    is_here = place == named_place(checkpoint) and checkpoint.exists()
    if not is_here or message.body.get("state") != "complete":
        return
    attempt = int(message.body["attempt"])
    try:
        with suppress(StaleAttemptError):  # the end decides
            send_checkpoint(transport, message.trial, attempt=attempt, checkpoint=checkpoint, is_over=is_over)
    except (ServiceUnavailableError, NotAllowedError):
        raise
    except (HpoError, StorageError, OSError) as error:
        notice(f"{message.about}: its checkpoint stays at {place}: {error}")
