"""How trials ended is on the disk until the service has been told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hpo.worker.kept import DAMAGED, REFUSED, Kept, Message

HERE, THERE = "http://127.0.0.1:8080", "https://elsewhere"


def message(key: str, server: str = HERE) -> Message:
    body = {"attempt": 1, "state": "complete", "values": [0.1]}
    path, reports = "/studies/1/trials/0/tell", ({"attempt": 1, "step": 0, "value": 0.2},)
    return Message(server=server, path=path, body=body, key=key, about="trial 0 of s", worker="box/1", reports=reports)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[], Kept]]:
    """Workers that share a folder."""
    with ExitStack() as stack:

        def made() -> Kept:
            kept = Kept(tmp_path / "spool")
            stack.callback(kept.close)
            return kept

        yield made


def test_what_is_kept_comes_back_in_order_and_for_its_own_service_only(worker: Callable[[], Kept]) -> None:
    kept = worker()
    assert kept.waiting(HERE) == []
    for key in ("first", "second"):
        kept.put(message(key))
    kept.put(message("other", THERE))
    assert [each for _, each in kept.waiting(HERE)] == [message("first"), message("second")]
    assert [each.key for _, each in kept.waiting(THERE)] == ["other"]


def test_a_file_that_was_cut_is_set_aside(worker: Callable[[], Kept]) -> None:
    kept = worker()
    path = kept.put(message("k"))
    path.write_text(path.read_text()[:-5])
    assert kept.waiting(HERE) == []
    assert [each.suffix for each in path.parent.iterdir()] == [DAMAGED]


def test_what_a_worker_keeps_is_its_own_until_it_ends(worker: Callable[[], Kept]) -> None:
    ours, others = worker(), worker()
    told, left, refused = (ours.put(message(key)) for key in ("told", "left", "refused"))
    assert ours.take_left(HERE) == others.take_left(HERE) == []
    ours.drop(told)
    assert ours.set_aside(refused).suffix == REFUSED
    ours.close()
    assert others.take_left(THERE) == []
    assert others.take_left(HERE) == [(left, message("left"))]
    assert others.take_left(HERE) == worker().take_left(HERE) == []
    others.close()
    assert [path for path, _ in worker().take_left(HERE)] == [left]


def test_an_end_says_which_attempt_has_ended() -> None:
    kept = message("k")
    assert (kept.trial, kept.held) == ("/studies/1/trials/0", (1, 0, 1))
