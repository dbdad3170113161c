"""The process beside the server in which proposals are made, so that a server that answers need not wait for them.

A line of JSON in asks for some proposals; a line out is one, or says why there are no more. It ends when its input
does, however the server ends.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TextIO

from hpo.running.ahead import Foreteller, Outlook
from hpo.studies.study_file import parse_spec
from hpo.tracing import send_traces
from storage.database import Store
from storage.errors import StorageError

STUDIES_KEPT = 32  # whose past is kept in memory


def serve(lines: TextIO, answers: TextIO) -> None:
    """Answer each line until there are no more; the first one names the store."""
    outlook = Outlook(Store(json.loads(lines.readline())["storage"]))
    studies: OrderedDict[str, Foreteller] = OrderedDict()
    for line in lines:
        for answer in _answers(outlook, studies, json.loads(line)):
            print(json.dumps(answer), file=answers, flush=True)
        while len(studies) > STUDIES_KEPT:
            studies.popitem(last=False)


def _answers(
    outlook: Outlook, studies: OrderedDict[str, Foreteller], asked: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    key = json.dumps([asked["study_id"], asked["spec"]], sort_keys=True)
    try:
        if key not in studies:
            studies[key] = Foreteller(outlook, parse_spec(asked["spec"]))
        studies.move_to_end(key)
        for proposed in studies[key].propose(asked["begun"], count=asked["count"]):
            yield {"params": proposed.params, "receipt": proposed.receipt}
    except StorageError as error:
        yield {"unavailable": str(error)}
    except Exception as error:  # the server tells whoever asked
        yield {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.stdout, answers = sys.stderr, sys.stdout  # whatever prints does not answer
    send_traces()
    with suppress(BrokenPipeError):  # the server has ended
        serve(sys.stdin, answers)
