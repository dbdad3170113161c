"""How much of what a service hands out and trains may run at once?"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hpo.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may run at once; None is no limit. Raises SettingsError for one below 1."""

    trials: int | None = None  # of all studies, on the server and on workers
    devices: int | None = None  # that these trials have, each on all its machines
    trials_per_owner: int | None = None
    devices_per_owner: int | None = None
    trials_on_server: int | None = field(default_factory=os.cpu_count)  # that train on this machine itself

    def __post_init__(self) -> None:
        for name in ("trials", "devices", "trials_per_owner", "devices_per_owner", "trials_on_server"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise SettingsError(f"limits.{name} = {limit} is not at least 1; leave it out for no limit")

    @property
    def are_of_server_only(self) -> bool:
        """Whether nothing bounds the trials of workers."""
        return self.trials is self.devices is self.trials_per_owner is self.devices_per_owner is None
