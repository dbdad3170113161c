"""Does the interval of a rate hold it as often as it says?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.statistics.rates import rate_interval


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.97])
def test_covers_the_rate(rate):
    seen = np.random.default_rng(0).binomial(50, rate, 2000)
    covered = np.mean([low <= rate <= high for low, high in (rate_interval(hits, 50) for hits in seen)])
    assert 0.92 < covered < 0.99


def test_goes_to_the_end_where_none_or_all_were_seen():
    assert rate_interval(0, 10)[0] == 0.0
    assert rate_interval(10, 10)[1] == 1.0
    assert 0.6 < rate_interval(10, 10)[0] < 0.8
    assert rate_interval(4.5, 10) != rate_interval(5, 10)
