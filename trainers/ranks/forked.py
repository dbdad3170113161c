"""How does a trial train in several processes, and how do they end together?

The trial's process forks its ranks before anything has touched a GPU, and waits for them. It hosts the store at which
they meet, on a port that the kernel chose, so that none can be taken in between. The first rank that fails or ends
too early ends all, at once; each stays until then, so that no other fails of its absence.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import torch.distributed as dist

from trainers.processes.channel import Channel, Message, open_channel_pair
from trainers.processes.lifetimes import describe_exit, die_with_parent

HOST = "127.0.0.1"
INTERFACE = "lo0" if sys.platform == "darwin" else "lo"  # HOST's
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")  # of gloo and of RPC, which unpickles what it is sent
POLL_SECONDS = 0.02  # for a rank that ended without a word
GRACE_SECONDS = 1.0  # for a rank that ended to be seen, once another has failed: its absence may be why
OURS_VARIABLE = "HINDSIGHT_RANK"  # in the environment of the ranks that are forked here


@dataclass(kw_only=True)
class _Rank:
    name: str
    pid: int
    channel: Channel
    words: Message | None = None  # how it went
    exit_code: int | None = None  # as of `os.waitstatus_to_exitcode`

    @property
    def has_failed(self) -> bool:
        return (self.words is not None and self.words["type"] == "failed") or (
            self.words is None and self.exit_code is not None
        )


def run_ranks(run: Callable[[], Message], *, count: int, server: Callable[[], None] | None = None) -> Message:
    """Fork `count` ranks, each of which does `run`, and beside them a `server` that ends with them.

    Each has the environment that Lightning and torch read: LOCAL_RANK and so on. Returns what rank 0 returned, or the
    "failed" message of whoever failed first.
    """
    ranks = [_fork(f"rank {rank}", run, rank=rank) for rank in range(count)]
    if server is not None:
        ranks.append(_fork("the parameter server", lambda: _serve(server), rank=count))
    try:
        # After the forks, for it has a thread. That torch exports it is news to mypy.
        store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        for rank in ranks:
            rank.channel.send({"type": "meet", "port": store.port, "world_size": count})
        return _await(ranks, count=count)
    finally:
        _end(ranks)


def is_rank() -> bool:
    """Whether this process is a rank that was forked here, and not started by torchrun, srun or Lightning."""
    return OURS_VARIABLE in os.environ


def _fork(name: str, run: Callable[[], Message], *, rank: int) -> _Rank:
    ours, theirs = open_channel_pair()
    sys.stdout.flush()
    sys.stderr.flush()
    trial = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become_rank(run, theirs, rank=rank, trial=trial)
    theirs.close()
    return _Rank(name=name, pid=pid, channel=ours)


def _become_rank(run: Callable[[], Message], channel: Channel, *, rank: int, trial: int) -> NoReturn:
    try:
        die_with_parent(parent=trial)
        if meeting := channel.receive():
            _set_environment(rank=rank, world_size=meeting["world_size"], port=meeting["port"])
            words = run()
            sys.stdout.flush()
            sys.stderr.flush()
            channel.send(words)
            channel.receive()  # stay until the trial's process ends all
    finally:
        os._exit(1)


def _set_environment(*, rank: int, world_size: int, port: int) -> None:
    for variable in INTERFACE_VARIABLES:  # else they listen at what this machine's name resolves to, for anybody
        os.environ.setdefault(variable, INTERFACE)
    os.environ.update(
        {OURS_VARIABLE: str(rank)},
        LOCAL_RANK=str(rank),
        RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR=HOST,
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE=str(True),  # the store is not rank 0's: torch is to join it, not to start one
    )


def _serve(server: Callable[[], None]) -> Message:
    server()
    return {"type": "served"}


def _await(ranks: list[_Rank], *, count: int) -> Message:
    while not any(rank.has_failed for rank in ranks):
        if all(rank.words is not None for rank in ranks[:count]):
            return ranks[0].words or {}
        _look(ranks, seconds=POLL_SECONDS)
    is_explained = any(rank.words["kind"] != "exception" for rank in ranks if rank.words and rank.has_failed)
    deadline = time.monotonic() + (0.0 if is_explained else GRACE_SECONDS)
    while not any(_has_vanished(rank) for rank in ranks) and time.monotonic() < deadline:
        _look(ranks, seconds=POLL_SECONDS)
    return _cause(ranks)


def _look(ranks: list[_Rank], *, seconds: float) -> None:
    """Hear what ranks say, and see which have ended."""
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            if rank.words is None and not rank.channel.closed:
                selector.register(rank.channel, selectors.EVENT_READ, rank)
        if not selector.get_map():
            time.sleep(seconds)
        ready = selector.select(seconds) if selector.get_map() else []
    ended = [rank for rank in ranks if rank.exit_code is None and _reap(rank, os.WNOHANG)]
    for rank in {id(rank): rank for rank in [*(key.data for key, _ in ready), *ended]}.values():
        if rank.words is None:
            rank.words = next(iter(rank.channel.receive_available()), None)


def _has_vanished(rank: _Rank) -> bool:
    return rank.words is None and rank.exit_code is not None


def _cause(ranks: list[_Rank]) -> Message:
    """Why the group ends: a rank that vanished explains what the others say of lost connections."""
    for rank in ranks:
        if _has_vanished(rank):
            end = describe_exit(rank.exit_code or 0)
            return {"type": "failed", "kind": "killed", "reason": f"{rank.name} {end} before the fit was over"}
    return next(rank.words for rank in ranks if rank.words is not None and rank.words["type"] == "failed")


def _end(ranks: list[_Rank]) -> None:
    running = [rank for rank in ranks if rank.exit_code is None]
    for rank in running:
        with suppress(ProcessLookupError):
            os.kill(rank.pid, signal.SIGKILL)
    for rank in running:
        _reap(rank, 0)
    for rank in ranks:
        rank.channel.close()


def _reap(rank: _Rank, options: int) -> bool:
    """Whether the rank has ended."""
    pid, status = os.waitpid(rank.pid, options)
    if pid:
        rank.exit_code = os.waitstatus_to_exitcode(status)
    return bool(pid)
