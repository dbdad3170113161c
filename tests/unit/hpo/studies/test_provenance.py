"""Is it known which worker has certainly ended?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpo.studies import provenance
from hpo.studies.provenance import may_be_alive, this_worker


def test_two_workers_of_one_process_differ_and_are_alive() -> None:
    first, second = this_worker(), this_worker()
    assert first != second
    assert may_be_alive(first)
    assert may_be_alive(second)


def test_a_process_that_ended_is_dead() -> None:
    code = "from hpo.studies.provenance import this_worker; print(this_worker())"
    gone = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert not may_be_alive(gone)
    assert not may_be_alive(gone.rpartition("/")[0])


def test_another_process_of_the_same_number_is_not_it() -> None:
    host, pid, _start, random = this_worker().split("/")
    assert not may_be_alive(f"{host}/{pid}/1/{random}")


def test_of_another_host_or_container_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = "/".join((this_worker().split("/")[0], "1234567890", "1"))
    assert not may_be_alive(gone)
    monkeypatch.setattr(provenance, "_host", lambda: "another")
    assert may_be_alive(gone)
    assert may_be_alive("nonsense")
