"""Does the API keep what its own description promises, whatever is sent?

Schemathesis reads the description, and sends examples, what lies at the edges, what it makes up, and chains of requests
that follow from one another, as an admin who may do everything, to `hpo serve` in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import delete

from storage import tokens
from storage.models import learned
from storage.schema import open_store
from tests.filled import fill
from tests.measured import Figure
from tests.reliability.places import Place
from tests.servers import hpo_serve

CASES = 2_000
PER_OPERATION = 25
PHASES = "examples,coverage,fuzzing,stateful"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
ENDLESS = "/events$"  # a stream has no end to be judged by; the tests of events read it
SPARE_TOKENS = 20  # of the lowest ids, for whatever is revoked: the admin's own is none of them
MOST_SECONDS = 1_500.0
ALSO_AN_ID = "POST /api/v1/studies/check"  # by GET it is `/studies/{study_id}` of what is no number: 422, not 405


def run(
    place: Place, *, phases: str = PHASES, per_operation: int = PER_OPERATION, least_cases: int = CASES
) -> list[Figure]:
    """Send thousands of requests; nothing may fail, nothing may answer what it does not promise."""
    with place.fresh() as storage, tempfile.TemporaryDirectory() as folder:
        store = open_store(storage)
        fill(store)
        with store.write() as connection:
            connection.execute(delete(learned))  # not what was learned of it, but bytes
        for _ in range(SPARE_TOKENS):
            tokens.create_token(store, owner="spare", role="viewer", created_by="a test")
        secret, _ = tokens.create_token(store, owner="admin", role="admin", created_by="a test")
        store.dispose()
        with hpo_serve(storage, Path(folder)) as url:
            events = _attacked(url, secret, Path(folder), phases=phases, per_operation=per_operation)
        log = (Path(folder) / "server.log").read_text() + (Path(folder) / "server.err").read_text()
    found = [failure for recorder in _scenarios(events) for failure in _failures(recorder)]
    for words, count in Counter(words for _, words in found).most_common():
        print(f"{count} x {words}")
    for line in re.findall(r"^\w*Error: .*$", log, flags=re.MULTILINE)[:10]:
        print(f"in the server's log: {line}")
    where = f"API, {place.kind}"
    server_errors = sum(status >= 500 for status, _ in found)
    return [
        Figure(
            what=f"{where}: cases sent",
            ours=sum(len(recorder["cases"]) for recorder in _scenarios(events)),
            at_least=least_cases,
            note=phases,
        ),
        Figure(what=f"{where}: server errors", ours=server_errors + log.count("Traceback"), at_most=0),
        Figure(what=f"{where}: breaches of its description", ours=len(found) - server_errors, at_most=0),
    ]


def _attacked(url: str, secret: str, folder: Path, *, phases: str, per_operation: int) -> list[dict[str, Any]]:
    """What Schemathesis noted, an event a line."""
    report = folder / "events.ndjson"
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/api/v1/openapi.json"]
    command += ["--header", f"Authorization: Bearer {secret}", "--phases", phases, "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(per_operation), "--exclude-path-regex", ENDLESS, "--continue-on-failure"]
    command += ["--seed", "1", "--no-shrink", "--no-color", "--request-timeout", "60", "--suppress-health-check", "all"]
    command += ["--report", "ndjson", "--report-ndjson-path", str(report), "--warnings", "off"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=MOST_SECONDS, check=False, env={**os.environ}
    )
    assert report.exists(), done.stdout + done.stderr
    return [json.loads(line) for line in report.read_text().splitlines()]


def _scenarios(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        recorder = event.get("ScenarioFinished", {}).get("recorder", {})
        if recorder.get("cases"):
            yield recorder


def _failures(recorder: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """The status and the words of each breach. A 503 that says when to come again is an answer like any other."""
    for case, checks in recorder["checks"].items():
        response = recorder["interactions"][case]["response"]
        status = 0 if response is None else response["status_code"]
        for check in checks:
            failure = check.get("failure_info", {}).get("failure")
            if failure is None or (status == 503 and failure["title"] == "Server error"):
                continue
            if failure["operation"] != ALSO_AN_ID or check["name"] not in {
                "unsupported_method",
                "allow_header_conformance",
            }:
                yield status, f"{failure['operation']}: {failure['title']}, {status}: {failure['message'][:300]}"
