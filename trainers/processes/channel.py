"""How two processes exchange messages: one JSON object a line, over a socket."""

from __future__ import annotations

import json
import os
import select
import socket
from collections import deque
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

CHUNK_BYTES = 65536
MOST_FILES = 16  # that one read accepts


class Channel:
    """One end of a connected socket. A peer that is gone reads as `closed`; writing to it does nothing."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.closed = False  # the peer sends no more
        self._pending = b""
        self._messages: deque[Message] = deque()
        self._files: deque[int] = deque()

    def fileno(self) -> int:
        """The socket's file descriptor, so that a selector can watch a channel."""
        return self.connection.fileno()

    def send(self, message: Message, *, file: int | None = None) -> None:
        """Send a message and, with it, an open file descriptor."""
        line = json.dumps(message).encode() + b"\n"
        try:
            if file is not None:
                line = line[socket.send_fds(self.connection, [line], [file]) :]
            self.connection.sendall(line)
        except OSError:
            pass  # what its end means is told by `closed`, in the order of reading

    def send_if_room(self, message: Message) -> None:
        """Send a message that may get lost, unless the peer has not read for so long that this would wait for it."""
        room = select.poll()  # select() takes no file descriptor above 1023
        room.register(self.connection, select.POLLOUT)
        if room.poll(0):
            self.send(message)

    def receive(self) -> Message | None:
        """Wait for the next message; None once the peer is gone."""
        while not self._messages and not self.closed:
            self._read()
        return self._messages.popleft() if self._messages else None

    def receive_available(self) -> list[Message]:
        """Everything that has arrived, without waiting."""
        self.connection.setblocking(False)
        try:
            while not self.closed:
                self._read()
        except BlockingIOError:
            pass
        finally:
            self.connection.setblocking(True)
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def take_file(self) -> int:
        """The file descriptor that came with the oldest message that had one."""
        return self._files.popleft()

    def close(self) -> None:
        """Close this end, and the files nobody took."""
        self.connection.close()
        while self._files:
            os.close(self._files.popleft())

    def _read(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self.connection, CHUNK_BYTES, MOST_FILES)
        except BlockingIOError:
            raise
        except OSError:  # reset, or on another machine that is gone
            data, files = b"", []
        for file in files:
            os.set_inheritable(file, False)
            self._files.append(file)
        if not data:
            self.closed = True
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._messages.extend(json.loads(line) for line in lines)


def open_channel_pair() -> tuple[Channel, Channel]:
    """Two channels that are connected."""
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


def open_inherited_channel(file: int) -> Channel:
    """The channel whose file descriptor another process handed over."""
    return Channel(socket.socket(fileno=file))
