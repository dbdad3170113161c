"""Are names changed as little as MLflow needs, and do they stay different?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.mlflow_runs import mlflow_names


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("val_loss", "val_loss"),
        ("acc/top 1", "acc/top 1"),
        ("acc@1", "acc_1"),
        ("loss[val]", "loss_val_"),
        ("größe", "gr__e"),
        ("", "_"),
        ("/a", "__a"),
        ("a//b", "_a__b"),
        ("..", "_.."),
    ],
)
def test_a_name_in_mlflow(name, there):
    assert mlflow_names([name]) == {name: there}


@given(st.lists(st.text("ab@#_/", max_size=3), unique=True, max_size=8))
def test_different_names_stay_different(names):
    assert len(set(mlflow_names(names).values())) == len(names)
