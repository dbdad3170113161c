"""A study that could not be trained here is tried again after a while, and more rarely each time."""

from __future__ import annotations

from hpo.worker.refused import FIRST_SECONDS, LONGEST_SECONDS, MOST, Refused


def test_a_study_is_left_to_others_for_a_while_and_then_longer() -> None:
    now = 0.0
    refused = Refused(clock=lambda: now)
    refused.add(7)
    assert refused.now() == [7]
    now = FIRST_SECONDS
    assert refused.now() == []
    refused.add(7)
    now += FIRST_SECONDS
    assert refused.now() == [7]
    for _ in range(20):
        refused.add(7)
    now += LONGEST_SECONDS
    assert refused.now() == []
    refused.forgive(7)
    refused.add(7)
    now += FIRST_SECONDS
    assert refused.now() == []


def test_no_more_are_named_than_a_question_may() -> None:
    now = 0.0
    refused = Refused(clock=lambda: now)
    for study_id in range(1, MOST + 201):
        now += 1e-3
        refused.add(study_id)
    assert refused.now() == list(range(201, MOST + 201))
