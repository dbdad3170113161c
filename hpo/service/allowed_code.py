"""Which code may a study of the service train, and which files may it name?

Modules of the projects' folder, and packages that the service's settings allow: whoever may launch a study may not run
whatever is installed. Callbacks, loggers, profilers and other parts may be classes of Lightning, torch and torchmetrics
as well, by the rooms that have nothing else in them: `torch.load` runs what a file says, `torch.hub.load` what a site
does, and by `torch.os` one would reach the rest. A bare name is allowed where Lightning's own classes of that kind are
meant: `callbacks: [{class_path: EarlyStopping}]`. None of the Trainer's arguments is an address or leads out of the
trial's own folder.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hpo.errors import SpecError
from hpo.studies.spec import CategoricalParameter, StudySpec, Trainer

ROOMS = (  # of classes that parts are made of
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
)
KINDS = {  # of parts that a study file may give by their bare names: the Trainer's argument, and where they are
    "callbacks": "lightning.pytorch.callbacks",
    "logger": "lightning.pytorch.loggers",
    "plugins": "lightning.pytorch.plugins",
    "profiler": "lightning.pytorch.profilers",
    "strategy": "lightning.pytorch.strategies",
}
_PART = re.compile(rf"(?:{'|'.join(map(re.escape, ROOMS))})(?:\.(?P<module>[a-z_]\w*))?\.[A-Z]\w*")
_BY_KIND = re.compile(rf"trainer\.arguments\.(?P<argument>{'|'.join(KINDS)})(?:\.\d+)?\.class_path")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)+")
_LEADS_AWAY = re.compile(r"^[/~\\]|^[A-Za-z]:[\\/]|://|(?:^|[/\\])\.\.(?:[/\\]|$)")


def check_code(spec: StudySpec, *, projects: Path, packages: Collection[str] = ()) -> None:
    """Raises SpecError with one line for each import path or file that is not allowed."""
    if spec.trainer is None:
        return
    problems = [f"study: {place}: {what}" for place, what in _problems(spec, spec.trainer, projects, set(packages))]
    if problems:
        raise SpecError("\n".join(problems))


def _problems(spec: StudySpec, trainer: Trainer, projects: Path, packages: set[str]) -> Iterator[tuple[str, str]]:
    for place, path in _own_code(trainer):
        if reason := _why_not_code(path, projects, packages):
            yield place, reason
    for section in ("model", "data"):
        component = getattr(trainer, section)
        for place, path in _class_paths(component.init_args if component else {}, f"trainer.{section}.init_args"):
            if not _is_part(path) and (reason := _why_not_code(path, projects, packages)):
                yield place, reason
    for place, path in _class_paths(trainer.arguments, "trainer.arguments"):
        is_known = _is_part(path) or _is_part_of_kind(path, place)
        if not is_known and (reason := _why_not_code(path, projects, packages)):
            yield place, reason
    for place, text in _texts(trainer.arguments, "trainer.arguments"):
        if trainer.function is None and _LEADS_AWAY.search(text):
            yield place, f"{text!r} is an address, or leads out of the trial's folder; leave it out"
    yield from _chosen(spec, trainer, projects, packages)
    yield from _files(trainer, projects)


def _own_code(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """What is trained, by its place in the study file."""
    if trainer.function is not None:
        yield "trainer.function", trainer.function
    for section in ("model", "data"):
        component = getattr(trainer, section)
        is_recipe = section == "data" and trainer.recipe is not None  # its own data, which the file may only describe
        if component is not None and not is_recipe:
            yield f"trainer.{section}.class_path", component.class_path
    if trainer.cli is not None and trainer.cli.class_path is not None:
        yield "trainer.cli.class_path", trainer.cli.class_path
    distil = None if trainer.compress is None else trainer.compress.distil
    if distil is not None and not isinstance(distil.teacher, str) and distil.teacher.model is not None:
        yield "trainer.compress.distil.teacher.model", distil.teacher.model.class_path


def _chosen(spec: StudySpec, trainer: Trainer, projects: Path, packages: set[str]) -> Iterator[tuple[str, str]]:
    """Classes among which the space chooses."""
    for name, parameter in spec.space.items():
        if not isinstance(parameter, CategoricalParameter):
            continue
        for choice in parameter.choices:
            names_class = name.endswith("class_path") or (trainer.cli is not None and _may_name_code(choice))
            if not names_class or _is_part(str(choice)):
                continue
            if reason := _why_not_code(str(choice), projects, packages):
                yield f"space.{name}", reason


def _files(trainer: Trainer, projects: Path) -> Iterator[tuple[str, str]]:
    named = []
    if trainer.cli is not None:
        named.append(("trainer.cli.config", trainer.cli.config))
    distil = None if trainer.compress is None else trainer.compress.distil
    if distil is not None and not isinstance(distil.teacher, str):
        named.append(("trainer.compress.distil.teacher", distil.teacher.checkpoint))
    for place, file in named:
        if "\0" in file or not (projects / file).resolve().is_relative_to(projects.resolve()):
            yield place, f"{file!r} is not in the projects' folder of the service"


def _is_part(path: str) -> bool:
    """Whether it is a class of which parts are made: a module of the standard library is none of a room's own."""
    found = _PART.fullmatch(path)
    return found is not None and found["module"] not in sys.stdlib_module_names


def _is_part_of_kind(name: str, place: str) -> bool:
    """Whether it is the bare name of a class of the kind that is wanted at that place."""
    found = _BY_KIND.fullmatch(place)
    return found is not None and name in _names_in(KINDS[found["argument"]])


@cache
def _names_in(room: str) -> frozenset[str]:
    """What a room of Lightning exports; read, for to import it takes seconds."""
    file = Path(str(distribution("lightning").locate_file(room.replace(".", "/")))) / "__init__.py"
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(statement.value))
    return frozenset()


def _why_not_code(path: str, projects: Path, packages: set[str]) -> str | None:
    top = re.split(r"[.:]", path, maxsplit=1)[0]
    if top in packages:
        return None
    is_there = top.isidentifier() and ((projects / f"{top}.py").is_file() or (projects / top).is_dir())
    if is_there and top not in sys.stdlib_module_names:
        return None
    if "." not in path and ":" not in path:
        return f"{path!r} is not allowed: it is not known by its bare name here; write its whole import path"
    return (
        f"{path!r} is not allowed: there is no module {top!r} in the projects' folder of the service, "
        "and its settings do not allow a package of that name"
    )


def _class_paths(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every `class_path` below, and every text that looks like one where an object may be given by its name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "class_path":
                yield f"{place}.class_path", str(value)
            else:
                yield from _class_paths(value, f"{place}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _class_paths(value, f"{place}.{index}")
    elif _may_name_code(node) and place.startswith("trainer.arguments"):
        yield place, str(node)


def _texts(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{place}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{place}.{index}")
    elif isinstance(node, str):
        yield place, node


def _may_name_code(value: Any) -> bool:
    """Whether a text can be an import path: `exp.v1` is none where there is no module `exp`."""
    if not isinstance(value, str) or _DOTTED.fullmatch(value) is None:
        return False
    return _is_module(re.split(r"[.:]", value, maxsplit=1)[0])


def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or find_spec(name) is not None
    except ValueError:  # a module that does not say where it comes from
        return True
