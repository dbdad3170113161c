"""Do parameters survive being stored?"""

from hypothesis import given
from hypothesis import strategies as st

from storage.distributions import read_params, written_params

floats = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(), st.tuples(st.integers(1, 10**9), floats)))
def test_written_then_read_is_the_identity_and_keeps_the_order(params):
    restored = read_params(written_params(params))
    assert restored == params
    assert list(restored) == list(params)
