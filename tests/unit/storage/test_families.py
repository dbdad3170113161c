"""Does a family's name depend on what matters, and on nothing else?"""

from hypothesis import given
from hypothesis import strategies as st

from storage.families import family_of

numbers = st.fixed_dictionaries(
    {"type": st.sampled_from(["int", "float"]), "low": st.integers(-9, 0), "high": st.integers(1, 9)}
)
choices = st.fixed_dictionaries({"type": st.just("categorical"), "choices": st.lists(st.text(max_size=3), min_size=1)})
spaces = st.dictionaries(st.text(min_size=1, max_size=5), numbers | choices, max_size=4)


@given(spaces, st.randoms())
def test_the_order_of_parameters_does_not_matter(space, random):
    names = list(space)
    random.shuffle(names)
    shuffled = {name: space[name] for name in names}
    assert family_of(shuffled, "loss", ["minimize"]) == family_of(space, "loss", ["minimize"])


@given(spaces)
def test_saying_the_default_does_not_matter(space):
    spelled_out = {
        name: definition if "choices" in definition else {"log": False, "step": None, **definition}
        for name, definition in space.items()
    }
    assert family_of(spelled_out, "loss", ["minimize"]) == family_of(space, "loss", ["minimize"])


@given(spaces)
def test_whole_numbers_are_numbers(space):
    as_floats = {
        name: {key: float(value) if key in ("low", "high") else value for key, value in definition.items()}
        for name, definition in space.items()
    }
    assert family_of(as_floats, "loss", ["minimize"]) == family_of(space, "loss", ["minimize"])


@given(spaces.filter(bool))
def test_every_parameter_matters(space):
    fewer = dict(list(space.items())[1:])
    assert family_of(fewer, "loss", ["minimize"]) != family_of(space, "loss", ["minimize"])


def test_the_name_says_the_metric():
    assert family_of({}, "val_loss", ["minimize"]).startswith("val_loss-")
    assert family_of({}, None, ["minimize"]).startswith("value-")
