"""`/recipes`: the ready tasks."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hpo.answers.recipes import ReadyTask, recipe_fields
from hpo.api.access import Reader
from hpo.api.answers import as_json, says
from trainers.recipes import RECIPES

router = APIRouter(prefix="/recipes", tags=["recipes"])


@router.get("", responses=says(list[ReadyTask]))
def list_recipes(who: Reader) -> Response:
    """The ready tasks, on data that comes with what is installed or that only the user has; `hpo recipes --json`."""
    return as_json([recipe_fields(recipe) for recipe in RECIPES.values()])
