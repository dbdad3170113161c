"""Which ready tasks are there? The answer of `hpo recipes` as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from trainers.recipes import Recipe


class ReadyTask(TypedDict):
    """A recipe, with data and model."""

    name: str
    variants: list[str]  # behind a slash: `name/variant`
    metric: str
    summary: str
    needs: list[str]  # what the user must have


def recipe_fields(recipe: Recipe) -> ReadyTask:
    """A recipe."""
    return {
        "name": recipe.name,
        "variants": list(recipe.variants),
        "metric": recipe.metric,
        "summary": recipe.summary,
        "needs": list(recipe.needs),
    }
