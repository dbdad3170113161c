"""How configurations are kept: which parameters they have and what those were drawn from once, and then only numbers.

A parameter set is a list of names with their distributions. A configuration is one point of it: Optuna's internal
values (a choice is its index) as little-endian doubles, in the order of the set.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from sqlalchemy import Connection, Table, select

from storage.database import Store, insert_if_absent
from storage.locks import ForkSafeLock
from storage.models import distributions, parameter_sets

DOUBLE = np.dtype("<f8")

Fields = Mapping[str, Any]
"""A distribution in the words of a study file: `{"type": "float", "low": 1e-5, "high": 0.1, "log": True}`."""


@dataclass(frozen=True, kw_only=True)
class ParameterSet:
    """Parameters in an order, and what each is drawn from."""

    names: tuple[str, ...]
    distributions: tuple[BaseDistribution, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def by_name(self) -> dict[str, BaseDistribution]:
        """The distributions by name."""
        return dict(zip(self.names, self.distributions, strict=True))

    def internal(self, params: Mapping[str, Any]) -> list[float]:
        """Optuna's internal values of a configuration that has every parameter of the set."""
        return [float(self.by_name[name].to_internal_repr(params[name])) for name in self.names]

    def encode(self, params: Mapping[str, Any]) -> bytes:
        """A configuration as it is stored."""
        return pack(self.internal(params))

    def decode(self, configuration: bytes | None) -> dict[str, Any]:
        """A stored configuration as the training code gets it."""
        values = unpack(configuration).tolist()
        return {
            name: distribution.to_external_repr(value)
            for name, distribution, value in zip(self.names, self.distributions, values, strict=True)
        }

    def decode_all(self, configurations: Sequence[bytes]) -> list[dict[str, Any]]:
        """As `decode`, for many."""
        if not self.names:
            return [{} for _ in configurations]
        internal = unpack(b"".join(configurations)).reshape(-1, len(self.names))
        columns = [
            _external(distribution, internal[:, column]) for column, distribution in enumerate(self.distributions)
        ]
        return [dict(zip(self.names, values, strict=True)) for values in zip(*columns, strict=True)]


NOTHING = ParameterSet(names=(), distributions=())


def pack(internal: Iterable[float]) -> bytes:
    """Internal values as they are stored."""
    return np.fromiter(internal, DOUBLE).tobytes()


def unpack(configuration: bytes | None) -> NDArray[np.float64]:
    """The internal values of a stored configuration; none for one without parameters."""
    return np.frombuffer(configuration or b"", DOUBLE)


def _external(distribution: BaseDistribution, internal: NDArray[np.float64]) -> list[Any]:
    """What `to_external_repr` makes of each value."""
    if isinstance(distribution, CategoricalDistribution):
        return [distribution.choices[index] for index in internal.astype(int).tolist()]
    values = internal.astype(int) if isinstance(distribution, IntDistribution) else internal
    return list(values.tolist())


def distribution_of(name: str, fields: Fields) -> BaseDistribution:
    """The distribution that the words of a study file stand for. Raises ValueError.

    Optuna counts the steps of a range in decimals, of which there may be too many.
    """
    try:
        return _distribution_of(name, fields)
    except ArithmeticError as error:
        raise ValueError(f"space.{name}: its range and step are too far apart to be counted") from error


def _distribution_of(name: str, fields: Fields) -> BaseDistribution:
    kind, log = fields.get("type"), bool(fields.get("log", False))
    if kind == "categorical":
        return CategoricalDistribution(tuple(fields["choices"]))
    if kind == "float":
        step = fields.get("step")
        return FloatDistribution(float(fields["low"]), float(fields["high"]), log=log, step=step)
    if kind == "int":
        return IntDistribution(int(fields["low"]), int(fields["high"]), log=log, step=int(fields.get("step") or 1))
    raise ValueError(f"space.{name}.type: {kind!r} is unknown; use float, int or categorical")


def fields_of(distribution: BaseDistribution) -> dict[str, Any]:
    """The inverse of `distribution_of`."""
    if isinstance(distribution, CategoricalDistribution):
        return {"type": "categorical", "choices": list(distribution.choices)}
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "float" if isinstance(distribution, FloatDistribution) else "int"
    fields: dict[str, Any] = {"type": kind, "low": distribution.low, "high": distribution.high}
    if distribution.log:
        fields["log"] = True
    elif distribution.step is not None and (kind == "float" or distribution.step != 1):
        fields["step"] = distribution.step
    return fields


