"""What is said of a study while it goes on, where nobody looks at a bar?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from hpo.cli.tuning import Display
from hpo.running.runner import Progress

BEGUN = Progress(
    study="far",
    total=4,
    finished=0,
    pruned=0,
    failed=0,
    running=0,
    best_value=None,
    best_number=None,
    seconds_left=None,
)


def test_nothing_is_said_of_first_trials_once_some_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(Console(stderr=True, force_terminal=False)) as display:
        display.show(BEGUN)
        display.show(replace(BEGUN, finished=1, best_value=0.25, best_number=0, running=1))
        display.show(replace(BEGUN, finished=2))  # of several objectives none is the best
        display.show(replace(BEGUN, finished=3, best_value=0.25))  # whose it is comes later
    assert capsys.readouterr().err.splitlines() == [
        "0/4 trials, the first trials are training",
        "1/4 trials, best 0.25 (trial 0), 1 running",
        "2/4 trials",
        "3/4 trials, best 0.25",
    ]
