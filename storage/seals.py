"""Has anybody changed the past behind the history's back? Each finished trial is sealed, and the seals form chains.

A seal is a digest of what a trial was: its outcome, configuration, curve, attributes and provenance, a part each, so
that a difference can be named. Entries of a study's chain hold the seals of trials in the order in which they came; its
head is a digest of all of them, and grows with each. What was entered last of a trial counts: a late result is sealed
anew. The history's own chain, number 0, has an entry for each study that was created, and one for each that was
deleted by those who may; so a study that is gone shows as well.

Without a key the chains show accidents, careless hands and bugs: whoever can write the database and reads this file can
seal again what he has changed. With a key (`HPO_SEAL_KEY`, which the database never sees) every digest is a keyed one
(BLAKE2's keyed mode, as HMAC), which nobody can make without it. In both cases one state of the whole history that was
valid once, such as an old backup put in its place, is a valid one; the fingerprint that `hpo db verify` prints, noted
elsewhere, tells it from today's. What is not sealed: trials that are not finished, a study's attributes and space,
caches, messages to MLflow, accounts.

Nobody waits for all the others. A finished trial locks the head of its study's chain, after all else; only who creates
or deletes a study locks the history's own, as the very last thing.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any, TypeAlias

import msgpack
from optuna.distributions import CategoricalDistribution, json_to_distribution
from sqlalchemy import Connection, Select, bindparam, delete, func, select, update

from storage.database import Store, database_now, insert_if_absent, insert_many
from storage.errors import SealKeyError, StorageError
from storage.models import (
    UNFINISHED,
    chains,
    distributions,
    intermediate_values,
    parameter_sets,
    seals,
    studies,
    tasks,
    trial_attributes,
    trials,
)
from storage.statements import Statement, is_listed

KEY_VARIABLE = "HPO_SEAL_KEY"
LEAST_KEY_LENGTH = 16  # characters: shorter ones can be guessed
HISTORY = 0  # the number of the history's own chain; no study has it
STUDY_ITSELF = -1  # the number under which a study's own facts are in its chain
TRIALS_AT_A_TIME = 10_000

PARTS = ("outcome", "configuration", "curve", "attributes", "provenance")
PART_BYTES = 8
SEAL_BYTES = PART_BYTES * len(PARTS)
UNSEALED = bytes(SEAL_BYTES)  # in the place of a trial that is not finished

_OUTCOME = (
    *("state", "value", "more_values", "started_at", "finished_at"),
    *("cost_seconds", "epochs", "peak_memory_bytes", "deaths", "error"),
)
_PROVENANCE = ("attempt", "worker", "seed", "code_version", "data_fingerprint", "hardware", "checkpoint", "source_key")

Problem: TypeAlias = tuple[str, str]  # what it is about, and what is wrong with it
Drawn: TypeAlias = tuple[tuple[str, ...], tuple[tuple[int, Sequence[Any]], ...]]
"""What makes a configuration of its numbers: the names, and where in it which choices are meant by their places."""


# For those that change the history


def begin_chains(connection: Connection, study_ids: Sequence[int]) -> None:
    """Begin the chains of new studies, with the trials in them; the last thing in a transaction."""
    if not study_ids:
        return
    key, ids = _key(), json.dumps(list(study_ids))
    facts = {study_id: rest for study_id, *rest in _ALL_FACTS.run(connection, study_ids=ids).rows}
    entries = {number: [(STUDY_ITSELF, _digest(key, facts[number], 32))] for number in study_ids}
    for study_id, entry in _entries_now(connection, study_ids, 0):
        entries[study_id].append(entry)
    heads = []
    for study_id, entered in entries.items():
        head = _insert_entries(connection, study_id, 0, b"", entered)
        heads.append((study_id, len(entered), head, _hint(key)))
    insert_many(connection, chains, [column.name for column in chains.columns], heads)
    _enter(connection, HISTORY, [(number, _birth(key, number, facts[number])) for number in study_ids])


def with_chains(connection: Connection, study_ids: Sequence[int]) -> set[int]:
    """Which of these studies have their chains."""
    return set(connection.execute(select(chains.c.study_id).where(chains.c.study_id.in_(study_ids))).scalars())


def end_chains(connection: Connection, study_ids: Sequence[int]) -> None:
    """End the chains of studies that are deleted; the last thing in a transaction."""
    if study_ids:
        connection.execute(delete(seals).where(seals.c.study_id.in_(study_ids)))
        connection.execute(delete(chains).where(chains.c.study_id.in_(study_ids)))
        _enter(connection, HISTORY, [(number, b"") for number in study_ids])


def seal_study(connection: Connection, study_id: int) -> None:
    """Seal the facts of a study that trials are read by, when it is new, or one of them has been changed."""
    facts = _FACTS.run(connection, study_id=study_id).rows[0]
    _enter(connection, study_id, [(STUDY_ITSELF, _digest(_key(), list(facts), 32))])


def seal_trial(connection: Connection, trial_id: int) -> None:
    """Seal a trial that is finished, when all of it is in."""
    row = _TRIAL.run(connection, trial_id=trial_id).rows[0]
    study_id, number, *_ = row
    curve = _CURVE.run(connection, trial_id=trial_id).rows
    attributes = _ATTRIBUTES.run(connection, trial_id=trial_id).rows
    drawn = _Configurations(connection).of(row[-2])
    _enter(connection, study_id, [(number, _seal(_key(), row, curve, attributes, drawn))])


def seal_trials(connection: Connection, study_id: int, first: int) -> None:
    """Seal the trials of a study that are finished, from a number on."""
    _enter(connection, study_id, [entry for _, entry in _entries_now(connection, [study_id], first)])


def seal_all(connection: Connection, progress: Callable[[float], None] | None = None) -> int:
    """Seal the whole history as it is now, whatever was sealed before; returns how many studies that is."""
    connection.execute(delete(seals))
    connection.execute(delete(chains))
    ids = connection.execute(select(studies.c.id).order_by(studies.c.id)).scalars().all()
    for done, study_id in enumerate(ids, start=1):
        begin_chains(connection, [study_id])
        if progress is not None:
            progress(done / len(ids))
    return len(ids)


def seal_again(store: Store, *, progress: Callable[[float], None] | None = None) -> int:
    """As `seal_all`, in a transaction of its own. Raises StorageError while a trial is running."""
    with store.write() as connection:
        if connection.execute(_RUNNING).first() is not None:
            raise StorageError("A trial is running: what finishes meanwhile would be sealed otherwise. Stop it first.")
        return seal_all(connection, progress)


def seal_what_was_before(connection: Connection) -> None:
    """Seal a history that has no seals, because an older version made it."""
    if connection.execute(select(chains.c.study_id).limit(1)).first() is None:
        seal_all(connection)


def check_key(store: Store) -> None:
    """Raises SealKeyError where the history is sealed with another key than `HPO_SEAL_KEY` holds, or with none."""
    known = store.fetch(_HINT_OF, study_id=HISTORY)
    hint = known[0].key_hint if known else None
    if not known or hint == _hint(_key()):
        return
    if hint is None:
        raise SealKeyError(
            f"This history is sealed without a key, and {KEY_VARIABLE} is set. "
            "To seal it with that key as it is now: hpo db seal"
        )
    held = f"{KEY_VARIABLE} holds another one" if _key() else f"{KEY_VARIABLE} is not set"
    raise SealKeyError(f"This history is sealed with a key (its fingerprint is {hint}), and {held}.")


# For those that ask


def fingerprint(store: Store) -> str:
    """A short digest of all chains: the same as long as nothing is finished, created, deleted or sealed anew."""
    query = select(chains.c.study_id, chains.c.entries, chains.c.head).order_by(chains.c.study_id)
    with store.read() as connection:
        heads = [[row.study_id, row.entries, bytes(row.head)] for row in connection.execute(query)]
    return blake2b(_packed(heads), digest_size=8).hexdigest()


def find_broken(connection: Connection, progress: Callable[[float], None]) -> Iterator[Problem]:
    """Everything that is not as it was sealed. progress is told the share of the studies that are done."""
    key = _key()
    names = {row.id: row.name for row in connection.execute(select(studies.c.id, studies.c.name))}
    heads = {row.study_id: row for row in connection.execute(select(chains))}
    if not heads:
        if names:
            yield "the history", "nothing in it is sealed: `hpo db seal` seals it as it is now"
        return
    others = {row.key_hint for row in heads.values()} - {_hint(key)}
    if others:
        yield "the history", f"it is sealed {_by_what(others)}, and was to be verified {_by_what([_hint(key)])}"
        return
    entries, problems = _read(connection, key, heads, HISTORY)
    yield from (("the history", problem) for problem in problems)
    born = {number: digest for number, digest in dict(entries).items() if digest}  # the others were deleted since
    for number in sorted(born.keys() - names.keys()):
        yield f"study {number}", "it was removed behind the history's back"
    for done, (study_id, name) in enumerate(sorted(names.items()), start=1):
        subject = f"study {name!r}"
        if study_id not in born:
            yield subject, "it was inserted behind the history's back"
        else:
            facts = _FACTS.run(connection, study_id=study_id).rows[0]
            if born[study_id] != _birth(key, study_id, facts):
                yield subject, "its name or the time of its creation was changed"
            yield from _broken_in(connection, key, heads, study_id, facts)
        progress(done / len(names))


def _broken_in(
    connection: Connection, key: bytes, heads: Mapping[int, Any], study_id: int, facts: Sequence[Any]
) -> Iterator[Problem]:
    study = f"study {facts[0]!r}"
    entries, problems = _read(connection, key, heads, study_id)
    yield from ((study, problem) for problem in problems)
    if dict(entries).get(STUDY_ITSELF) != _digest(key, list(facts), 32):
        yield study, "its facts were changed: task, directions, source, study file, provenance or quarantine"
    sealed = _last_seals(entries)
    last = _LAST_NUMBER.run(connection, study_ids=json.dumps([study_id])).rows[0].number
    configurations = _Configurations(connection)
    for start in range(0, last + 1, TRIALS_AT_A_TIME):
        for _, number, seal in _sealed_now(connection, [study_id], start, configurations):
            before = sealed.pop(number, None)
            if seal != before:
                yield f"trial {number} of {study}", _difference(before, seal)
    for number in sorted(sealed):
        yield f"trial {number} of {study}", "it was removed behind the history's back"


def _last_seals(entries: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """What was entered last of each trial."""
    sealed: dict[int, bytes] = {}
    for first, digests in entries:
        if first != STUDY_ITSELF:
            for place, at in enumerate(range(0, len(digests), SEAL_BYTES)):
                if digests[at : at + SEAL_BYTES] != UNSEALED:
                    sealed[first + place] = digests[at : at + SEAL_BYTES]
    return sealed


def _difference(before: bytes | None, now: bytes | None) -> str:
    if before is None:
        return "it was inserted, or finished, behind the history's back"
    if now is None:
        return "it was finished, and is not any more"
    starts = range(0, SEAL_BYTES, PART_BYTES)
    same = [before[at : at + PART_BYTES] == now[at : at + PART_BYTES] for at in starts]
    changed = [part for part, is_same in zip(PARTS, same, strict=True) if not is_same]
    return f"changed since it was sealed: its {', its '.join(changed)}"


def _by_what(hints: Iterable[str | None]) -> str:
    return ", ".join("without a key" if hint is None else f"with the key {hint}" for hint in sorted(hints, key=str))


# Chains


def _enter(connection: Connection, study_id: int, entries: Sequence[tuple[int, bytes]]) -> None:
    """Enter seals into a chain, each by the number of the trial, or study, that its first is of."""
    if not entries:
        return
    key = _key()
    known = _CHAIN.run(connection, study_id=study_id).first
    if known is None:  # the history's own, before its first study; or somebody has removed it, which will show
        _BEGIN.run(connection, study_id=study_id, entries=0, head=b"", key_hint=_hint(key))
        known = _CHAIN.run(connection, study_id=study_id).rows[0]
    head = _insert_entries(connection, study_id, known.entries, bytes(known.head), entries)
    _ADVANCE.run(connection, study_id=study_id, entries=known.entries + len(entries), head=head)


def _insert_entries(
    connection: Connection, study_id: int, position: int, head: bytes, entries: Sequence[tuple[int, bytes]]
) -> bytes:
    """Insert entries behind a head, from a position on; returns the head that they lead to."""
    key, rows = _key(), []
    for place, (number, digests) in enumerate(entries, start=position):
        rows.append((study_id, place, number, digests))
        head = _digest(key, [head, study_id, place, number, digests], 32)
    insert_many(connection, seals, [column.name for column in seals.columns], rows)
    return head


def _read(
    connection: Connection, key: bytes, heads: Mapping[int, Any], study_id: int
) -> tuple[list[tuple[int, bytes]], list[str]]:
    """The entries of a chain, in their order, and what is wrong with the chain itself."""
    known = heads.get(study_id)
    if known is None:
        return [], ["its chain of seals was removed"]
    head, expected = b"", 0
    entries: list[tuple[int, bytes]] = []
    problems: list[str] = []
    for position, number, digests in _ENTRIES.run(connection, study_id=study_id).rows:
        if position != expected:
            problems.append(f"entries {expected} to {position - 1} of its chain of seals were removed")
        expected = position + 1
        entries.append((number, bytes(digests)))
        head = _digest(key, [head, study_id, position, number, bytes(digests)], 32)
    if expected < known.entries:
        problems.append(f"entries {expected} to {known.entries - 1} of its chain of seals were removed")
    elif head != bytes(known.head) and not problems:
        problems.append("its chain of seals was changed: it does not lead to its head")
    return entries, problems


# Seals


def _entries_now(
    connection: Connection, study_ids: Sequence[int], first: int
) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """What is to be entered of the trials of studies from a number on, by study."""
    last = _LAST_NUMBER.run(connection, study_ids=json.dumps(list(study_ids))).rows[0].number
    configurations = _Configurations(connection)
    for start in range(first, last + 1, TRIALS_AT_A_TIME):
        found: dict[int, list[bytes]] = {}
        for study_id, number, seal in _sealed_now(connection, study_ids, start, configurations):
            seals_of = found.setdefault(study_id, [])
            seals_of += [UNSEALED] * (number - start - len(seals_of))
            seals_of.append(seal or UNSEALED)
        yield from ((study_id, (start, b"".join(seals_of))) for study_id, seals_of in found.items())


def _sealed_now(
    connection: Connection, study_ids: Sequence[int], first: int, configurations: "_Configurations"
) -> Iterator[tuple[int, int, bytes | None]]:
    """The next trials of studies from a number on, with the seal each would be given now; None: it is not finished."""
    key = _key()
    which = {"study_ids": json.dumps(list(study_ids)), "first": first, "last": first + TRIALS_AT_A_TIME - 1}
    curves = _by_trial(_CURVES.run(connection, **which).rows)
    attributes = _by_trial(_ALL_ATTRIBUTES.run(connection, **which).rows)
    for row in _TRIALS.run(connection, **which).rows:
        study_id, number, state = row[:3]
        if state in UNFINISHED:
            yield study_id, number, None
        else:
            trial, drawn = (study_id, number), configurations.of(row[-2])
            yield *trial, _seal(key, row, curves.get(trial, ()), attributes.get(trial, ()), drawn)


def _by_trial(rows: Iterable[Sequence[Any]]) -> Mapping[tuple[int, int], list[Sequence[Any]]]:
    found: dict[tuple[int, int], list[Sequence[Any]]] = {}
    for study_id, number, *rest in rows:
        found.setdefault((study_id, number), []).append(rest)
    return found


def _seal(
    key: bytes, row: Sequence[Any], curve: Iterable[Sequence[Any]], attributes: Iterable[Sequence[Any]], drawn: Drawn
) -> bytes:
    """The seal of a trial: a digest of each of its parts. row: as `_TRIALS` selects it."""
    outcome, end = list(row[2 : 2 + len(_OUTCOME)]), 2 + len(_OUTCOME)
    outcome[1] = _same_zero(outcome[1])
    names, categorical = drawn
    internal = bytes(row[-1] or b"")
    choices = [_choice(internal, at, allowed) for at, allowed in categorical]
    points = sorted((step, _same_zero(value)) for step, value in curve) if curve else []
    noted = sorted(map(list, attributes)) if attributes else []
    return b"".join(
        (
            _digest(key, outcome, PART_BYTES),
            _digest(key, [names, internal, choices], PART_BYTES),
            _digest(key, points, PART_BYTES) if points else _nothing(key),
            _digest(key, noted, PART_BYTES) if noted else _nothing(key),
            _digest(key, list(row[end : end + len(_PROVENANCE)]), PART_BYTES),
        )
    )


def _same_zero(value: Any) -> Any:
    """SQLite knows no -0.0."""
    return 0.0 if value == 0 else value


def _choice(internal: bytes, at: int, choices: Sequence[Any]) -> Any:
    """The choice that is meant: its place alone could be given another meaning."""
    try:
        return choices[int(struct.unpack_from("<d", internal, at)[0])]
    except (struct.error, LookupError, ValueError, OverflowError):
        return None  # a configuration that no program of ours wrote


class _Configurations:
    """What the numbers of configurations stand for, by parameter set, as it is in the database now."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[int | None, Drawn] = {None: ((), ())}

    def of(self, set_id: int | None) -> Drawn:
        """The names of a set, and where its choices are."""
        if set_id not in self._known:
            self._known[set_id] = self._load(set_id)
        return self._known[set_id]

    def _load(self, set_id: int | None) -> Drawn:
        found = _SET.run(self._connection, set_id=set_id).first
        if found is None:
            return ("its parameter set is not there",), ()
        try:
            content = [(name, number) for name, number in json.loads(found.definition)]
            ids = [number for _, number in content]
            known = {row.id: row.definition for row in _DISTRIBUTIONS.run(self._connection, ids=json.dumps(ids)).rows}
            drawn_from = [json_to_distribution(known[number]) for number in ids]
        except (ValueError, KeyError, TypeError):
            return ("its parameter set cannot be read", found.definition), ()
        places = [
            (8 * place, drawn.choices)
            for place, drawn in enumerate(drawn_from)
            if isinstance(drawn, CategoricalDistribution)
        ]
        return tuple(name for name, _ in content), tuple(places)


