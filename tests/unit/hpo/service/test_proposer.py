"""Proposals ahead of time: what may each lack of what is known when it is asked for?"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.running.ahead import Proposed
from hpo.service.proposer import Proposer

STUDY = 1
PATIENCE_SECONDS = 20.0


class Script:
    """In the place of the process: makes a proposal whenever it is let, which says from which look it is."""

    def __init__(self) -> None:
        self.looks = 0
        self.looked, self.let = threading.Semaphore(0), threading.Semaphore(0)

    def ask(self, request: Mapping[str, Any]) -> Iterator[Proposed]:
        self.looks += 1
        look = self.looks
        self.looked.release()
        for _ in range(request["count"]):
            assert self.let.acquire(timeout=PATIENCE_SECONDS)
            yield Proposed(params={"look": look}, receipt=None)

    def wait_for_look(self) -> None:
        assert self.looked.acquire(timeout=PATIENCE_SECONDS)

    def end(self) -> None:
        pass

    def end_for_good(self) -> None:
        self.let.release(9)


class Askers:
    """Who asks for trials of a study of which so many run."""

    def __init__(self, script: Script, proposer: Proposer) -> None:
        self.script, self.proposer = script, proposer

    def ask(self, running: int) -> Future[Proposed]:
        return self.proposer.take(STUDY, {}, running=running)

    def given(self, asked: Future[Proposed]) -> int:
        """The look from which that is made which he is given, once one more may be made."""
        self.script.let.release()
        proposed = asked.result(PATIENCE_SECONDS)
        self.proposer.placed(STUDY, proposed)
        look: int = proposed.params["look"]
        return look


@pytest.fixture
def askers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Askers]:
    script = Script()
    monkeypatch.setattr("hpo.service.proposer._Process", lambda _url: script)
    proposer = Proposer(SimpleNamespace(url=""), processes=1)  # type: ignore[arg-type]
    yield Askers(script, proposer)
    proposer.close()


def test_where_few_run_none_lacks_a_result_that_was_there_when_it_was_asked_for(askers: Askers) -> None:
    first = askers.ask(running=3)
    askers.script.wait_for_look()
    early, gone, patient = (askers.ask(running=3) for _ in range(3))
    assert askers.given(first) == 1
    assert askers.given(early) == 2  # from which three are made
    assert gone.cancel()
    askers.proposer.hear(STUDY)
    late = askers.ask(running=3)
    assert askers.given(patient) == 2
    askers.script.let.release()  # for him who has gone; it is of no use to who came after the result
    assert askers.given(late) == 3


def test_where_many_run_a_proposal_may_lack_a_few(askers: Askers) -> None:
    assert askers.given(askers.ask(running=20)) == 1  # from which three are made
    askers.proposer.hear(STUDY)
    assert askers.given(askers.ask(running=20)) == 1
    askers.proposer.hear(STUDY)
    askers.proposer.hear(STUDY)
    late = askers.ask(running=20)
    askers.script.let.release()  # it lacks three
    assert askers.given(late) == 2
