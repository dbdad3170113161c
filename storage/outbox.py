"""How MLflow learns what happened: exactly once, later if need be, and without anybody waiting for it.

Live work leaves messages in the table `outbox`, in the transaction that they tell of. One sender per store delivers
them and deletes each when it has arrived. What is sent twice, because a sender died in between, changes nothing.

Run `python -m storage.outbox --storage URL` (or HPO_STORAGE) to deliver what is there, with `--follow` to go on.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from storage.database import Store
from storage.errors import SenderBusyError, StorageError, StudyNotFoundError
from storage.mlflow_runs import IS_GONE, FollowedStudy, Message, StudyRuns
from storage.models import outbox, studies, tasks, trials
from storage.schema import open_store

log = logging.getLogger("storage.outbox")

MESSAGES_PER_READ = 1_000
POLL_SECONDS = 0.5
REFUSALS_TO_GIVE_UP = 3  # in a row: at the end of a study nobody should wait for an MLflow that is not there
STORAGE_VARIABLE = "HPO_STORAGE"
LONGEST_BACKOFF_SECONDS = 30.0
BACKOFF_PER_SECOND = 10.0  # an MLflow that lets us wait for its refusal must not keep us from the others (heuristic)
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", IS_GONE}  # sending the same again would not help


def pending(store: Store, study_id: int | None = None) -> int:
    """How many messages, of one study or of all, have not arrived yet. Those of a study without MLflow do not count."""
    query = select(func.count()).select_from(outbox.join(studies)).where(studies.c.mlflow_uri.is_not(None))
    if study_id is not None:
        query = query.where(outbox.c.study_id == study_id)
    with store.read() as connection:
        return int(connection.execute(query).scalar_one())


def deliver(store: Store, *, limit: int | None = None) -> int:
    """Deliver what is pending, at most `limit` messages; returns how many are done with.

    What cannot be delivered now stays for the next time, and a warning says why.
    Raises SenderBusyError while another process delivers.
    """
    done = 0
    patience = _Patience()
    with store.exclusive("outbox", wait_seconds=0) as is_ours:
        if not is_ours:
            raise SenderBusyError("Another process is sending to MLflow: a study that runs does so by itself.")
        for study in _studies_with_messages(store):
            left = None if limit is None else limit - done
            if patience.may_ask(study.mlflow_uri) and left != 0:
                done += _Delivery(store, study, patience).attempt(left)
    return done


class _Patience:
    """Which MLflow took nothing lately, and when it is asked again."""

    def __init__(self) -> None:
        self._refusals: dict[str, int] = {}  # in a row, by URI
        self._ask_at: dict[str, float] = {}

    def refused(self, uri: str, *, after_seconds: float) -> None:
        """Note that it took nothing, and how long that took."""
        self._refusals[uri] = self._refusals.get(uri, 0) + 1
        wait = min(POLL_SECONDS * 2 ** self._refusals[uri], LONGEST_BACKOFF_SECONDS)
        self._ask_at[uri] = time.monotonic() + max(wait, BACKOFF_PER_SECOND * after_seconds)

    def took(self, uri: str) -> None:
        """Note that it is there."""
        self._refusals.pop(uri, None)
        self._ask_at.pop(uri, None)

    def give_last_chance(self) -> None:
        """Let each be asked once more at least."""
        self._refusals = {uri: min(times, REFUSALS_TO_GIVE_UP - 1) for uri, times in self._refusals.items()}

    def may_ask(self, uri: str) -> bool:
        """Whether it is time to ask it."""
        return time.monotonic() >= self._ask_at.get(uri, 0.0)

    def is_over(self, uri: str) -> bool:
        """Whether there is no use in waiting for it."""
        return self._refusals.get(uri, 0) >= REFUSALS_TO_GIVE_UP


class _Delivery:
    """One round of delivering the messages of one study."""

    def __init__(self, store: Store, study: FollowedStudy, patience: _Patience) -> None:
        self._store = store
        self._study = study
        self._patience = patience
        self._done = 0

    def attempt(self, limit: int | None = None) -> int:
        """Deliver until nothing is left, `limit` is reached, or MLflow does not take it; returns how many are done."""
        started = time.monotonic()
        try:
            runs = StudyRuns(self._store, self._study)
            while messages := _read(self._store, self._study.study_id, _at_most(limit, self._done)):
                for of_one_run in _by_run(messages):
                    self._send(runs, of_one_run)
            if self._done:
                runs.settle_parent()
            self._patience.took(self._study.mlflow_uri)
        except Exception as error:
            self._patience.refused(self._study.mlflow_uri, after_seconds=time.monotonic() - started)
            log.warning("MLflow at %s does not take messages now: %s", self._study.mlflow_uri, _first_line(error))
        return self._done

    def _send(self, runs: StudyRuns, messages: Sequence[Message]) -> None:
        try:
            runs.send(messages)
        except Exception as error:
            if getattr(error, "error_code", None) not in REFUSALS:
                raise
            if len(messages) > 1:  # find out which; the others are wanted
                for message in messages:
                    self._send(runs, [message])
                return
            log.error("MLflow refuses a message about study %r: %s", self._study.name, _first_line(error))
        with self._store.write(durable=False) as connection:
            ids = [message.message_id for message in messages]
            connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))
        self._done += len(messages)


def _studies_with_messages(store: Store, study_id: int | None = None) -> list[FollowedStudy]:
    query = (
        select(studies, tasks.c.name.label("task"), tasks.c.metric)
        .join_from(studies, tasks, isouter=True)
        .where(studies.c.id.in_(select(outbox.c.study_id)), studies.c.mlflow_uri.is_not(None))
        .order_by(studies.c.id)
    )
    if study_id is not None:
        query = query.where(studies.c.id == study_id)
    with store.read() as connection:
        return [
            FollowedStudy(
                study_id=row.id,
                name=row.name,
                task=row.task,
                metric=row.metric,
                directions=json.loads(row.directions),
                mlflow_uri=row.mlflow_uri,
                created_at=row.created_at,
            )
            for row in connection.execute(query)
        ]


def _read(store: Store, study_id: int, limit: int) -> list[Message]:
    query = (
        select(outbox, trials.c.number)
        .join_from(outbox, trials, outbox.c.trial_id == trials.c.id, isouter=True)
        .where(outbox.c.study_id == study_id)
        .order_by(outbox.c.id)
        .limit(limit)
    )
    with store.read() as connection:
        return [
            Message(
                message_id=row.id,
                trial_id=row.trial_id,
                number=row.number,
                attempt=row.attempt,
                kind=row.kind,
                payload=json.loads(row.payload),
                created_at=row.created_at,
            )
            for row in connection.execute(query)
        ]


def _at_most(limit: int | None, done: int) -> int:
    return MESSAGES_PER_READ if limit is None else min(MESSAGES_PER_READ, limit - done)


def _by_run(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages about each run together and in their order; trials side by side do not concern each other."""
    runs: dict[tuple[int | None, int | None], list[Message]] = {}
    for message in messages:
        runs.setdefault((message.trial_id, message.attempt), []).append(message)
    return iter(runs.values())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:500]


