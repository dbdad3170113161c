"""Is what is installed ours, and all of it?"""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dashboards", "hpo", "storage", "trainers")


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_owns_our_names(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"hindsight-hpo"}


def test_the_wheel_holds_every_package_and_the_migrations() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert tuple(sorted(wheel["packages"])) == PACKAGES
    assert wheel["force-include"] == {"migrations": "storage/migrations"}
    assert all((ROOT / name / "py.typed").exists() for name in PACKAGES)