# Digests


def _birth(key: bytes, study_id: int, facts: Sequence[Any]) -> bytes:
    name, created_at = facts[:2]
    return _digest(key, [study_id, name, created_at], 32)


def _digest(key: bytes, content: Any, size: int) -> bytes:
    return blake2b(_packed(content), digest_size=size, key=key).digest()


def _packed(content: Any) -> bytes:
    """Numbers, texts, bytes, None and lists of them as bytes, in one way only."""
    packed: bytes = msgpack.packb(content)
    return packed


@cache
def _nothing(key: bytes) -> bytes:
    """The digest of a curve without steps, and of no attributes."""
    return _digest(key, [], PART_BYTES)


def _key() -> bytes:
    """What digests are keyed with; empty: nothing. Raises SealKeyError."""
    return _key_from(os.environ.get(KEY_VARIABLE, ""))


@cache
def _key_from(text: str) -> bytes:
    if text and len(text) < LEAST_KEY_LENGTH:
        raise SealKeyError(
            f"{KEY_VARIABLE} holds {len(text)} characters, which can be guessed: at least {LEAST_KEY_LENGTH}, "
            "as `openssl rand -hex 32` makes them."
        )
    return blake2b(text.encode()).digest() if text else b""


@cache
def _hint(key: bytes) -> str | None:
    """What tells a key from others, and nothing of it."""
    return _digest(key, "hint", 4).hex() if key else None


