"""Is Ctrl-C kept until it does no harm, and never lost?"""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hpo.running.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_check(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_wait() -> None:
    with Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_are_left_alone() -> None:
    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
