"""Do messages and files arrive whole, in order, and does an end read as an end?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.processes.channel import Channel, open_channel_pair

values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = open_channel_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), values, max_size=3), max_size=5))
def test_what_is_sent_arrives_in_order(messages: list[dict[str, object]]) -> None:
    ours, theirs = open_channel_pair()
    for message in messages:
        ours.send(message)
    ours.close()
    assert theirs.receive_available() == messages
    assert theirs.closed
    theirs.close()


def test_a_message_that_is_still_on_its_way_is_waited_for(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.connection.sendall(b'{"a": 1}\n{"b"')
    assert theirs.receive_available() == [{"a": 1}]
    assert theirs.receive_available() == []
    ours.connection.sendall(b": 2}\n")
    assert theirs.receive() == {"b": 2}


def test_numbers_that_are_none_arrive(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.send({"value": float("inf")})
    assert theirs.receive() == {"value": float("inf")}


def test_files_arrive_with_their_messages(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    for text in (b"first", b"second"):
        with tempfile.TemporaryFile() as file:
            file.write(text)
            file.seek(0)
            ours.send({"text": text.decode()}, file=file.fileno())
    for message in theirs.receive_available():
        with os.fdopen(theirs.take_file(), "rb") as file:
            assert not os.get_inheritable(file.fileno())
            assert file.read().decode() == message["text"]


def test_a_peer_that_is_gone(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.send({"last": "words"})
    ours.close()
    theirs.send({"nobody": "listens"})
    assert theirs.receive() == {"last": "words"}
    assert theirs.receive() is None
    assert theirs.closed


def test_what_may_get_lost_waits_for_nobody(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    for number in range(10_000):  # far more than the socket holds
        ours.send_if_room({"number": number})
    received = [message["number"] for message in theirs.receive_available()]
    assert received == list(range(len(received)))
    assert 0 < len(received) < 10_000
    ours.send_if_room({"number": -1})
    assert theirs.receive_available() == [{"number": -1}]
    theirs.close()
    ours.send_if_room({"number": -2})  # to nobody, and harmless
