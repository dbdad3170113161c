"""Is a draft what a trial becomes as its parameters are set one by one?"""

from hypothesis import given
from hypothesis import strategies as st

from storage.distributions import unpack
from storage.drafts import REMEMBERED, Draft, Drafts

PARAMETERS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 3), st.floats(allow_nan=False)))


@given(PARAMETERS)
def test_the_last_value_of_each_parameter_stays_in_the_place_of_the_first(parameters):
    draft, expected = Draft(study_id=1), {}
    for name, number, value in parameters:
        content, configuration = draft.with_parameter(name, number, value)
        draft = Draft(study_id=1, content=content, configuration=configuration)
        expected[name] = (number, value)
    values = unpack(draft.configuration).tolist()
    assert [(*part, value) for part, value in zip(draft.content, values, strict=True)] == [
        (name, number, value) for name, (number, value) in expected.items()
    ]


def test_the_oldest_are_forgotten():
    drafts = Drafts()
    for trial_id in range(REMEMBERED + 5):
        drafts.remember(trial_id, Draft(study_id=trial_id))
    assert drafts.of(4) is None
    assert drafts.of(5) == Draft(study_id=5)
    drafts.forget(5)
    drafts.forget(5)
    assert drafts.of(5) is None
