"""Is a receipt read for what it says, whatever of it is there?"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from hpo.tuning.receipts import RECEIPT, fell_inside, receipt_of

STUDY = SimpleNamespace(name="mine", source="hindsight")


def trial(receipt=None, *, state=TrialState.COMPLETE, value=0.5, **attrs):
    kept = {} if receipt is None else {RECEIPT: receipt}
    return SimpleNamespace(number=0, state=state, value=value, params={}, system_attrs={**kept, **attrs})


def test_reads_all_of_it():
    receipt = receipt_of(
        STUDY,
        trial(
            {
                "role": "exploit",
                "predicted": 0.5,
                "interval90": [0.4, 0.7],
                "interval90_is": "of the next value",
                "improvement_probability": 0.25,
                "incumbent": 0.45,
                "history_weight": 0.8,
                "leans_on": [{"study": "b", "weight": 0.2}, {"study": "a", "weight": 0.6}],
                "without_history": {"lr": 0.1},
                "pending": 2,
                "seconds": 0.05,
                "ignored": ["c was reversed"],
                "why": "Because.",
            }
        ),
    )
    assert receipt.proposer == "hindsight"
    assert receipt.role_text.startswith("exploit")
    assert receipt.leans_on == (("a", 0.6), ("b", 0.2))
    assert (receipt.interval90, receipt.pending, receipt.without_history) == ((0.4, 0.7), 2, {"lr": 0.1})
    assert receipt.ignored == ("c was reversed",)


@pytest.mark.parametrize(
    ("found", "source", "said"),
    [
        (trial({"kind": "gaussian_process"}), "hindsight", "model: "),
        (trial({"kind": "cold_start"}), "hindsight", "start: "),
        (trial({"role": "brand new"}), "hindsight", "brand new"),
        (trial({"why": "of old"}), "hindsight", "has not said why"),
        (trial(fixed_params={"lr": 1}), "hindsight", "enqueued by you"),
        (trial(), "optuna", "proposed by another sampler"),
        (trial(), "table:x", "imported"),
        (trial("nonsense"), "optuna", "another sampler"),
    ],
)
def test_says_what_is_known(found, source, said):
    assert said in receipt_of(SimpleNamespace(name="mine", source=source), found).role_text


@pytest.mark.parametrize(
    "odd", [{"predicted": "x"}, {"interval90": [1]}, {"interval90": [None, 1]}, {"leans_on": [3, {"study": 1}]}]
)
def test_what_does_not_read_is_left_out(odd):
    receipt = receipt_of(STUDY, trial(odd))
    assert (receipt.predicted, receipt.interval90, receipt.leans_on) == (None, None, ())


@pytest.mark.parametrize(
    ("value", "state", "inside"),
    [
        (0.5, TrialState.COMPLETE, True),
        (0.4, TrialState.COMPLETE, True),
        (0.8, TrialState.COMPLETE, False),
        (float("inf"), TrialState.COMPLETE, False),
        (0.5, TrialState.PRUNED, None),
        (None, TrialState.FAIL, None),
        (None, TrialState.RUNNING, None),
    ],
)
def test_whether_it_fell_inside(value, state, inside):
    found = trial({"interval90": [0.4, 0.7]}, value=value, state=state)
    assert fell_inside(receipt_of(STUDY, found), found) is inside


def test_an_enqueued_trial_may_have_a_receipt_too():
    assert receipt_of(STUDY, trial({"role": "exploit"}, fixed_params={"lr": 1})).proposer == "user"
