"""A way to a PostgreSQL server on which a reply can be lost: what was asked for is done, and nobody hears of it."""

from __future__ import annotations

import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

READY = (b"Z\x00\x00\x00\x05I", b"Z\x00\x00\x00\x05T")  # what ends a reply: outside or inside of a transaction
SOCKET = ".s.PGSQL.5432"


class LossyWay:
    """Forwards between programs and the server."""

    def __init__(self, server_url: str, folder: Path) -> None:
        url = make_url(server_url)
        self.url = url.update_query_dict({"host": str(folder)}).render_as_string(hide_password=False)
        self.lost = 0  # replies
        self._server = f"{url.query['host']}/{SOCKET}"
        self._told: bytes | None = None
        self._entry = socket.socket(socket.AF_UNIX)
        self._entry.bind(str(folder / SOCKET))
        self._entry.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply_to(self, text: bytes) -> None:
        """Lose the reply to the next message that has this text in it, and the connection with it."""
        self._told = text

    def close(self) -> None:
        """Take no more connections."""
        self._entry.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._entry.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._server)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    content = source.recv(1 << 16)
                    if not content:
                        return
                    if source is client and self._told is not None and self._told in content:
                        self._told = None
                        server.sendall(content)
                        _swallow_reply(server)
                        self.lost += 1
                        return
                    (server if source is client else client).sendall(content)


def _swallow_reply(server: socket.socket) -> None:
    reply = b""
    while not reply.endswith(READY):
        reply += server.recv(1 << 16)


@contextmanager
def lossy_way(server_url: str) -> Iterator[LossyWay]:
    """A way to that database, which must listen on a socket in a folder."""
    folder = tempfile.mkdtemp(prefix="lossy-")
    way = LossyWay(server_url, Path(folder))
    yield way
    way.close()
    shutil.rmtree(folder)
