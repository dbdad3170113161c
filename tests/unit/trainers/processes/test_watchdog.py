"""Does the watchdog bark at silence, and at nothing else?"""

from __future__ import annotations

import math

from trainers.processes.watchdog import Pulse, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_pulse_beats_at_most_once_a_second() -> None:
    clock, beats = Clock(), []
    pulse = Pulse(lambda: beats.append(clock.now), clock=clock)
    for _ in range(35):
        pulse()
        clock.now += 0.1
    assert [round(beat - 1000.0, 1) for beat in beats] == [0.0, 1.0, 2.0, 3.0]


def test_only_the_silent_are_told() -> None:
    clock = Clock()
    watchdog = Watchdog(minutes=1.5, clock=clock)
    assert (watchdog.silent(), watchdog.seconds_left()) == ([], math.inf)
    watchdog.hear(1)
    watchdog.hear(2)
    clock.now += 60
    watchdog.hear(2)
    assert (watchdog.silent(), watchdog.seconds_left()) == ([], 30.0)
    clock.now += 31
    assert (watchdog.silent(), watchdog.seconds_left()) == ([1], 0.0)
    watchdog.forget(1)
    assert watchdog.silent() == []
    assert "1.5 min" in watchdog.reason()


def test_who_waits_for_an_answer_is_not_silent() -> None:
    clock = Clock()
    watchdog = Watchdog(minutes=1, clock=clock)
    watchdog.hear(1)
    watchdog.forget(1)  # it reported
    clock.now += 1000
    assert watchdog.silent() == []
    watchdog.hear(1)  # it was answered
    clock.now += 61
    assert watchdog.silent() == [1]
