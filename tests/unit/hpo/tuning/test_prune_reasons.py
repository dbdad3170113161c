import json
from dataclasses import replace

import pytest

from hpo.tuning.prune_reasons import NAMED, PRUNED_BECAUSE, PruneReason, reason_of

REASON = PruneReason(
    step=4.0,
    value=0.5,
    predicted=0.4,
    interval90=(0.3, 0.45),
    incumbent=0.1,
    chance=0.001,
    least_chance=0.002,
    false_prunes=0.05,
    proven=0.08,
    past_studies=20,
    named=("a", "b"),
)


def test_a_reason_is_read_as_it_was_kept():
    kept = json.loads(json.dumps({PRUNED_BECAUSE: REASON.to_json()}))
    assert reason_of(kept) == REASON
    assert reason_of({PRUNED_BECAUSE: replace(REASON, value=None).to_json()}) == replace(REASON, value=None)


def test_only_some_studies_are_named():
    many = replace(REASON, named=tuple(map(str, range(30))))
    assert len(reason_of({PRUNED_BECAUSE: many.to_json()}).named) == NAMED


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {PRUNED_BECAUSE: None},
        {PRUNED_BECAUSE: "because"},
        {PRUNED_BECAUSE: {}},
        {PRUNED_BECAUSE: REASON.to_json() | {"chance": "small"}},
        {PRUNED_BECAUSE: REASON.to_json() | {"chance": float("nan")}},
        {PRUNED_BECAUSE: REASON.to_json() | {"interval90": [1]}},
        {PRUNED_BECAUSE: REASON.to_json() | {"named": "a"}},
    ],
)
def test_what_does_not_read_as_a_reason_is_none(kept):
    assert reason_of(kept) is None


def test_the_sentence_says_what_stands_behind_it():
    assert "20 past studies" in REASON.sentence and "proven: 8%" in REASON.sentence
    assert "no past study" in replace(REASON, past_studies=0, proven=1.0).sentence
