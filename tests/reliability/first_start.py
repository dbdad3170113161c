"""May any number of processes start at once on a database that does not exist yet?"""

from __future__ import annotations

from collections import Counter

from storage.errors import StorageError
from storage.schema import open_store
from storage.studies import create_study
from tests.measured import Figure
from tests.processes import run_together
from tests.reliability.places import Place

PROCESSES, ROUNDS = 16, 20


def run(place: Place, *, processes: int = PROCESSES, rounds: int = ROUNDS) -> list[Figure]:
    """Each process opens the store and makes a study, in the same instant."""
    where = f"first start, {place.kind}, {processes} processes x {rounds} rounds"
    failures: Counter[str] = Counter()
    for _ in range(rounds):
        with place.fresh() as url:
            failures.update(error for error in run_together(lambda index, at=url: start(at, index), processes) if error)
    return [Figure(what=f"{where}: failures", ours=failures.total(), at_most=0, note="; ".join(failures))]


def start(url: str, index: int) -> str | None:
    """What went wrong, if anything."""
    try:
        store = open_store(url)
        create_study(store, name=f"study {index}", task="task", metric="loss")
        store.dispose()
    except (StorageError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None
