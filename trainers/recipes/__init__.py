"""Which ready tasks are there? Small, real, and trained in about a second; each in variants that are related tasks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.errors import RecipeError
from trainers.job import Direction
from trainers.recipes.mnist_files import find_files

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
REGULARISED: dict[str, dict[str, Any]] = {
    "optimizer": {"type": "optimizer", "choices": ["nesterov", "adamw", "nadam"]},
    "schedule": {"type": "schedule", "choices": ["constant", "cosine", "one_cycle"]},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.6},
    "trainer.gradient_clip_val": {"type": "float", "low": 0.05, "high": 10.0, "log": True},
}
SMOOTHED: dict[str, dict[str, Any]] = {
    **REGULARISED,
    "label_smoothing": {"type": "float", "low": 0.0, "high": 0.3},
}
RNN_SPACE: dict[str, dict[str, Any]] = {
    **SMOOTHED,
    "shift": {"type": "int", "low": 0, "high": 2},
    "cell": {"type": "categorical", "choices": ["lstm", "gru"]},
    "width": {"type": "int", "low": 8, "high": 64, "log": True},
    "depth": {"type": "int", "low": 1, "high": 2},
}
MNIST_SPACE: dict[str, dict[str, Any]] = {
    **SMOOTHED,
    "shift": {"type": "int", "low": 0, "high": 4},
    "channels": {"type": "int", "low": 4, "high": 32, "log": True},
    "depth": {"type": "int", "low": 1, "high": 4},
}
TRANSFORMER_SPACE: dict[str, dict[str, Any]] = {
    **SMOOTHED,
    "heads": {"type": "int", "low": 1, "high": 4},
    "head_width": {"type": "int", "low": 4, "high": 16, "log": True},
    "depth": {"type": "int", "low": 1, "high": 2},
}
REGRESSION_SPACE: dict[str, dict[str, Any]] = {
    **REGULARISED,
    "width": {"type": "int", "low": 8, "high": 256, "log": True},
    "depth": {"type": "int", "low": 1, "high": 4},
}
DIGITS = ("all", "odd-even", "low-high", "curved-straight", "even", "odd", "small", "noisy-20", "blurred", "grainy")
BREAST_CANCER = ("all", "means", "errors", "worst", "small", "noisy-20")
WINE = ("all", "first-or-not", "chemistry", "noisy-20")
DIABETES = ("all", "patient", "blood", "small", "mixed-up-20")
TOPICS = ("all", "statements", "expressions", "classes", "types", "strings", "containers", "debugger", "small")
MNIST = ("all", "odd-even", "low-high", "small", "noisy-20")


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
    needs: Mapping[str, str] = field(default_factory=dict)  # arguments of its data that only the user knows; examples
    find_files: Callable[[Path], object] | None = None  # in the `folder` that it needs; raises DataFileError


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
    Recipe(
        name="digits_rnn",
        model="trainers.recipes.recurrent.RNN",
        data="trainers.recipes.digits.Digits",
        variants=DIGITS,
        max_epochs=8,
        space=RNN_SPACE,
        summary="an LSTM or GRU that reads handwritten digits row by row (1,797 images of 8x8)",
    ),
    Recipe(
        name="topics_transformer",
        model="trainers.recipes.transformer.CharTransformer",
        data="trainers.recipes.topics.Topics",
        variants=TOPICS,
        max_epochs=5,
        space=TRANSFORMER_SPACE,
        summary="a small Transformer that learns to write like Python's own help topics, a character at a time",
    ),
    Recipe(
        name="diabetes_mlp",
        model="trainers.recipes.regression.MLPRegressor",
        data="trainers.recipes.tables.Diabetes",
        variants=DIABETES,
        max_epochs=20,
        space=REGRESSION_SPACE,
        summary="a perceptron that predicts how diabetes progresses within a year (442 patients, 10 features)",
    ),
    Recipe(
        name="mnist_cnn",
        model="trainers.recipes.networks.ScoredCNN",
        data="trainers.recipes.mnist.MNIST",
        variants=MNIST,
        max_epochs=5,
        space=MNIST_SPACE,
        summary="a convolutional network on your files of MNIST or Fashion-MNIST (60,000 images of 28x28)",
        needs={"folder": "data/mnist"},
        find_files=find_files,
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
