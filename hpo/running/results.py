"""How what trials bring comes into the history, at once or as soon as that can be reached again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hpo.running.outage import Outage
from storage import studies
from storage.database import Store
from storage.errors import StaleAttemptError, StoreUnavailableError
from storage.spool import Finish, Release, Report, Result, Spool, tell
from storage.studies import Claim

FOLDER = "spool"  # in the folder of the runs


class Results:
    """The reports and ends of one study's trials, each told once and in order.

    While the history cannot be reached, the reports of trials that run are kept in memory, for such a trial tells them
    again if this process dies and it is tried again; the ends of trials are kept on disk.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        outage: Outage,
        *,
        study: str,
        created_at: float,
        notice: Callable[[str], None],
    ) -> None:
        self._store, self._spool, self._outage, self._notice = store, spool, outage, notice
        self._study, self._created_at = study, created_at
        self._reports: dict[Claim, list[Report]] = {}  # not told yet, in order
        self._unkept: list[Result] = []  # ends that no disk took

    def report(self, claim: Claim, report: Report) -> None:
        """Note what a trial reports. Raises StaleAttemptError when the trial is not ours any more."""
        self._reports.setdefault(claim, []).append(report)
        self._outage.attempt(lambda: self._tell_reports(claim), otherwise=None)

    def end(self, claim: Claim, end: Finish | Release) -> bool:
        """Note how an attempt at a trial ended; returns whether the trial is in the queue again, as far as is known.

        Raises StaleAttemptError when the trial is not ours any more: a value is kept as a late one.
        """
        missed = tuple(self._reports.pop(claim, ()))
        result = Result(study=self._study, study_created_at=self._created_at, claim=claim, end=end, reports=missed)
        is_tried_again = self._outage.attempt(lambda: tell(self._store, result), otherwise=None)
        if is_tried_again is None:
            self._keep(result)
        return isinstance(end, Release) if is_tried_again is None else is_tried_again

    def lose(self, claim: Claim) -> None:
        """Forget a trial that somebody else has."""
        self._reports.pop(claim, None)

    def catch_up(self) -> None:
        """Tell everything that was kept. Raises StoreUnavailableError: what is left stays for the next time."""
        while self._unkept:
            _tell_or_leave(self._store, self._unkept[0])
            del self._unkept[0]
        for notice in deliver(self._store, self._spool):
            self._notice(notice)
        for claim in list(self._reports):
            self._tell_reports_or_leave(claim)

    def close(self) -> None:
        """Say what has not reached the history, and who will bring it there."""
        unkept, self._unkept = self._unkept, []
        for result in unkept:
            self._keep(result)  # a last attempt to find a disk
        waiting = self._spool.waiting()
        if waiting and self._outage.is_on:
            self._notice(
                f"{_count(len(waiting))} for the history in {_folders(waiting)}: `hpo tune ... --resume` or `hpo sync` "
                "brings what is there as soon as the history can be reached"
            )

    def _tell_reports(self, claim: Claim) -> None:
        reports = self._reports.get(claim, [])
        while reports:
            first = reports[0]
            studies.report(self._store, claim, step=first.step, value=first.value, metrics=first.metrics)
            del reports[0]

    def _tell_reports_or_leave(self, claim: Claim) -> None:
        try:
            self._tell_reports(claim)
        except StaleAttemptError:  # the trial will hear of it when its lease is extended
            self.lose(claim)

    def _keep(self, result: Result) -> None:
        try:
            self._spool.put(result)
        except OSError as error:
            self._unkept.append(result)
            self._notice(
                f"the result of trial {result.claim.number} fits on no disk ({error.strerror or error}): it is kept in "
                "the memory of this process until the history can be reached; make room before you end it"
            )


def deliver(store: Store, spool: Spool) -> list[str]:
    """Bring into the history what was kept on disk for it; what there is to say about that.

    Raises StoreUnavailableError.
    """
    notices = []
    try:
        told = spool.deliver(store)
        if told:
            notices.append(
                f"{_count(told)} that had been kept on disk {'is' if told == 1 else 'are'} in the history now"
            )
    except StoreUnavailableError:
        raise
    except OSError as error:
        notices.append(f"what is kept on disk for the history cannot be used: {error}")
    damaged = spool.damaged()
    if damaged:
        notices.append(f"{_count(len(damaged))} kept on disk cannot be read; left for you to look at: {damaged[0]}")
    return notices


def _tell_or_leave(store: Store, result: Result) -> None:
    try:
        tell(store, result)
    except StaleAttemptError:
        return  # kept as a late one


def _count(results: int) -> str:
    return "1 result" if results == 1 else f"{results} results"


def _folders(files: Sequence[Path]) -> str:
    return " and ".join(sorted({str(file.parent) for file in files}))
