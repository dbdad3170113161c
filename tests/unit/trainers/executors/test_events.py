"""What a process printed last, as a trial's failure tells it."""

from io import BytesIO

import pytest

from trainers.executors.events import TAIL_LINES, tail

FAILED = (
    "E1127 16:39:58.704000 32188 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) "
    "local_rank: 0 (pid: 32222) of binary: /usr/bin/python"
)


@pytest.mark.parametrize("more", [0, 40])
def test_the_report_of_torchrun_does_not_hide_what_the_user_printed(more: int) -> None:
    printed = "ValueError: odd\nin two lines\n" + "\n".join([FAILED, *["sys.exit(main())"] * more])
    assert tail(BytesIO(printed.encode())) == "ValueError: odd\nin two lines"


def test_a_report_of_torchrun_is_all_there_is_where_nothing_was_printed() -> None:
    assert tail(BytesIO(FAILED.encode())) == FAILED


def test_the_last_lines_come_without_the_chatter_of_lightning() -> None:
    lines = [f"line {place}" for place in range(30)]
    printed = "\n".join(["GPU available: False, used: False", *lines, "Seed set to 3"])
    assert tail(BytesIO(printed.encode())).splitlines() == lines[-TAIL_LINES:]
