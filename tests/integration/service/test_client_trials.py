"""Trials that a program asks for by `hpo.Client`: what it can tell, and what is left where that is refused."""

from __future__ import annotations

import http.server
import math
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi import FastAPI
from optuna.trial import TrialState

import hpo
from hpo.client.trial import Trial
from hpo.errors import HpoError, ServiceError
from hpo.service.state import Service
from storage import history, launches, studies, tokens
from storage.errors import StudyNotFoundError
from storage.history import TrialRecord
from tests.integration.service.test_desk import create
from tests.servers import served


@pytest.fixture
def client(app: FastAPI, service: Service) -> Iterator[hpo.Client]:
    """Of a worker: it may ask, and read nothing."""
    secret, _ = tokens.create_token(service.store, owner="box", role="worker", created_by="a test")
    with served(app) as url, hpo.Client(url, secret) as client:
        yield client


def name_of(service: Service, study_id: int) -> str:
    return history.study_of_id(service.store, study_id).name


def ask(client: hpo.Client, study: str | int) -> Trial:
    trial = client.ask(study)
    assert trial is not None
    return trial


def trials(service: Service, study_id: int) -> list[TrialRecord]:
    return history.list_trials(service.store, study_id)


def test_numbers_that_are_none_are_told(client: hpo.Client, service: Service) -> None:
    study_id = create(service.store)
    with ask(client, study_id) as trial:
        assert not trial.report(0, math.nan, accuracy=math.inf)
        assert not trial.report(1, np.float32(0.5), steps=np.int64(3))
        trial.tell(math.nan, measured={"x": math.inf}, epochs=np.int64(2))
    with ask(client, study_id) as trial:
        trial.tell(np.float32(0.25))
    failed, complete = trials(service, study_id)
    assert (failed.state, failed.error) == (TrialState.FAIL, "nan: loss is nan, which is no finite number")
    assert failed.intermediate_values[1] == 0.5
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.25)


def test_what_was_refused_may_be_told_anew_and_else_the_trial_fails(client: hpo.Client, service: Service) -> None:
    study_id = create(service.store)
    with ask(client, study_id) as trial:
        with pytest.raises(HpoError, match="and 2 were told"):
            trial.tell([0.1, 0.2])
        assert not trial.is_told
        trial.tell(0.1)
    with pytest.raises(HpoError, match="and 2 were told"), ask(client, study_id) as trial:
        trial.tell([0.1, 0.2])
    with pytest.raises(RuntimeError), ask(client, study_id) as trial:
        raise RuntimeError("missing key " * 5_000)
    told, *others = trials(service, study_id)
    assert (told.state, told.value) == (TrialState.COMPLETE, 0.1)
    assert [each.state for each in others] == [TrialState.FAIL, TrialState.FAIL]


def test_a_worker_asks_by_name_also_when_the_name_is_anothers(client: hpo.Client, service: Service) -> None:
    first = create(service.store)
    name = name_of(service, first)
    assert ask(client, name).study_id == first
    ask(client, name).release()
    with service.store.write() as connection:
        studies.delete_study(connection, first)
    second = create(service.store, study=name)
    assert ask(client, name).study_id == second
    with pytest.raises(StudyNotFoundError, match="no study named 'nobody'"):
        client.ask("nobody")


def test_asking_goes_on_after_a_pause(client: hpo.Client, service: Service) -> None:
    study_id = create(service.store, budget={"trials": 1})
    launches.request_launch(service.store, study_id, owner="ann", place="workers")
    launches.want(service.store, study_id, "pause")
    resume = threading.Timer(0.5, lambda: launches.want(service.store, study_id, "run"))
    resume.start()
    began = time.monotonic()
    for trial in client.asked(study_id):
        assert time.monotonic() - began > 0.4
        trial.tell(0.5)
    resume.join()
    assert [each.state for each in trials(service, study_id)] == [TrialState.COMPLETE]


def test_an_answer_that_is_no_json_is_no_services() -> None:
    class LoginPage(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>log in first</html>")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LoginPage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with hpo.Client(f"http://127.0.0.1:{server.server_address[1]}", "hpo_x") as client:
        for act in (client.whoami, lambda: client.ask(1), lambda: client.stop(1)):
            with pytest.raises(ServiceError, match="no JSON: is a Hindsight service at this address"):
                act()
    server.shutdown()
    server.server_close()
