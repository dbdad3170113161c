"""The same as `remote_worker.py` with nothing but the standard library: what a trainer in any language has to send.

HPO_TOKEN=hpo_… python remote_worker_plain.py http://127.0.0.1:8080 12
"""

import json
import math
import os
import socket
import sys
import time
import uuid
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

WORKER = f"{socket.gethostname()}/{os.getpid()}"
GONE, TRY_AGAIN = 410, (429, 502, 503, 504)


def send(url, body):
    """The status and the JSON of an answer. A request is repeated under one key until there is an answer."""
    headers = {
        "Authorization": f"Bearer {os.environ['HPO_TOKEN']}",
        "Content-Type": "application/json",
        "Idempotency-Key": uuid.uuid4().hex,
    }
    data = json.dumps(body).encode()
    while True:
        try:
            with urlopen(Request(url, data, headers), timeout=30) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except HTTPError as error:
            if error.code not in TRY_AGAIN:
                return error.code, json.load(error)
        except (URLError, OSError):
            pass  # the server is away
        time.sleep(1)


def train(params):
    for epoch in range(1, 6):
        yield (math.log10(params["lr"]) + 2.5) ** 2 + 1.0 / epoch


def main(url, study):
    study = f"{url}/api/v1/studies/{study}"
    while True:
        status, trial = send(f"{study}/ask", {"worker": WORKER, "lease_seconds": 60})
        if status == GONE:
            print(trial["detail"])
            return
        if status == 204:  # all trials are under way; one may come back
            time.sleep(5)
            continue
        if status != 200:
            sys.exit(trial["detail"])
        this, attempt = f"{study}/trials/{trial['trial']}", trial["attempt"]
        state = "complete"
        for epoch, loss in enumerate(train(trial["params"])):  # report more often than the lease is long
            _, answer = send(f"{this}/report", {"attempt": attempt, "step": epoch, "value": loss})
            if answer.get("prune"):
                state = "pruned"
                break
        status, told = send(f"{this}/tell", {"attempt": attempt, "state": state, "value": loss})
        print(f"trial {trial['trial']}: {told['value']:.4f}" if status == 200 else told["detail"])


if __name__ == "__main__":
    main(*sys.argv[1:])
