"""The process beside the server in which proposals are made, so that a server that answers need not wait for them.

A line of JSON in asks for a proposal, a line out is one. It ends when its input does, however the server ends.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
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
        asked = json.loads(line)
        print(json.dumps(_answer(outlook, studies, asked)), file=answers, flush=True)
        while len(studies) > STUDIES_KEPT:
            studies.popitem(last=False)


def _answer(outlook: Outlook, studies: OrderedDict[str, Foreteller], asked: Mapping[str, Any]) -> dict[str, Any]:
    key = json.dumps([asked["study_id"], asked["spec"]], sort_keys=True)
    try:
        if key not in studies:
            studies[key] = Foreteller(outlook, parse_spec(asked["spec"]))
        studies.move_to_end(key)
        proposed = studies[key].propose(asked["begun"])
    except StorageError as error:
        return {"unavailable": str(error)}
    except Exception as error:  # the server tells whoever asked
        return {"error": f"{type(error).__name__}: {error}"}
    return {"params": proposed.params, "receipt": proposed.receipt}


if __name__ == "__main__":
    sys.stdout, answers = sys.stderr, sys.stdout  # whatever prints does not answer
    send_traces()
    with suppress(BrokenPipeError):  # the server has ended
        serve(sys.stdin, answers)
