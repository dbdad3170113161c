"""How is a study file read, and what is told where it is wrong?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hpo.errors import SpaceError, SpecError
from hpo.spaces.space_macros import expand
from hpo.studies.spec import (
    Budget,
    CategoricalParameter,
    CliProject,
    Component,
    Compress,
    Distil,
    FloatParameter,
    IntParameter,
    Objective,
    Pruner,
    ScaleLr,
    Seeds,
    Stop,
    StudySpec,
    Task,
    TeacherFile,
    Trainer,
)
from hpo.studies.yaml_lines import Path_, check_size, read_yaml
from trainers.errors import TrainerError
from trainers.recipes import find_recipe


def load_spec(path: Path, **overrides: Any) -> StudySpec:
    """Read and check a study file. `overrides`: `trials`, `study`, `stop`; None leaves what the file says.

    Raises SpecError whose message has one line per problem: the file, the line, the key, and what would be right.
    """
    content, lines = read_yaml(path)
    if not isinstance(content, dict):
        raise SpecError(f"{path}: a study file is a mapping of keys (study, task, trainer, space, budget, …)")
    return parse_spec(content, source=str(path), lines=lines, **overrides)


def parse_spec(
    content: Mapping[str, Any],
    *,
    source: str = "study",
    lines: Mapping[Path_, int] | None = None,
    trials: int | None = None,
    study: str | None = None,
    stop: str | None = None,
) -> StudySpec:
    """Check the content of a study file, given as plain data. Raises SpecError as `load_spec` does."""
    check_size(content, source)
    filled = _with_defaults(dict(content), trials=trials, study=study, stop=stop)
    if isinstance(filled.get("space"), Mapping):
        filled["space"] = _expand(filled["space"], source, lines or {})
    try:
        return StudySpec.model_validate(filled)
    except ValidationError as error:
        by_key = {_key_path(problem["loc"], filled): problem for problem in reversed(error.errors())}
        problems = [_explain(problem, filled, source, lines or {}) for problem in reversed(by_key.values())]
        raise SpecError("\n".join(problems)) from error
    except TrainerError as error:
        raise SpecError(f"{source}: trainer.recipe: {error}") from error


def overridden(
    content: Mapping[str, Any], *, trials: int | None, study: str | None, stop: str | None
) -> dict[str, Any]:
    """The content of a study file with what the command line says instead; None leaves what the file says."""
    changed = dict(content)
    if trials is not None:
        budget = content.get("budget")
        changed["budget"] = {**(budget if isinstance(budget, Mapping) else {}), "trials": trials}
    if stop is not None:
        priced = stop == "cost" and isinstance(content.get("stop"), Mapping) and "gain" not in content["stop"]
        changed["stop"] = {**content["stop"], "rule": "cost"} if priced else stop  # what the file says of money stays
    if study is not None:
        changed["study"] = study
    return changed


def _with_defaults(
    content: dict[str, Any], *, trials: int | None, study: str | None, stop: str | None
) -> dict[str, Any]:
    """What the command line overrides, what the recipe brings, and the study's name from its task."""
    content = overridden(content, trials=trials, study=study, stop=stop)
    task, trainer = content.get("task"), content.get("trainer")
    if isinstance(trainer, Mapping) and isinstance(trainer.get("recipe"), str):
        recipe, variant = _recipe(trainer["recipe"])
        content["trainer"] = {"max_epochs": recipe.max_epochs, **trainer}
        if isinstance(trainer.get("data"), Mapping):
            content["trainer"]["data"] = {"class_path": recipe.data, **trainer["data"]}
        content.setdefault("space", recipe.space)
        defaults = {"name": f"{recipe.name}/{variant}", "metric": recipe.metric, "direction": recipe.direction}
        if task is None or isinstance(task, Mapping):
            content["task"] = task = {**defaults, **(task or {})}
    if "study" not in content and isinstance(task, Mapping) and isinstance(task.get("name"), str):
        content["study"] = task["name"]
    return content


def _expand(space: Mapping[str, Any], source: str, lines: Mapping[Path_, int]) -> dict[str, Any]:
    try:
        return expand(space)
    except SpaceError as error:
        name = str(error).removeprefix("space.").partition(":")[0].rpartition(".")
        line = _line_of(("space", name[0] or name[2]), lines)
        raise SpecError(f"{source}:{line}: {error}" if line else f"{source}: {error}") from error


