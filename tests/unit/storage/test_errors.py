"""Are the errors what they resemble, and readable?"""

import builtins
import pickle
import re

import pytest

from storage import errors
from storage.errors import StorageError, StudyNotFoundError

TREE = re.findall(r"── (\w+) +\((\w+)\)", errors.__doc__ or "")


def test_the_tree_is_complete():
    classes = [error for error in vars(errors).values() if isinstance(error, type)]
    raised = {error.__name__ for error in classes if error.__module__ == errors.__name__}
    assert {name for name, _ in TREE} | {"StorageError", "_NotFoundError"} == raised


@pytest.mark.parametrize(("name", "builtin"), TREE)
def test_each_error_is_what_it_resembles(name, builtin):
    error = getattr(errors, name)
    assert issubclass(error, StorageError)
    assert issubclass(error, getattr(builtins, builtin))
    assert str(pickle.loads(pickle.dumps(error("what is wrong")))) == "what is wrong"


def test_near_names_are_offered():
    assert str(StudyNotFoundError.named("digit", ["digits", "wine"])) == (
        "There is no study named 'digit'. Did you mean 'digits'?"
    )
    assert str(StudyNotFoundError.named("x", [])) == "There is no study named 'x'."
