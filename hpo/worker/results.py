"""How what trials bring comes to the service, at once or as soon as that can be reached again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hpo.client.transport import Transport
from hpo.errors import HpoError, NotAllowedError, ServiceUnavailableError
from hpo.running.outage import Outage
from hpo.worker.kept import Kept, Message
from storage.errors import StaleAttemptError, StorageError


class Results:
    """The reports and ends of trials, each told once and in order.

    While the service is away, the reports of trials that run are kept in memory; the ends of trials are kept on disk.
    """

    def __init__(self, transport: Transport, kept: Kept, outage: Outage, notice: Callable[[str], None]) -> None:
        self._transport, self._kept, self._outage, self._notice = transport, kept, outage, notice
        self._reports: dict[str, list[tuple[dict[str, Any], str]]] = {}  # by the trial's path: bodies with their keys
        self._unkept: list[Message] = []  # ends that no disk took

    def report(self, trial: str, body: Mapping[str, Any]) -> bool:
        """Tell what a trial reports; whether it is to be pruned. trial: its path below `/api/v1`.

        Raises StaleAttemptError where it is not ours any more.
        """
        self._reports.setdefault(trial, []).append((dict(body), _new_key()))
        return self._outage.attempt(lambda: self._tell_reports(trial), otherwise=False)

    def end(self, trial: str, verb: str, body: Mapping[str, Any], *, about: str) -> Any:
        """Tell how a trial ended, by `tell` or `release`; the answer, None where it is kept for later.

        Raises StaleAttemptError where it is not ours any more: a value is kept by the service as a late one.
        """
        message = Message(server=self._transport.url, path=f"{trial}/{verb}", body=body, key=_new_key(), about=about)
        answer = self._outage.attempt(lambda: self._tell_all(trial, message), otherwise=None)
        for report, key in self._reports.pop(trial, []):
            self._keep(replace(message, path=f"{trial}/report", body=report, key=key))
        if answer is None:
            self._keep(message)
        return answer

    def lose(self, trial: str) -> None:
        """Forget a trial that somebody else has."""
        self._reports.pop(trial, None)

    def catch_up(self) -> None:
        """Tell everything that was kept. Raises ServiceUnavailableError: what is left stays for the next time."""
        while self._unkept:
            self._send_or_leave(self._unkept[0])
            del self._unkept[0]
        self.deliver()
        for trial in list(self._reports):
            with suppress(StaleAttemptError):  # the trial will hear of it when its lease is extended
                self._tell_reports(trial)

    def deliver(self) -> None:
        """Send what is kept on disk for this service. Raises ServiceUnavailableError."""
        with self._kept.alone() as is_alone:
            waiting = self._kept.waiting(self._transport.url) if is_alone else []
            for path, message in waiting:
                self._send_or_leave(message)
                path.unlink(missing_ok=True)
        if waiting:
            self._notice(f"{_count(len(waiting))} that had been kept on disk, told now")

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
            body, key = reports[0]
            prune = bool(self._transport.post(f"{trial}/report", body, key=key)["prune"])
            del reports[0]
        return prune

    def _send(self, message: Message) -> Any:
        return self._transport.post(message.path, dict(message.body), key=message.key)

    def _send_or_leave(self, message: Message) -> None:
        try:
            self._send(message)
        except StaleAttemptError:
            return  # kept by the service as a late one
        except (ServiceUnavailableError, NotAllowedError):
            raise
        except (HpoError, StorageError) as error:  # refused, and will be for ever
            self._notice(f"{message.about}: what it brought was refused: {error}")

    def _keep(self, message: Message) -> None:
        try:
            self._kept.put(message)
        except OSError as error:
            self._unkept.append(message)
            self._notice(
                f"{message.about}: its end fits on no disk ({error.strerror or error}): it is kept in the memory of "
                "this process until the service can be reached; make room before you end it"
            )


def _new_key() -> str:
    return secrets.token_urlsafe(16)


def _count(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"
