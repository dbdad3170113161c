"""Do only so many trials share a GPU as fit?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpo.running.gpu_sharing import CONTEXT_BYTES, MARGIN, MOST, trials_that_fit

GIBIBYTE = 2**30


def test_the_largest_trial_counts() -> None:
    assert trials_that_fit([GIBIBYTE] * 5, 16 * GIBIBYTE) == 8
    assert trials_that_fit([GIBIBYTE] * 5 + [5 * GIBIBYTE], 16 * GIBIBYTE) == 2


def test_where_little_is_known_none_is_shared() -> None:
    assert trials_that_fit([], 80 * GIBIBYTE) == 1
    assert trials_that_fit([GIBIBYTE, GIBIBYTE], 80 * GIBIBYTE) == 1
    assert trials_that_fit([GIBIBYTE] * 9, None) == 1


@given(st.lists(st.integers(0, 100 * GIBIBYTE), max_size=20), st.integers(GIBIBYTE, 200 * GIBIBYTE))
def test_they_fit_with_a_margin(peaks: list[int], gpu_bytes: int) -> None:
    fit = trials_that_fit(peaks, gpu_bytes)
    assert 1 <= fit <= MOST
    assert fit == 1 or fit * (max(peaks) + CONTEXT_BYTES) <= gpu_bytes * (1 - MARGIN)
