"""Does a configuration come back as it went in?"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from storage.distributions import NOTHING, ParameterSet, distribution_of, fields_of, pack, unpack

CHOICES = (None, True, False, 3, 2.5, "adam", "")
distributions = st.one_of(
    st.just(FloatDistribution(1e-5, 1e3, log=True)),
    st.just(FloatDistribution(-1.0, 1.0, step=0.25)),
    st.just(IntDistribution(1, 512, log=True)),
    st.just(IntDistribution(-8, 8, step=4)),
    st.just(CategoricalDistribution(CHOICES)),
)


@st.composite
def configurations(draw):
    drawn_from = draw(st.dictionaries(st.text(max_size=5), distributions, max_size=6))
    params = {}
    for name, distribution in drawn_from.items():
        if isinstance(distribution, CategoricalDistribution):
            params[name] = draw(st.sampled_from(distribution.choices))
        elif isinstance(distribution, IntDistribution):
            params[name] = draw(st.integers(distribution.low, distribution.high))
        else:
            params[name] = draw(st.floats(distribution.low, distribution.high))
    return ParameterSet(names=tuple(drawn_from), distributions=tuple(drawn_from.values())), params


@given(configurations())
def test_a_configuration_survives(drawn):
    parameter_set, params = drawn
    stored = parameter_set.encode(params)
    restored = parameter_set.decode(stored)
    assert len(stored) == 8 * len(parameter_set)
    assert restored == params
    assert [type(restored[name]) for name in params] == [type(value) for value in params.values()]


def test_no_parameters_are_no_bytes():
    assert NOTHING.decode(None) == NOTHING.decode(b"") == {}


@given(st.lists(st.floats(allow_nan=True)))
def test_every_double_survives(values):
    restored = unpack(pack(values)).tolist()
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, restored, strict=True))


@given(distributions)
def test_a_study_files_words_say_it_all(distribution):
    assert distribution_of("x", fields_of(distribution)) == distribution


def test_an_unknown_type_is_named():
    with pytest.raises(ValueError, match=r"space\.lr\.type: 'real' is unknown; use float, int or categorical"):
        distribution_of("lr", {"type": "real"})
