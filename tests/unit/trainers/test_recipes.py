"""Are the recipes what they say: related tasks, the same for every seed?"""

from __future__ import annotations

import numpy as np
import pytest

from trainers.build import check_names
from trainers.errors import RecipeError
from trainers.imports import import_user_classes
from trainers.job import TrainerConfig
from trainers.recipes import RECIPES, Recipe, find_recipe
from trainers.recipes.digits import digits
from trainers.recipes.tables import breast_cancer, wine

VARIANTS = [(recipe, variant) for recipe in RECIPES.values() for variant in recipe.variants]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_parameter_of_the_space_has_a_constructor(recipe: Recipe) -> None:
    config = TrainerConfig(model=recipe.model, data=recipe.data, max_epochs=recipe.max_epochs)
    check_names(import_user_classes(config), config, recipe.space)


@pytest.mark.parametrize(
    ("recipe", "variant"), VARIANTS, ids=[f"{recipe.name}/{variant}" for recipe, variant in VARIANTS]
)
def test_every_variant_is_a_task(recipe: Recipe, variant: str) -> None:
    assert find_recipe(f"{recipe.name}/{variant}") == (recipe, variant)
    data_class = import_user_classes(TrainerConfig(model=recipe.model, data=recipe.data, max_epochs=1)).data
    assert data_class is not None
    data = data_class(variant=variant, batch_size=32)
    inputs, labels = next(iter(data.train_dataloader()))
    assert inputs.shape == (32, *data.input_shape)
    assert 0 <= labels.min() <= labels.max() < data.n_classes
    (inputs, labels), *more = data.val_dataloader()
    assert len(inputs) == len(labels) > 40
    assert not more


def test_a_variant_differs_from_the_plain_task_in_what_it_says() -> None:
    plain, noisy, small = digits("all"), digits("noisy-20"), digits("small")
    assert 0.15 < np.mean(plain.train_labels != noisy.train_labels) < 0.25
    assert np.array_equal(plain.val_labels, noisy.val_labels)
    assert len(small.train_labels) == 300
    assert digits("odd").n_classes == 5
    assert digits("curved-straight").n_classes == 2
    assert digits("blurred").train_inputs.std() < plain.train_inputs.std() < digits("grainy").train_inputs.std()


def test_no_training_example_is_validated_on() -> None:
    for data in (digits("all"), breast_cancer("all"), wine("all")):
        train = {row.tobytes() for row in data.train_inputs}
        assert not train & {row.tobytes() for row in data.val_inputs}
        assert data.train_inputs.dtype == data.val_inputs.dtype == np.float32


def test_tables_are_standardised_by_their_training_examples() -> None:
    data = wine("all")
    np.testing.assert_allclose(data.train_inputs.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train_inputs.std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit_mlp", "there is no recipe 'digit_mlp'; did you mean 'digits_mlp'?"),
        ("x", "there is no recipe 'x'; choose from digits_mlp, digits_cnn, breast_cancer_mlp, wine_mlp"),
        ("wine_mlp/noisy", "recipe wine_mlp has no variant 'noisy'; did you mean 'noisy-20'?"),
    ],
)
def test_a_wrong_name_is_told_the_right_ones(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe(text)
    assert str(caught.value) == message


def test_a_name_alone_is_its_plain_variant() -> None:
    assert find_recipe("wine_mlp") == (RECIPES["wine_mlp"], "all")
