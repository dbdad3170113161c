"""How a function runs in many processes at the same moment."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from operator import itemgetter
from typing import Any


def run_together(
    function: Callable[[int], Any], count: int, *, prepare: Callable[[int], Any] | None = None
) -> list[Any]:
    """What `function` returned for each index, in processes that start at the same moment.

    With `prepare`, each process first makes something, untimed, and `function` is given that instead of the index.
    Raises AssertionError with the tracebacks of those that failed.
    """
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(count), context.SimpleQueue()

    def work(index: int) -> None:
        try:
            argument = index if prepare is None else prepare(index)
            barrier.wait()
            results.put((index, function(argument), None))
        except BaseException:
            barrier.abort()
            results.put((index, None, traceback.format_exc()))

    processes = [context.Process(target=work, args=(index,)) for index in range(count)]
    for process in processes:
        process.start()
    outcomes = sorted((results.get() for _ in processes), key=itemgetter(0))
    for process in processes:
        process.join()
    failures = [error for _, _, error in outcomes if error]
    assert not failures, "\n".join(failures)
    return [result for _, result, _ in outcomes]
