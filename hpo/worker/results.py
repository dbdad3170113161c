"""How what trials bring comes to the service, at once or as soon as that can be reached again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.client.refusals import is_trouble_of_service
from hpo.client.transport import Transport
from hpo.errors import HpoError, NotAllowedError, ServiceUnavailableError
from hpo.running.outage import Outage
from hpo.worker.checkpoints import named_place, send_checkpoint
from hpo.worker.kept import Kept, Message
from storage.errors import StaleAttemptError, StorageError, StudyNotFoundError, TrialNotFoundError


class Results:
    """The reports and ends of trials, each told once and in order.

    While the service is away, the reports of trials that run are kept in memory; the ends of trials are kept on disk.
    So are those that it refuses, unless somebody else has the trial: nothing that was trained is thrown away.
    """

    def __init__(self, transport: Transport, kept: Kept, outage: Outage, notice: Callable[[str], None]) -> None:
        self._transport, self._kept, self._outage, self._notice = transport, kept, outage, notice
        self._reports: dict[str, list[dict[str, Any]]] = {}  # by the trial's path
        self._unkept: list[Message] = []  # ends that no disk took
        self.barred: NotAllowedError | None = None  # why our token opens nothing any more

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
            if not _may_be_taken_later(error):
                del self._reports[trial][0]
                self._notice(f"{about}: a report was refused, and is left out: {error}")
        return False

    def end(self, trial: str, verb: str, body: Mapping[str, Any], *, about: str) -> Any:
        """Tell how a trial ended, by `tell` or `release`; the answer, None where it is kept for later.

        Raises StaleAttemptError where it is not ours any more: a value is kept by the service as a late one.
        """
        message = Message(server=self._transport.url, path=f"{trial}/{verb}", body=body, key=_new_key(), about=about)
        answer = None
        try:
            answer = self._outage.attempt(lambda: self._tell_all(trial, message), otherwise=None)
        except StaleAttemptError:
            self._reports.pop(trial, None)
            raise
        except (HpoError, StorageError) as error:
            self.barred = error if isinstance(error, NotAllowedError) else self.barred
            self._notice(f"{about}: its end was refused, and is kept for another time: {error}")
        for report in self._reports.pop(trial, []):
            self._keep(replace(message, path=f"{trial}/report", body=report, key=_new_key()))
        if answer is None:
            self._keep(message)
        return answer

    def lose(self, trial: str) -> None:
        """Forget a trial that somebody else has."""
        self._reports.pop(trial, None)

    def catch_up(self) -> None:
        """Tell everything that was kept. Raises ServiceUnavailableError: what is left stays for the next time."""
        while self._unkept:
            error = self._refusal_of(self._unkept[0])
            if error is not None:
                self._notice(f"{self._unkept[0].about}: what it brought was refused: {error}")
            del self._unkept[0]
        self.deliver()
        for trial in list(self._reports):
            try:
                self._tell_reports(trial)
            except ServiceUnavailableError:
                raise
            except (HpoError, StorageError):
                continue  # the trial will hear of it when its lease is extended, or with its next report

    def deliver(self) -> None:
        """Send what is kept on disk for this service. Raises ServiceUnavailableError.

        What is refused for good is set aside for a person to look at; what we may not tell waits for who may.
        """
        told = 0
        with self._kept.alone() as is_alone:
            waiting = self._kept.waiting(self._transport.url) if is_alone else []
            for path, message in waiting:
                error = self._refusal_of(message)
                if error is None:
                    path.unlink(missing_ok=True)
                    told += 1
                elif _may_be_taken_later(error):
                    self._notice(f"{message.about}: it is kept in {path}: {error}")
                else:
                    aside = self._kept.set_aside(path)
                    self._notice(f"{message.about}: what it brought was refused, and is set aside in {aside}: {error}")
        if told:
            self._notice(f"{_count(told)} that had been kept on disk, told now")

    def close(self) -> None:
        """Say what the service has not been told, and who will tell it."""
        unkept, self._unkept = self._unkept, []
        for message in unkept:
            self._keep(message)  # a last attempt to find a disk
        waiting = self._kept.waiting(self._transport.url)
        if waiting and self._outage.is_on:
            self._notice(
                f"{_count(len(waiting))} for {self._transport.url} in {waiting[0][0].parent}: the next `hpo worker` on "
                "this machine tells what is there"
            )

    def _tell_all(self, trial: str, message: Message) -> Any:
        with suppress(StaleAttemptError):  # the end decides
            self._tell_reports(trial)
        return self._send(message)

    def _tell_reports(self, trial: str) -> bool:
        """Whether the trial is to be pruned, as the last answer says."""
        reports, prune = self._reports.get(trial, []), False
        while reports:
            prune = bool(self._transport.post_again(f"{trial}/report", reports[0])["prune"])
            del reports[0]
        return prune

    def _send(self, message: Message) -> Any:
        return self._transport.post(message.path, dict(message.body), key=message.key)

    def _refusal_of(self, message: Message) -> Exception | None:
        """Send it; why it was refused, None where it was not. Raises ServiceUnavailableError."""
        try:
            self._send_checkpoint_of(message)
            self._send(message)
        except StaleAttemptError:
            return None  # kept by the service as a late one
        except ServiceUnavailableError:
            raise
        except (HpoError, StorageError) as error:
            return error
        return None

    def _send_checkpoint_of(self, message: Message) -> None:
        """Where a trial's end was kept here, so was its checkpoint; without it the trial is told all the same."""
        place = str(message.body.get("checkpoint"))
        checkpoint = Path(place.partition(":")[2])
        is_ours = place == named_place(checkpoint) and checkpoint.exists()
        if not is_ours or message.body.get("state") != "complete":
            return
        try:
            send_checkpoint(
                self._transport,
                message.path.removesuffix("/tell"),
                attempt=int(message.body["attempt"]),
                checkpoint=checkpoint,
            )
        except ServiceUnavailableError:
            raise
        except StaleAttemptError:
            pass  # its value is kept by the service as a late one
        except (HpoError, StorageError, OSError) as error:
            self._notice(f"{message.about}: its checkpoint stays at {place}: {error}")

    def _keep(self, message: Message) -> None:
        try:
            self._kept.put(message)
        except OSError as error:
            self._unkept.append(message)
            self._notice(
                f"{message.about}: its end fits on no disk ({error.strerror or error}): it is kept in the memory of "
                "this process until the service can be reached; make room before you end it"
            )


def _may_be_taken_later(error: Exception) -> bool:
    """Whether it is not for the message itself: our token opens nothing, or the service has a trouble of its own."""
    return isinstance(error, NotAllowedError) or is_trouble_of_service(error)


def _new_key() -> str:
    return secrets.token_urlsafe(16)


def _count(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"
