"""Which ready tasks are there? Small, real, and trained in about a second; each in variants that are related tasks."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from trainers.errors import RecipeError
from trainers.job import Direction

# Written as in a study file. The ranges are wide on purpose: much of each does badly, and how much depends on the task.
TRAINING_SPACE: dict[str, dict[str, Any]] = {
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adamw"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 0.1, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.6},
}
MLP_SPACE: dict[str, dict[str, Any]] = {
    **TRAINING_SPACE,
    "width": {"type": "int", "low": 8, "high": 256, "log": True},
    "depth": {"type": "int", "low": 1, "high": 4},
}
CNN_SPACE: dict[str, dict[str, Any]] = {
    **TRAINING_SPACE,
    "channels": {"type": "int", "low": 4, "high": 32, "log": True},
    "depth": {"type": "int", "low": 1, "high": 3},
}
DIGITS = ("all", "odd-even", "low-high", "curved-straight", "even", "odd", "small", "noisy-20", "blurred", "grainy")
BREAST_CANCER = ("all", "means", "errors", "worst", "small", "noisy-20")
WINE = ("all", "first-or-not", "chemistry", "noisy-20")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model, its data and its search space."""

    name: str
    model: str  # import path
    data: str  # import path of a data module that takes `variant`
    variants: tuple[str, ...]  # the first is the plain one
    metric: str = "val_loss"
    direction: Direction = "minimize"
    max_epochs: int
    space: dict[str, dict[str, Any]]  # as in a study file
    summary: str


_ALL = (
    Recipe(
        name="digits_mlp",
        model="trainers.recipes.networks.MLP",
        data="trainers.recipes.digits.Digits",
        variants=DIGITS,
        max_epochs=8,
        space=MLP_SPACE,
        summary="a perceptron that reads handwritten digits (1,797 images of 8x8)",
    ),
    Recipe(
        name="digits_cnn",
        model="trainers.recipes.networks.CNN",
        data="trainers.recipes.digits.Digits",
        variants=DIGITS,
        max_epochs=6,
        space=CNN_SPACE,
        summary="a convolutional network that reads handwritten digits (1,797 images of 8x8)",
    ),
    Recipe(
        name="breast_cancer_mlp",
        model="trainers.recipes.networks.MLP",
        data="trainers.recipes.tables.BreastCancer",
        variants=BREAST_CANCER,
        max_epochs=12,
        space=MLP_SPACE,
        summary="a perceptron that tells benign from malignant tumours (569 patients, 30 features)",
    ),
    Recipe(
        name="wine_mlp",
        model="trainers.recipes.networks.MLP",
        data="trainers.recipes.tables.Wine",
        variants=WINE,
        max_epochs=20,
        space=MLP_SPACE,
        summary="a perceptron that tells the cultivar of a wine (178 wines, 13 features)",
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def find_recipe(text: str) -> tuple[Recipe, str]:
    """The recipe and variant that `name/variant` names; `name` alone means its plain variant. Raises RecipeError."""
    name, _, variant = text.partition("/")
    if name not in RECIPES:
        raise RecipeError(f"there is no recipe {name!r}; {_nearest(name, tuple(RECIPES))}")
    recipe = RECIPES[name]
    if variant and variant not in recipe.variants:
        raise RecipeError(f"recipe {name} has no variant {variant!r}; {_nearest(variant, recipe.variants)}")
    return recipe, variant or recipe.variants[0]


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