# Statements

_facts_columns = (
    *(studies.c.name, studies.c.created_at, studies.c.directions, studies.c.source, studies.c.spec),
    *(studies.c.provenance, studies.c.quarantine, tasks.c.name, tasks.c.metric, tasks.c.direction),
)
_FACTS = Statement(
    select(*_facts_columns).join_from(studies, tasks, isouter=True).where(studies.c.id == bindparam("study_id")),
    plain=True,
)
_ALL_FACTS = Statement(
    lambda dialect: (
        select(studies.c.id, *_facts_columns)
        .join_from(studies, tasks, isouter=True)
        .where(is_listed(dialect, studies.c.id, "study_ids"))
    ),
    plain=True,
)
_trial_columns = (
    *(trials.c.study_id, trials.c.number),
    *(trials.c[name] for name in (*_OUTCOME, *_PROVENANCE)),
    *(trials.c.parameter_set_id, trials.c.configuration),
)
_is_it = trials.c.id == bindparam("trial_id")
_is_in_number = (trials.c.number >= bindparam("first"), trials.c.number <= bindparam("last"))


def _of_them(query: Select[Any]) -> Statement:
    """A query about the trials of the studies that are listed, from a number to another."""
    return Statement(
        lambda dialect: query.where(is_listed(dialect, trials.c.study_id, "study_ids"), *_is_in_number), plain=True
    )


