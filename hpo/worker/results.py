"""How what trials bring comes to the service, at once or as soon as that can be reached again."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.client.transport import Transport
from hpo.errors import HpoError, NotAllowedError, ServiceUnavailableError
from hpo.running.outage import Outage
from hpo.worker.delivery import begin_delivery, may_be_taken_later
from hpo.worker.heartbeat import Heartbeat
from hpo.worker.kept import Kept, Message
from storage.errors import StaleAttemptError, StorageError, StudyNotFoundError, TrialNotFoundError

AGAIN_SECONDS = 60.0  # after which an end is told again where the service had a trouble of its own
SENDING_SECONDS = 10.0  # that a worker which is to end waits for checkpoints that are on their way
TELLING_SECONDS = 10.0  # and then, that trials whose checkpoints stay here are told
POLL_SECONDS = 0.05


@dataclass(kw_only=True)
class _End:
    """An end that the service has not been told, under its lease."""

    message: Message
    path: Path | None  # where it is kept; None: in memory, for no disk took it
    is_late: bool  # whether it could not be told at first
    telling: Future[None] | None = None  # while it is told
    due_at: float = 0.0


class Results:
    """The reports and ends of trials, each told once and in order.

    While the service is away, the reports of trials that run are kept in memory. The end of a trial is put on disk
    before its checkpoint is sent, and where the service is away or refuses it, unless somebody else has the trial:
    nothing that was trained is thrown away. What is kept is told by threads, at most `at_once` of them.
    """

    def __init__(
        self,
        transport: Transport,
        kept: Kept,
        heart: Heartbeat,
        outage: Outage,
        notice: Callable[[str], None],
        *,
        at_once: int,
    ) -> None:
        self._transport, self._kept, self._heart = transport, kept, heart
        self._outage, self._notice, self._at_once = outage, notice, at_once
        self._reports: dict[str, list[dict[str, Any]]] = {}  # by the trial's path
        self._ends: list[_End] = []
        self._leaves_checkpoints = threading.Event()
        self.barred: NotAllowedError | None = None  # why our token opens nothing any more

    @property
    def untold(self) -> int:
        """How many ends are told now, or as soon as the service can be reached."""
        now = time.monotonic()
        return sum(end.telling is not None or end.due_at <= now for end in self._ends)

    def report(self, trial: str, body: Mapping[str, Any], *, about: str) -> bool:
        """Tell what a trial reports; whether it is to be pruned. trial: its path below `/api/v1`.

        about: the trial, in words. Raises StaleAttemptError where it is not ours any more, StudyNotFoundError and
        TrialNotFoundError where it was deleted. Another report that is refused is left out: the trial goes on.
        """
        self._reports.setdefault(trial, []).append(dict(body))
        try:
            return self._outage.attempt(lambda: self._tell_reports(trial), otherwise=False)
        except (StaleAttemptError, StudyNotFoundError, TrialNotFoundError):
            raise
        except NotAllowedError as error:
            self.barred = error
        except (HpoError, StorageError) as error:
            if not may_be_taken_later(error):
                del self._reports[trial][0]
                self._notice(f"{about}: a report was refused, and is left out: {error}")
        return False

    def end(self, trial: str, verb: str, body: Mapping[str, Any], *, about: str) -> Any:
        """Tell at once how a trial ended, by `tell` or `release`; the answer, None where it is kept for later.

        Raises StaleAttemptError where it is not ours any more: a value is kept by the service as a late one.
        """
        message = self._message(trial, verb, body, about)
        answer = None
        try:
            if not message.reports:  # these come first
                answer = self._outage.attempt(lambda: self._send(message), otherwise=None)
        except StaleAttemptError:
            raise
        except (HpoError, StorageError) as error:
            self._refused(self._keep(message), error)
            return None
        if answer is None:
            self._keep(message)
        return answer

    def hand_over(self, trial: str, body: Mapping[str, Any], *, about: str) -> None:
        """Keep the end of a complete trial on disk, and tell it once its checkpoint is there."""
        end = self._keep(self._message(trial, "tell", body, about))
        end.is_late = self._outage.is_on

    def lose(self, trial: str) -> None:
        """Forget a trial that somebody else has."""
        self._reports.pop(trial, None)

    def take_left(self) -> int:
        """Take over what workers that have ended left on this machine, with the leases; how much that was."""
        left = self._kept.take_left(self._transport.url)
        for path, message in left:
            self._add(_End(message=message, path=path, is_late=True))
        return len(left)

    def settle(self) -> bool:
        """Begin to tell the ends that are due, and note which have been told; whether any has.

        What is refused for good is set aside for a person to look at; what we may not tell waits for who may.
        """
        is_any_told = False
        for end in [end for end in self._ends if end.telling is not None and end.telling.done()]:
            is_any_told |= self._note(end)
        for end in [] if self._outage.is_on else self._due():
            end.telling = begin_delivery(
                self._transport, end.message, is_over=self._leaves_checkpoints.is_set, notice=self._notice
            )
        return is_any_told

    def catch_up(self) -> None:
        """Tell what the trials that run have reported. Raises ServiceUnavailableError: the rest stays for next time."""
        for trial in list(self._reports):
            try:
                self._tell_reports(trial)
            except ServiceUnavailableError:
                raise
            except (HpoError, StorageError):
                continue  # the trial will hear of it when its lease is extended, or with its next report

    def close(self) -> None:
        """Tell what takes no longer than a moment; say what the service has not been told, and who will tell it."""
        try:
            self._tell_quickly()
        finally:
            for end in self._ends:
                if end.path is None:
                    end.path = self._put(end.message)  # a last attempt to find a disk
            kept = [end.path for end in self._ends if end.path is not None]
            if kept:
                self._notice(
                    f"{_count(len(kept))} for {self._transport.url} in {kept[0].parent}: the next `hpo worker` on this "
                    "machine tells what is there"
                )
            self._kept.close()

    # How it is done -------------------------------------------------------------------------------------------------

    def _message(self, trial: str, verb: str, body: Mapping[str, Any], about: str) -> Message:
        """With the reports that could not be told: they go with it."""
        return Message(
            server=self._transport.url,
            path=f"{trial}/{verb}",
            body=body,
            key=secrets.token_urlsafe(16),
            about=about,
            worker=self._heart.worker,
            reports=tuple(self._reports.pop(trial, ())),
        )

    def _send(self, message: Message) -> Any:
        return self._transport.post(message.path, dict(message.body), key=message.key)

    def _tell_reports(self, trial: str) -> bool:
        """Whether the trial is to be pruned, as the last answer says."""
        reports, prune = self._reports.get(trial, []), False
        while reports:
            prune = bool(self._transport.post_again(f"{trial}/report", reports[0])["prune"])
            del reports[0]
        return prune

    def _keep(self, message: Message) -> _End:
        return self._add(_End(message=message, path=self._put(message), is_late=True))

    def _put(self, message: Message) -> Path | None:
        try:
            return self._kept.put(message)
        except OSError as error:
            self._notice(
                f"{message.about}: its end fits on no disk ({error.strerror or error}): it is kept in the memory of "
                "this process until the service can be reached; make room before you end it"
            )
            return None

    def _add(self, end: _End) -> _End:
        self._ends.append(end)
        if end.message.worker:
            self._heart.hold(end.message.held, worker=end.message.worker)
        return end

    def _due(self) -> list[_End]:
        now = time.monotonic()
        free = self._at_once - sum(end.telling is not None for end in self._ends)
        return [end for end in self._ends if end.telling is None and end.due_at <= now][: max(free, 0)]

    def _note(self, end: _End) -> bool:
        """What has come of telling an end; whether it has been told."""
        telling, end.telling = end.telling, None
        error = None if telling is None else telling.exception()
        if telling is not None and isinstance(error, ServiceUnavailableError):
            self._outage.attempt(telling.result, otherwise=None)  # which it takes note of
            end.is_late = True
            return False
        if error is not None and not isinstance(error, StaleAttemptError):
            self._refused(end, error)
            return False
        self._ends.remove(end)
        self._heart.drop(end.message.held)
        if end.path is not None:
            self._kept.drop(end.path)
        if error is not None:
            self._notice(f"{end.message.about}: {error}")
        elif end.is_late:
            self._notice(f"{end.message.about}: what had been kept of it is told now")
        return True

    def _refused(self, end: _End, error: BaseException) -> None:
        """Put an end off, or aside. Its trial is not held for it meanwhile: what comes later is a late value."""
        self._heart.drop(end.message.held)
        about, place = end.message.about, "the memory of this process" if end.path is None else end.path
        if isinstance(error, NotAllowedError):
            self.barred = error
        if may_be_taken_later(error):
            end.is_late = True
            end.due_at = math.inf if isinstance(error, NotAllowedError) else time.monotonic() + AGAIN_SECONDS
            self._notice(f"{about}: how it ended is kept in {place}: {error}")
            return
        self._ends.remove(end)
        aside = "" if end.path is None else f", and is set aside in {self._kept.set_aside(end.path)}"
        self._notice(f"{about}: what it brought was refused{aside}: {error}")

    def _tell_quickly(self) -> None:
        self._settle_for(SENDING_SECONDS)
        self._leaves_checkpoints.set()
        self._settle_for(TELLING_SECONDS)

    def _settle_for(self, seconds: float) -> None:
        """A second Ctrl-C ends it at any moment: everything is on disk."""
        deadline = time.monotonic() + seconds
        while self.untold and not self._outage.is_on and time.monotonic() < deadline:
            self.settle()
            time.sleep(POLL_SECONDS)


def _count(ends: int) -> str:
    return "1 end of a trial" if ends == 1 else f"{ends} ends of trials"
