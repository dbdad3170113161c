"""Which ready tasks are there? The answer of `hpo recipes` as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.recipes import Recipe


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """A recipe."""
    return {
        "name": recipe.name,
        "variants": list(recipe.variants),
        "metric": recipe.metric,
        "summary": recipe.summary,
        "needs": list(recipe.needs),
    }