# The sender as a process of its own


def follow(store: Store, *, until: threading.Event, drain_seconds: float, study_id: int | None = None) -> None:
    """Deliver until the event; then what is left, for at most `drain_seconds`, unless its MLflow keeps refusing it.

    With `study_id` that study comes first, and is the only one that anybody waits for at the end.
    """
    patience = _Patience()
    while not until.is_set():
        _deliver_round(store, patience, first=study_id, is_over=until.is_set)
        until.wait(POLL_SECONDS)
    patience.give_last_chance()
    deadline = time.monotonic() + drain_seconds
    while _drain_round(store, patience, study_id) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _deliver_round(store: Store, patience: _Patience, *, first: int | None, is_over: Callable[[], bool]) -> None:
    """Deliver what its MLflow takes now; `first` is the study to begin with."""
    with _noting_failures(store, patience), store.exclusive("outbox", wait_seconds=0) as is_ours:
        if not is_ours:
            return
        for study in sorted(_studies_with_messages(store), key=lambda study: study.study_id != first):
            if is_over():
                return
            if patience.may_ask(study.mlflow_uri):
                _Delivery(store, study, patience).attempt()


def _drain_round(store: Store, patience: _Patience, study_id: int | None) -> bool:
    """Deliver what is left, of one study or of all; returns whether to go on."""
    left = {store.url}
    with _noting_failures(store, patience):
        with store.exclusive("outbox", wait_seconds=0) as is_ours:
            for study in _studies_with_messages(store, study_id) if is_ours else []:
                if not patience.is_over(study.mlflow_uri):
                    _Delivery(store, study, patience).attempt()
        left = {study.mlflow_uri for study in _studies_with_messages(store, study_id)}
    return not all(map(patience.is_over, left))


@contextmanager
def _noting_failures(store: Store, patience: _Patience) -> Iterator[None]:
    """Survive a history that cannot be reached; it is treated as an MLflow that cannot."""
    try:
        yield
        patience.took(store.url)
    except (StorageError, SQLAlchemyError) as error:
        patience.refused(store.url, after_seconds=0.0)
        log.warning("%s", _first_line(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Deliver; returns the exit status: 1 when something is left, of the study if one is named."""
    parser = argparse.ArgumentParser(prog="python -m storage.outbox", description="Send results to MLflow.")
    given = os.environ.get(STORAGE_VARIABLE)  # a URL with a password is better not an argument, which all can see
    parser.add_argument("--storage", default=given, required=not given, metavar="URL", help="the history")
    parser.add_argument("--follow", action="store_true", help="go on until the standard input is closed")
    parser.add_argument("--study", metavar="NAME", help="the study that comes first and is waited for at the end")
    parser.add_argument("--drain-seconds", type=float, default=30.0, metavar="S", help="time for the rest after that")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        store = open_store(options.storage, upgrade=False)
        study_id = None if options.study is None else _study_id(store, options.study)
        if options.follow:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes our input
            follow(store, until=_input_closed(), drain_seconds=options.drain_seconds, study_id=study_id)
        else:
            deliver(store)
        left = pending(store, study_id)
    except StorageError as error:
        log.error("%s", error)
        return 1
    store.dispose()
    return 1 if left else 0


def _study_id(store: Store, name: str) -> int:
    with store.read() as connection:
        found = connection.execute(select(studies.c.id).where(studies.c.name == name)).scalar()
        if found is None:
            raise StudyNotFoundError.named(name, connection.execute(select(studies.c.name)).scalars())
    return int(found)


def _input_closed() -> threading.Event:
    """An event that comes when the parent closes our standard input, or is gone."""
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    return closed


if __name__ == "__main__":
    sys.exit(main())
