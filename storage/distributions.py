"""How search distributions are kept once each and referred to by a small number."""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from sqlalchemy import Connection, select

from storage.database import Store, insert_if_absent
from storage.locks import ForkSafeLock
from storage.models import distributions

StoredParams = dict[str, tuple[int, float]]  # name -> distribution id, internal value


class DistributionTable:
    """The table of distributions, remembered: a row once written never changes nor goes away."""

    def __init__(self) -> None:
        self._by_id: dict[int, BaseDistribution] = {}
        self._ids: dict[str, int] = {}
        self._lock = ForkSafeLock()

    def id_of(self, store: Store, distribution: BaseDistribution) -> int:
        """The number of the distribution, which is given one if it has none.

        Call it outside of a transaction: it may write one of its own, so that what is remembered is never undone.
        """
        definition = distribution_to_json(distribution)
        known = self._ids.get(definition)
        return known if known is not None else self._intern(store, definition, distribution)

    def load(self, connection: Connection, ids: Iterable[int]) -> Mapping[int, BaseDistribution]:
        """The distributions by number, at least those asked for."""
        missing = set(ids) - self._by_id.keys()
        if missing:
            query = select(distributions.c.id, distributions.c.definition).where(distributions.c.id.in_(missing))
            for row in connection.execute(query):
                self._remember(row.id, row.definition, json_to_distribution(row.definition))
        return self._by_id

    def _intern(self, store: Store, definition: str, distribution: BaseDistribution) -> int:
        digest = sha256(definition.encode()).hexdigest()
        row = {"digest": digest, "definition": definition}
        with store.write() as connection:
            connection.execute(insert_if_absent(store.dialect, distributions), row)
            found = connection.execute(select(distributions.c.id).where(distributions.c.digest == digest)).scalar_one()
        self._remember(found, definition, distribution)
        return int(found)

    def _remember(self, number: int, definition: str, distribution: BaseDistribution) -> None:
        with self._lock:
            self._by_id[number] = distribution
            self._ids[definition] = number


def read_params(stored: str) -> StoredParams:
    """The parameters of a trial from its column."""
    return {name: (pair[0], pair[1]) for name, pair in json.loads(stored).items()}


def written_params(params: StoredParams) -> str:
    """The parameters of a trial for its column."""
    return json.dumps(params, separators=(",", ":"))


def external_params(params: StoredParams, known: Mapping[int, BaseDistribution]) -> dict[str, Any]:
    """The parameters as the training code gets them."""
    return {name: known[number].to_external_repr(value) for name, (number, value) in params.items()}