_TRIAL = Statement(select(*_trial_columns).where(_is_it), plain=True)
_TRIALS = _of_them(select(*_trial_columns).order_by(trials.c.study_id, trials.c.number))
_LAST_NUMBER = Statement(
    lambda dialect: select(func.coalesce(func.max(trials.c.number), -1).label("number")).where(
        is_listed(dialect, trials.c.study_id, "study_ids")
    )
)
_which = (trials.c.study_id, trials.c.number)
_point = (intermediate_values.c.step, intermediate_values.c.value)
_CURVE = Statement(select(*_point).where(intermediate_values.c.trial_id == bindparam("trial_id")), plain=True)
_CURVES = _of_them(select(*_which, *_point).join_from(trials, intermediate_values))
_noted = (trial_attributes.c.kind, trial_attributes.c.key, trial_attributes.c.value)
_ATTRIBUTES = Statement(select(*_noted).where(trial_attributes.c.trial_id == bindparam("trial_id")), plain=True)
_ALL_ATTRIBUTES = _of_them(select(*_which, *_noted).join_from(trials, trial_attributes))
_SET = Statement(select(parameter_sets.c.definition).where(parameter_sets.c.id == bindparam("set_id")))
_DISTRIBUTIONS = Statement(
    lambda dialect: select(distributions.c.id, distributions.c.definition).where(
        is_listed(dialect, distributions.c.id, "ids")
    )
)
_RUNNING = select(trials.c.id).where(trials.c.state.in_(UNFINISHED), trials.c.lease_until > database_now()).limit(1)
_is_the_chain = chains.c.study_id == bindparam("study_id")
_CHAIN = Statement(select(chains.c.entries, chains.c.head).where(_is_the_chain).with_for_update())
_HINT_OF = Statement(select(chains.c.key_hint).where(_is_the_chain))
_BEGIN = Statement(lambda dialect: insert_if_absent(dialect, chains))
_ADVANCE = Statement(update(chains).where(_is_the_chain).values(entries=bindparam("entries"), head=bindparam("head")))
_ENTRIES = Statement(
    select(seals.c.position, seals.c.first_number, seals.c.digests)
    .where(seals.c.study_id == bindparam("study_id"))
    .order_by(seals.c.position),
    plain=True,
)
