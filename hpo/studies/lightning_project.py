"""What does the config of a LightningCLI project settle for a study?

The project itself is run by `trainers.programs.lightning_cli`; here its config is only looked into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import SpecError
from hpo.studies.yaml_lines import read_yaml


@dataclass(frozen=True, kw_only=True)
class LightningProject:
    """The config file of a project, and what it says."""

    config: Path
    content: Mapping[str, Any]

    @property
    def devices(self) -> int:
        """Of a trial: as many as the config counts; 1 where it takes whatever is there."""
        return _count(self._trainer.get("devices"))

    @property
    def nodes(self) -> int:
        """Machines that a trial spans."""
        return _count(self._trainer.get("num_nodes"))

    @property
    def data(self) -> Any:
        """Its section on data; None where the model brings its own."""
        return self.content.get("data")

    @property
    def strategy(self) -> dict[str, Any]:
        """By its name, where it is given by one."""
        strategy = self._trainer.get("strategy")
        return {"name": strategy} if isinstance(strategy, str) else {}

    @property
    def _trainer(self) -> Mapping[str, Any]:
        trainer = self.content.get("trainer")
        return trainer if isinstance(trainer, Mapping) else {}


def read_project(config: str, *, folder: Path) -> LightningProject:
    """The project whose config stands in the study file's folder, or in the working one. Raises SpecError."""
    for place in (folder, Path.cwd()):
        if (place / config).is_file():
            path = (place / config).resolve()
            content, _ = read_yaml(path)
            if not isinstance(content, Mapping):
                raise SpecError(f"{path}: a LightningCLI config is a mapping of keys (trainer, model, data, …)")
            return LightningProject(config=path, content=content)
    places = " or ".join(dict.fromkeys(map(str, (folder, Path.cwd()))))
    raise SpecError(f"trainer.cli: there is no file {config} in {places}")


def _count(given: Any) -> int:
    """Of devices or nodes: a number, a list of them, or `auto` and -1, which mean all there are."""
    if isinstance(given, list):
        return max(1, len(given))
    if isinstance(given, str) and given.strip().isdigit():
        given = int(given)
    return given if isinstance(given, int) and given > 0 else 1