def _recipe(text: str) -> Any:
    try:
        return find_recipe(text)
    except TrainerError as error:
        raise SpecError(f"trainer.recipe: {error}") from error


_ADVICE = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "bool_type": "must be true or false",
    "too_short": "must not be empty",
    "model_type": "must be a mapping of keys",
    "list_type": "must be a list, as in [a, b]",
    "union_tag_not_found": "needs a `type`: float, int or categorical; or optimizer, schedule",
}


def _explain(problem: Any, content: Mapping[str, Any], source: str, lines: Mapping[Path_, int]) -> str:
    """One pydantic error as `file:line: key: what is wrong; what would be right`."""
    path = _key_path(problem["loc"], content)
    what = _what_is_wrong(problem, path, content)
    line = _line_of(path, lines)
    where = f"{source}:{line}" if line else source
    key = ".".join(map(str, path))
    return f"{where}: {key}: {what}" if key and not what.startswith(f"{key}.") else f"{where}: {what}"


def _what_is_wrong(problem: Any, path: Path_, content: Mapping[str, Any]) -> str:
    given = problem.get("input")
    match problem["type"]:
        case "extra_forbidden":
            return _unknown_key(path, content)
        case "union_tag_invalid":
            return f"type {problem['ctx']['tag']!r} is unknown; use float, int or categorical; or optimizer, schedule"
        case "missing":
            return "is missing" + _example(path)
        case "value_error":
            return str(problem["ctx"]["error"])
        case "literal_error":
            return f"{given!r} is not one of {problem['ctx']['expected']}"
        case kind if kind in _ADVICE:
            return _ADVICE[kind] + ("" if isinstance(given, dict | list) else f", not {given!r}")
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, not {given!r}"


def _key_path(loc: Sequence[str | int], content: Any) -> Path_:
    """The keys of the file that an error is about: pydantic's own union tags are not among them."""
    path: list[str | int] = []
    node: Any = content
    for position, key in enumerate(loc):
        is_last = position == len(loc) - 1
        is_item = isinstance(node, list) and isinstance(key, int) and key < len(node)
        if is_item or (isinstance(node, Mapping) and key in node):
            node = node[key]
        elif not is_last or key in ("float", "int", "categorical", "bool", "str"):
            continue
        path.append(key)
    return tuple(path)


def _line_of(path: Path_, lines: Mapping[Path_, int]) -> int | None:
    """The line of the longest part of `path` that stands in the file."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


_PARAMETERS: dict[str, type[BaseModel]] = {
    "float": FloatParameter,
    "int": IntParameter,
    "categorical": CategoricalParameter,
}
_KEYS: dict[str, type[BaseModel]] = {
    "": StudySpec,
    "task": Task,
    "task.against": Objective,
    "trainer": Trainer,
    "budget": Budget,
    "pruner": Pruner,
    "stop": Stop,
    "seeds": Seeds,
    "trainer.model": Component,
    "trainer.data": Component,
    "trainer.cli": CliProject,
    "trainer.scale_lr": ScaleLr,
    "trainer.compress": Compress,
    "trainer.compress.distil": Distil,
    "trainer.compress.distil.teacher": TeacherFile,
}


def _unknown_key(path: Path_, content: Mapping[str, Any]) -> str:
    parent = ".".join(key for key in path[:-1] if isinstance(key, str))  # whichever of a list
    section: type[BaseModel] | None = _KEYS.get(parent)
    if section is None and path[0] == "space" and len(path) == 3:
        kind = content["space"][path[1]].get("type")
        section = _PARAMETERS.get(kind)
    known = sorted(section.model_fields) if section is not None else []
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    advice = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return f"unknown key; {advice}"


def _example(path: Path_) -> str:
    examples = {
        "task": " (name, metric and direction of what is tuned)",
        "task.metric": "; the name under which your model logs it, e.g. val_loss",
        "task.direction": "; minimize or maximize",
        "space": " (the hyperparameters; e.g. `lr: {type: float, low: 1e-5, high: 0.1, log: true}`)",
        "budget": "; e.g. `budget: {trials: 30}`",
        "stop.rule": "; none, auto, gain or cost",
    }
    return examples.get(".".join(map(str, path)), "")
