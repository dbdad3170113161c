"""Does a study survive an unreachable history, ask for it at a decent pace, and notice its return?"""

import pytest

from hpo.running import outage as module
from hpo.running.outage import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Outage
from storage.errors import StaleAttemptError, StoreUnavailableError


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def fail():
    raise StoreUnavailableError("The history cannot be used:\nrefused")


def test_while_all_is_well_it_is_not_noticed(clock):
    said = []
    outage = Outage(said.append)
    assert outage.attempt(lambda: "answer", otherwise=None) == "answer"
    assert outage.is_over(fail)  # nothing has to be proved
    outage.give_up(after_seconds=0.0)
    assert said == [] and not outage.is_on


def test_an_unreachable_history_is_survived_and_told_once(clock):
    said = []
    outage = Outage(said.append)
    assert outage.attempt(fail, otherwise="nothing") == "nothing"
    assert outage.is_on
    asked = []
    assert outage.attempt(lambda: asked.append(1), otherwise="nothing") == "nothing"
    assert asked == []  # it is not asked again at once
    assert len(said) == 1 and "refused" in said[0]


def test_it_is_asked_less_and_less_often(clock):
    outage = Outage(lambda message: None)
    outage.attempt(fail, otherwise=None)
    asked = []

    def ask():
        asked.append(clock.now)
        fail()

    while clock.now < 200.0:
        assert not outage.is_over(ask)
        clock.now += 0.1
    pauses = [later - sooner for sooner, later in zip([100.0, *asked], asked, strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(FIRST_PAUSE_SECONDS, abs=0.2)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_SECONDS, abs=0.2)


def test_it_is_over_only_when_that_is_proved(clock):
    said = []
    outage = Outage(said.append)
    outage.attempt(fail, otherwise=None)
    clock.now += 10.0
    assert not outage.is_over(fail)
    clock.now += 10.0
    assert outage.is_over(lambda: None)
    assert not outage.is_on and said[-1] == "the history is back after 20 s"
    assert outage.attempt(lambda: "answer", otherwise=None) == "answer"
    outage.attempt(fail, otherwise=None)  # the next one begins anew
    assert len(said) == 3
    clock.now += 2 * FIRST_PAUSE_SECONDS
    assert outage.is_over(lambda: None)


def test_other_errors_are_not_survived(clock):
    outage = Outage(lambda message: None)

    def refuse():
        raise StaleAttemptError("not the current attempt")

    with pytest.raises(StaleAttemptError):
        outage.attempt(refuse, otherwise=None)
    assert not outage.is_on


def test_patience_ends(clock):
    outage = Outage(lambda message: None)
    outage.attempt(fail, otherwise=None)
    clock.now += 60.0
    outage.give_up(after_seconds=61.0)
    with pytest.raises(StoreUnavailableError, match="refused"):
        outage.give_up(after_seconds=59.0)
