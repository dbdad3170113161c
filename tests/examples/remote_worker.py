"""A trainer on any machine that takes part in a study of a service: it asks, reports, and tells. No torch is needed.

    HPO_TOKEN=hpo_… python remote_worker.py http://127.0.0.1:8080 12

12 is the study's number, as in the address of its page. A token of the role `worker` will do.
Put your own training in the place of `train`. `remote_worker_plain.py` does the same with the standard library alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hpo.client.client import Client


def train(params: Mapping[str, Any]) -> Iterator[float]:
    """The loss after each epoch: here that of nothing but arithmetic."""
    for epoch in range(1, 6):
        yield (math.log10(params["lr"]) + 2.5) ** 2 + 1.0 / epoch


def main(url: str, study: str) -> None:
    """Train until the study hands out no more."""
    with Client(url) as client:
        for trial in client.asked(int(study)):
            with trial:  # extends its lease; told as failed where the code raises an error
                for epoch, loss in enumerate(train(trial.params)):
                    if trial.report(epoch, loss):
                        trial.tell(loss, state="pruned")
                        break
                else:
                    trial.tell(loss)
                print(f"trial {trial.number}: {loss:.4f} with {dict(trial.params)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
