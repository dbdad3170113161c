"""How trials ended is on the disk until the service has been told."""

from __future__ import annotations

from pathlib import Path

from hpo.worker.kept import DAMAGED, Kept, Message

HERE, THERE = "http://127.0.0.1:8080", "https://elsewhere"


def message(key: str, server: str = HERE) -> Message:
    body = {"attempt": 1, "state": "complete", "values": [0.1]}
    return Message(server=server, path="/studies/1/trials/0/tell", body=body, key=key, about="trial 0 of s")


def test_what_is_kept_comes_back_in_order_and_for_its_own_service_only(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool")
    assert kept.waiting(HERE) == []
    with kept.alone() as is_alone:
        assert not is_alone
    for key in ("first", "second"):
        kept.put(message(key))
    kept.put(message("other", THERE))
    assert [each for _, each in kept.waiting(HERE)] == [message("first"), message("second")]
    assert [each.key for _, each in kept.waiting(THERE)] == ["other"]


def test_a_file_that_was_cut_is_set_aside(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    path = kept.put(message("k"))
    path.write_text(path.read_text()[:-5])
    assert kept.waiting(HERE) == []
    assert [each.suffix for each in tmp_path.iterdir()] == [DAMAGED]


def test_one_at_a_time_sends(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put(message("k"))
    with kept.alone() as first, Kept(tmp_path).alone() as second:
        assert (first, second) == (True, False)
    with Kept(tmp_path).alone() as later:
        assert later
