"""Do ranks meet, and end together with the words of the one whose end it was? In real processes, without training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from trainers.processes.channel import Message
from trainers.ranks.forked import INTERFACE, is_rank, run_ranks


def rank() -> int:
    return int(os.environ["LOCAL_RANK"])


def finished(**rest: Any) -> Message:
    return {"type": "finished", **rest}


def failed(reason: str, kind: str = "exception") -> Message:
    return {"type": "failed", "kind": kind, "reason": reason}


def until_ended() -> Message:
    time.sleep(60)
    return finished()


def noting_pid(folder: Path, run: Callable[[], Message]) -> Callable[[], Message]:
    def noted() -> Message:
        (folder / str(os.getpid())).touch()
        return run()

    return noted


@pytest.fixture
def noted(tmp_path: Path) -> Any:
    """What runs a function on ranks, and sees to it that no process is left."""

    def run_noted(run: Callable[[], Message], *, count: int = 2, server: Any = None) -> Message:
        message = run_ranks(noting_pid(tmp_path, run), count=count, server=server)
        pids = [int(path.name) for path in tmp_path.iterdir()]
        assert len(pids) >= 1
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        return message

    return run_noted


def test_ranks_meet_as_torch_and_lightning_expect(noted: Any) -> None:
    def meet() -> Message:
        assert is_rank()
        dist.init_process_group("gloo", timeout=timedelta(seconds=30))  # all from the environment
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (dist.get_rank(), rank(), os.environ["NODE_RANK"]))
        return finished(gathered=gathered)

    assert noted(meet, count=3) == finished(gathered=[[0, 0, "0"], [1, 1, "0"], [2, 2, "0"]])
    assert not is_rank()


def test_ranks_listen_to_this_machine_only_unless_the_user_says_otherwise(
    noted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell() -> Message:
        return finished(gloo=os.environ["GLOO_SOCKET_IFNAME"], rpc=os.environ["TP_SOCKET_IFNAME"])

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("TP_SOCKET_IFNAME", "eth7")
    assert noted(tell) == finished(gloo=INTERFACE, rpc="eth7")


def test_the_first_that_fails_ends_all_at_once(noted: Any) -> None:
    started = time.monotonic()
    message = noted(lambda: failed("only here", "nan") if rank() == 1 else until_ended())
    assert message == failed("only here", "nan")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os._exit(3), "ended with exit code 3"),
    ],
)
def test_a_rank_that_vanished_is_named_and_not_what_others_say_of_it(
    noted: Any, tmp_path: Path, who: int, end: Callable[[], None], words: str
) -> None:
    def vanish() -> Message:
        if rank() != who:
            return failed("connection closed by peer")  # said even before the other ends
        time.sleep(0.2)
        end()
        return finished()

    message = noted(vanish)
    assert message["kind"] == "killed"
    assert message["reason"].startswith(f"rank {who} {words}")


def test_nobody_leaves_before_all_have_finished(noted: Any, tmp_path: Path) -> None:
    def slowly() -> Message:
        if rank() == 1:
            time.sleep(0.3)
            others = [path for path in tmp_path.iterdir() if Path(f"/proc/{path.name}").exists()]
            return finished(others=len(others)) if len(others) == 2 else failed("rank 0 is gone")
        return finished(who=0)

    assert noted(slowly) == finished(who=0)


def test_a_server_ends_with_the_ranks_and_they_with_it(noted: Any) -> None:
    assert noted(finished, server=lambda: time.sleep(60)) == finished()
    message = noted(until_ended, server=lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert message["reason"].startswith("the parameter server was killed by SIGKILL")
