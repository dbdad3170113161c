"""With which study file does the launch form begin?"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import count
from typing import Any

import yaml

from hpo.answers.plain import jsonable
from trainers.recipes import find_recipe

TRIALS, PRUNER = 20, "history"
END = "...\n"  # of a document that is a single value


def recipe_draft(text: str, *, taken: Container[str]) -> str:
    """A study on a ready task, NAME or NAME/VARIANT. taken: names of studies. Raises RecipeError."""
    recipe, variant = find_recipe(text)
    name = f"{recipe.name}/{variant}"
    trainer: dict[str, Any] = {"recipe": name, "max_epochs": recipe.max_epochs}
    if recipe.needs:
        trainer["data"] = {"init_args": dict(recipe.needs)}
    return written(
        {
            "study": free_name(name.replace("/", "-"), taken),
            "task": {"name": name, "metric": recipe.metric, "direction": recipe.direction},
            "trainer": trainer,
            "space": recipe.space,
            "budget": {"trials": TRIALS},
            "pruner": PRUNER,
        }
    )


def like_draft(spec: Mapping[str, Any], *, taken: Container[str]) -> str:
    """A study like another one, under a name of its own."""
    return written({**spec, "study": free_name(str(spec.get("study", "study")), taken)})


def free_name(name: str, taken: Container[str]) -> str:
    """The name, or the first of `NAME 2`, `NAME 3`, … that no study has."""
    if name not in taken:
        return name
    return next(each for each in (f"{name} {number}" for number in count(2)) if each not in taken)


def written(content: Mapping[str, Any]) -> str:
    """As a person would write it: a line for each section, and for each hyperparameter of the space."""
    lines = []
    for key, value in jsonable(content).items():
        if key == "space":
            lines += ["space:", *(f"  {_flow({name: fields})}" for name, fields in value.items())]
        elif value is not None:
            lines.append(_flow({key: value}))
    return "\n".join(lines) + "\n"


def _flow(pair: Mapping[str, Any]) -> str:
    """`key: value` on one line."""
    ((key, value),) = pair.items()
    name, text = (
        yaml.safe_dump(each, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
        for each in (key, value)
    )
    return f"{name.removesuffix(END).strip()}: {text.removesuffix(END).strip()}"
