"""What may be set for a service in a file: limits, whose code may run, who may see its figures.

limits: {trials: 16, trials_per_owner: 4, trials_on_server: 2}   # at once; hpo.service.limits has them all
packages: [my_company_models]     # installed packages that studies may train, beside the folder of projects
import_hosts: [mlflow.example.org]   # from which past runs may be imported by whoever may operate
metrics: open                     # /metrics without a token
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpo.errors import SettingsError, SpecError
from hpo.service.limits import Limits
from hpo.studies.yaml_lines import read_yaml

AtLeastOne = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitSettings(_Section):
    """How much may run at once; what is left out has no limit, but on the server itself that of its processors."""

    trials: AtLeastOne | None = None
    devices: AtLeastOne | None = None
    trials_per_owner: AtLeastOne | None = None
    devices_per_owner: AtLeastOne | None = None
    trials_on_server: AtLeastOne | None = None

    def limits(self) -> Limits:
        """The same for the service."""
        return Limits(**self.model_dump(exclude_none=True))


class ServiceSettings(_Section):
    """The settings file of `hpo serve`."""

    limits: LimitSettings = LimitSettings()
    packages: list[str] = []
    import_hosts: list[str] = []
    metrics: Literal["token", "open"] = "token"


def load_settings(path: Path | None) -> ServiceSettings:
    """The settings of that file; without one, what holds when nothing is said. Raises SettingsError."""
    if path is None:
        return ServiceSettings()
    try:
        content, lines = read_yaml(path)
    except SpecError as error:
        raise SettingsError(str(error)) from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: a settings file is a mapping of keys ({', '.join(ServiceSettings.model_fields)})")
    try:
        return ServiceSettings.model_validate(content)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            key, line = each["loc"], lines.get(each["loc"])
            what = "this key is unknown" if each["type"] == "extra_forbidden" else each["msg"]
            problems.append(f"{path}{f':{line}' if line else ''}: {'.'.join(map(str, key))}: {what}")
        raise SettingsError("\n".join(problems)) from error