class ParameterSets:
    """The parameter sets and distributions of a store, remembered: a row once written never changes nor goes away.

    What a transaction has written is remembered by `remember`, once it is certain to stay.
    """

    def __init__(self) -> None:
        self._distributions: dict[int, BaseDistribution] = {}
        self._distribution_ids: dict[str, int] = {}
        self._sets: dict[int, ParameterSet] = {0: NOTHING}
        self._set_ids: dict[tuple[tuple[str, int], ...], int] = {}
        self._definitions: dict[int, tuple[tuple[str, int], ...]] = {0: ()}
        self._lock = ForkSafeLock()

    # Distributions

    def distribution_id(self, store: Store, distribution: BaseDistribution) -> int:
        """The number of the distribution, which is given one if it has none.

        Call it outside of a transaction: it may write one of its own, so that what is remembered is never undone.
        """
        definition = distribution_to_json(distribution)
        known = self._distribution_ids.get(definition)
        if known is not None:
            return known
        with store.write() as connection:
            number = _intern(store, connection, distributions, definition)
        with self._lock:
            self._distributions[number] = distribution
            self._distribution_ids[definition] = number
        return number

    def distribution_id_in(self, store: Store, connection: Connection, distribution: BaseDistribution) -> int:
        """As `distribution_id`, in a transaction under way: should it fail, what is remembered here is wrong."""
        definition = distribution_to_json(distribution)
        if definition not in self._distribution_ids:
            number = _intern(store, connection, distributions, definition)
            with self._lock:
                self._distributions[number] = distribution
                self._distribution_ids[definition] = number
        return self._distribution_ids[definition]

    def load_distributions(self, connection: Connection, ids: Iterable[int]) -> Mapping[int, BaseDistribution]:
        """The distributions by number, at least those asked for."""
        missing = set(ids) - self._distributions.keys()
        if missing:
            query = select(distributions.c.id, distributions.c.definition).where(distributions.c.id.in_(missing))
            found = {row.id: row.definition for row in connection.execute(query)}
            with self._lock:
                for number, definition in found.items():
                    self._distributions[number] = json_to_distribution(definition)
                    self._distribution_ids[definition] = number
        return self._distributions

    # Parameter sets

    def id_of(self, store: Store, parameter_set: ParameterSet) -> int | None:
        """The number of the parameter set, which is given one if it has none; None for the empty one.

        Call it outside of a transaction, as `distribution_id`.
        """
        numbers = [self.distribution_id(store, distribution) for distribution in parameter_set.distributions]
        content = tuple(zip(parameter_set.names, numbers, strict=True))
        if not content:
            return None
        known = self._set_ids.get(content)
        if known is None:
            with store.write() as connection:
                known = self.intern(store, connection, content)
            self.remember(known, content)
        return known

    def id_in(self, store: Store, connection: Connection, parameter_set: ParameterSet) -> int | None:
        """As `id_of`, in a transaction that is under way: should it fail, what is remembered here is wrong."""
        numbers = [self.distribution_id_in(store, connection, part) for part in parameter_set.distributions]
        content = tuple(zip(parameter_set.names, numbers, strict=True))
        if not content:
            return None
        number = self.intern(store, connection, content)
        self.remember(number, content)
        return number

    def known_id(self, content: tuple[tuple[str, int], ...]) -> int | None:
        """The number of the set of names with these distribution numbers, if it is remembered."""
        return self._set_ids.get(content)

    def intern(self, store: Store, connection: Connection, content: tuple[tuple[str, int], ...]) -> int:
        """The number of the set of names with these distribution numbers, in a transaction that is under way."""
        known = self._set_ids.get(content)
        return known if known is not None else _intern(store, connection, parameter_sets, json.dumps(content))

    def remember(self, number: int, content: tuple[tuple[str, int], ...]) -> None:
        """Keep in mind a set that is certain to stay."""
        with self._lock:
            self._definitions[number] = content
            self._set_ids[content] = number

    def content_of(self, connection: Connection, number: int | None) -> tuple[tuple[str, int], ...]:
        """Names and distribution numbers of a set."""
        if number is None:
            return ()
        if number not in self._definitions:
            definition = connection.execute(
                select(parameter_sets.c.definition).where(parameter_sets.c.id == number)
            ).scalar_one()
            self.remember(number, _content(definition))
        return self._definitions[number]

    def known(self, store: Store, ids: Collection[int | None]) -> Mapping[int, ParameterSet]:
        """As `load`, outside of a transaction."""
        if all(number is None or number in self._sets for number in ids):
            return self._sets
        with store.read() as connection:
            return self.load(connection, ids)

    def load(self, connection: Connection, ids: Iterable[int | None]) -> Mapping[int, ParameterSet]:
        """The parameter sets by number, at least those asked for; 0 is the empty one, of trials without a number."""
        missing = {number for number in ids if number is not None} - self._sets.keys()
        if missing:
            query = select(parameter_sets.c.id, parameter_sets.c.definition).where(parameter_sets.c.id.in_(missing))
            found = {row.id: _content(row.definition) for row in connection.execute(query)}
            known = self.load_distributions(connection, (number for content in found.values() for _, number in content))
            for number, content in found.items():
                self.remember(number, content)
                self._sets[number] = ParameterSet(
                    names=tuple(name for name, _ in content), distributions=tuple(known[part] for _, part in content)
                )
        return self._sets


def _content(definition: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, number) for name, number in json.loads(definition))


def _intern(store: Store, connection: Connection, table: Table, definition: str) -> int:
    digest = sha256(definition.encode()).hexdigest()
    connection.execute(insert_if_absent(store.dialect, table), {"digest": digest, "definition": definition})
    return int(connection.execute(select(table.c.id).where(table.c.digest == digest)).scalar_one())
