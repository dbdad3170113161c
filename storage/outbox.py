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
from collections.abc import Iterator, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from storage.database import Store
from storage.errors import StorageError
from storage.mlflow_runs import FollowedStudy, Message, StudyRuns
from storage.models import outbox, studies, tasks, trials
from storage.schema import open_store

log = logging.getLogger("storage.outbox")

MESSAGES_PER_READ = 1_000
POLL_SECONDS = 0.5
REFUSED_ROUNDS = 3  # at the end of a study nobody should wait for an MLflow that is not there
STORAGE_VARIABLE = "HPO_STORAGE"
LONGEST_BACKOFF_SECONDS = 30.0
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}  # sending the same again would not help


def pending(store: Store) -> int:
    """How many messages have not arrived yet."""
    with store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(outbox)).scalar_one())


def deliver(store: Store, *, limit: int | None = None) -> int:
    """Deliver what is pending, at most `limit` messages; returns how many are done with.

    What cannot be delivered now stays for the next time, and a warning says why. Does nothing while another process
    delivers.
    """
    return _deliver(store, limit)[0]


def _deliver(store: Store, limit: int | None = None) -> tuple[int, bool]:
    """As `deliver`; also whether every MLflow took what it was given."""
    done = 0
    unreachable: set[str] = set()
    with store.exclusive("outbox", wait_seconds=0) as is_ours:
        if not is_ours:
            return 0, True
        for study in _studies_with_messages(store):
            left = None if limit is None else limit - done
            if study.mlflow_uri not in unreachable and left != 0:
                delivery = _Delivery(store, study)
                delivery.attempt(left)
                done += delivery.done
                if not delivery.is_reachable:
                    unreachable.add(study.mlflow_uri)
    return done, not unreachable


class _Delivery:
    """One round of delivering the messages of one study."""

    def __init__(self, store: Store, study: FollowedStudy) -> None:
        self._store = store
        self._study = study
        self.done = 0
        self.is_reachable = True

    def attempt(self, limit: int | None) -> None:
        """Deliver until nothing is left, `limit` is reached, or MLflow does not take it."""
        try:
            runs = StudyRuns(self._store, self._study)
            while messages := _read(self._store, self._study.study_id, _at_most(limit, self.done)):
                for of_one_run in _by_run(messages):
                    self._send(runs, of_one_run)
            if self.done:
                runs.settle_parent()
        except Exception as error:
            self.is_reachable = False
            log.warning("MLflow at %s does not take messages now: %s", self._study.mlflow_uri, _first_line(error))

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
        self.done += len(messages)


def _studies_with_messages(store: Store) -> list[FollowedStudy]:
    query = (
        select(studies, tasks.c.name.label("task"), tasks.c.metric)
        .join_from(studies, tasks, isouter=True)
        .where(studies.c.id.in_(select(outbox.c.study_id)))
        .order_by(studies.c.id)
    )
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


def follow(store: Store, *, until: threading.Event, drain_seconds: float) -> None:
    """Deliver until the event; then what is left, for at most `drain_seconds`, unless MLflow keeps refusing it.

    Backs off while MLflow is away.
    """
    wait = POLL_SECONDS
    deadline: float | None = None
    refused = 0  # rounds in a row
    while True:
        try:
            done, is_taken = _deliver(store)
            left = pending(store)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("%s", _first_line(error))
            done, left, is_taken = 0, 1, False
        refused = 0 if is_taken else refused + 1
        if until.is_set():
            deadline = deadline or time.monotonic() + drain_seconds
            if left == 0 or refused >= REFUSED_ROUNDS or time.monotonic() >= deadline:
                return
            time.sleep(POLL_SECONDS)
            continue
        wait = POLL_SECONDS if done or not left else min(2 * wait, LONGEST_BACKOFF_SECONDS)
        until.wait(wait)


def main(arguments: Sequence[str] | None = None) -> int:
    """Deliver; returns the exit status: 1 when something is left."""
    parser = argparse.ArgumentParser(prog="python -m storage.outbox", description="Send results to MLflow.")
    given = os.environ.get(STORAGE_VARIABLE)  # a URL with a password is better not an argument, which all can see
    parser.add_argument("--storage", default=given, required=not given, metavar="URL", help="the history")
    parser.add_argument("--follow", action="store_true", help="go on until the standard input is closed")
    parser.add_argument("--drain-seconds", type=float, default=30.0, metavar="S", help="time for the rest after that")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    store = open_store(options.storage)
    if options.follow:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes our input
        follow(store, until=_input_closed(), drain_seconds=options.drain_seconds)
    else:
        deliver(store)
    left = pending(store)
    store.dispose()
    return 1 if left else 0


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
