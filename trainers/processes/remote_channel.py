"""How does a process on another machine find its way back to the study's process, and how does each miss the other?

The study's process listens; whoever brings the token of a trial is let in. Both ends let the kernel probe a silent
connection, so that a machine that is gone without a word is noticed.
"""

from __future__ import annotations

import hmac
import json
import os
import select
import signal
import socket
import threading
import time
from typing import Any, NoReturn

from trainers.processes.channel import Channel

TOKEN_VARIABLE = "HINDSIGHT_TOKEN"  # in the environment of a launcher and of the ranks that it starts
HELLO_SECONDS = 10.0  # for a visitor to say who it is
HELLO_BYTES = 1024
IDLE_SECONDS, PROBE_SECONDS, PROBES = 10, 5, 4  # a peer is gone after 30 s of silence to probes
CONNECT_SECONDS = 30.0
LOOK_SECONDS = 0.2  # between looks at a connection from which something waits to be read


class Visitor:
    """A connection whose first line has not come yet."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + HELLO_SECONDS
        self._is_channel = False

    def fileno(self) -> int:
        """Of the connection, for a selector."""
        return self._connection.fileno()

    @property
    def is_overdue(self) -> bool:
        """Whether it has been silent for too long."""
        return time.monotonic() > self._deadline

    def hello(self) -> dict[str, Any] | None:
        """What it says of itself, once the whole line has come. Raises ValueError for what is no such line."""
        try:
            said = self._connection.recv(HELLO_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ValueError(f"gone before it said a word: {error}") from None
        line, newline, _ = said.partition(b"\n")
        if not newline:
            if not said or len(said) == HELLO_BYTES:
                raise ValueError("gone before it said who it is, or too long")
            return None
        try:
            hello = json.loads(line)
        except RecursionError:  # brackets in brackets
            raise ValueError("no hello") from None
        if not isinstance(hello, dict) or not isinstance(hello.get("token"), str):
            raise ValueError("no hello")
        return hello

    def admit(self) -> Channel:
        """Its channel; the hello is the first message there."""
        self._is_channel = True
        return Channel(self._connection)

    def turn_away(self) -> None:
        """Close the connection, unless it was admitted."""
        if not self._is_channel:
            self._connection.close()


class Door:
    """Where the study's process can be reached. Raises OSError where it cannot listen at `host`."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self._socket.setblocking(False)
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    def fileno(self) -> int:
        """Of the listening socket, for a selector."""
        return self._socket.fileno()

    def open(self) -> Visitor | None:
        """Who has come."""
        try:
            connection, _ = self._socket.accept()
        except OSError:  # it is gone already
            return None
        connection.setblocking(True)
        _probe(connection)
        return Visitor(connection)

    def close(self) -> None:
        """Let nobody in any more."""
        self._socket.close()


def is_token(given: str, token: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), token.encode())


def call(address: str, hello: dict[str, Any]) -> Channel:
    """Connect to the study's process. Raises OSError."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS)
    connection.settimeout(None)
    _probe(connection)
    channel = Channel(connection)
    channel.send(hello)
    return channel


def die_with_study(channel: Channel) -> None:
    """End this process and its group as soon as the study's process closes its end or is gone."""
    threading.Thread(target=_watch, args=(channel.connection,), name="hindsight-lifeline", daemon=True).start()


def _watch(connection: socket.socket) -> NoReturn:
    while True:
        select.select([connection], [], [])
        try:
            is_closed = not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            is_closed = False  # another thread has read it
        except OSError:
            is_closed = True
        if is_closed:
            if os.getpgrp() == os.getpid():
                os.killpg(os.getpgrp(), signal.SIGKILL)
            os._exit(1)
        time.sleep(LOOK_SECONDS)


def _probe(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", IDLE_SECONDS), ("TCP_KEEPINTVL", PROBE_SECONDS), ("TCP_KEEPCNT", PROBES)):
        if hasattr(socket, option):  # not everywhere
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
