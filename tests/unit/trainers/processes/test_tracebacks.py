"""Is a traceback cut to what helps?"""

from __future__ import annotations

import json

from trainers.errors import TrainerError
from trainers.executors.worker import classify
from trainers.processes.tracebacks import format_traceback, is_user_code


def test_library_frames_stay_only_below_the_users_last() -> None:
    def hook(_: object) -> object:
        return json.loads("{")

    try:
        json.loads("{}", object_hook=hook)
    except ValueError as error:
        text = format_traceback(error)
    assert "in hook" in text
    assert "json/decoder.py" in text
    assert text.index("in hook") < text.index("json/decoder.py")
    assert text.rstrip().splitlines()[-1].startswith("json.decoder.JSONDecodeError")


def test_causes_are_told() -> None:
    try:
        try:
            json.loads("{")
        except ValueError as error:
            raise RuntimeError("no settings") from error
    except RuntimeError as error:
        text = format_traceback(error)
    assert "JSONDecodeError" in text
    assert "direct cause" in text


def test_whose_code_it_is() -> None:
    assert is_user_code(__file__)
    assert not is_user_code(json.__file__)
    assert not is_user_code(str(TrainerError.__module__) and classify.__code__.co_filename)


def test_failures_are_classified_by_what_they_say() -> None:
    assert classify(MemoryError()) == ("out_of_memory", "MemoryError")
    assert (
        classify(RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"))[0] == "out_of_memory"
    )
    assert classify(ValueError("first\nsecond")) == ("exception", "ValueError: first")
