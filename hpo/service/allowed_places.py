"""From where may a service bring in past runs?

Whoever may operate it must not reach what only the server reaches: its files, its network. So paths lead into the
folder of projects, whatever links say; addresses are those that the service's settings allow, and its own MLflow's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from hpo.errors import SettingsError

MOST_ENTRIES = 200_000  # of a folder, that are looked at for links
DATABASES = ("postgresql", "mysql")
_ODD = re.compile(r"[\x00-\x20\x7f\\]")  # that readers of addresses disagree about


@dataclass(frozen=True, kw_only=True)
class Places:
    """What is allowed."""

    projects: Path
    hosts: frozenset[str]  # NAME, or NAME:PORT
    own_mlflow: str | None  # the tracking URI of the service itself


def mlflow_place(uri: str | None, places: Places) -> str:
    """The tracking URI to import from; the service's own where none is given. Raises SettingsError."""
    if uri is None or uri == places.own_mlflow:
        if places.own_mlflow is None:
            raise SettingsError("uri: this service has no MLflow of its own; say which one is meant")
        return places.own_mlflow
    scheme = _scheme(uri)
    if scheme in ("http", "https"):
        _check_host(uri, places)
        return uri
    if scheme == "file":
        found = urlsplit(uri)
        if found.netloc or found.query or found.fragment:
            raise SettingsError(f"uri: {uri!r} is no folder of the projects; write its path")
        return str(path_of_projects(unquote(found.path), places))
    return _database(uri, scheme, places, "uri") if scheme else str(path_of_projects(uri, places))


def optuna_place(storage: str, places: Places) -> str:
    """The URL or path to import Optuna studies from. Raises SettingsError."""
    scheme = _scheme(storage)
    return _database(storage, scheme, places, "storage") if scheme else str(path_of_projects(storage, places))


def path_of_projects(text: str, places: Places) -> Path:
    """A file or folder below the projects, by its path there or in full; no link below it leads out.

    Raises SettingsError, which says the same of what is outside and of what is not there.
    """
    root = places.projects.resolve()
    try:
        path = (root / text).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise _not_there(text) from None
    if not path.is_relative_to(root):
        raise _not_there(text)
    for entry in _links(path):
        if not entry.resolve().is_relative_to(root):
            raise SettingsError(
                f"path: in {text!r}, {entry.relative_to(path)} is a link that leads out of the projects"
            )
    return path


def _links(folder: Path) -> list[Path]:
    links: list[Path] = []
    seen = 0
    for parent, folders, files in os.walk(folder, followlinks=False):
        seen += len(folders) + len(files)
        if seen > MOST_ENTRIES:
            raise SettingsError(f"path: {folder.name} has more than {MOST_ENTRIES:,} files; name a part of it")
        links += [entry for name in (*folders, *files) if (entry := Path(parent) / name).is_symlink()]
    return links


def _scheme(text: str) -> str:
    """Of an address; empty for a path. Raises SettingsError for what readers do not agree about."""
    if _ODD.search(text.split("://", 1)[-1] if "://" in text else "") or "\x00" in text:
        raise SettingsError(f"{text!r} holds a character that no address has")
    found = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*):", text)
    return found[1].lower() if found else ""


def _check_host(uri: str, places: Places) -> None:
    found = urlsplit(uri)
    if "@" in found.netloc:
        raise SettingsError(
            "uri: give no password in it; who may read there is set for the server (MLFLOW_TRACKING_USERNAME, "
            "MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN)"
        )
    if not _is_allowed(found, places):
        raise _not_allowed("uri", found)


def _database(url: str, scheme: str, places: Places, what: str) -> str:
    kind = scheme.partition("+")[0]
    found = urlsplit(url)
    if found.query or found.fragment:
        raise SettingsError(f"{what}: options in a database's URL are not taken here")
    if kind == "sqlite":
        if found.netloc or not found.path.startswith("/"):
            raise SettingsError(f"{what}: write sqlite:///PATH, the file's path in the folder of projects")
        return f"sqlite:///{path_of_projects(unquote(found.path[1:]), places)}"
    if kind not in DATABASES:
        raise SettingsError(f"{what}: {scheme}: is not read here; give a path, sqlite:///PATH, or an http(s) address")
    if found.password is not None:
        raise SettingsError(
            f"{what}: give no password in it, for it would be kept with what was asked; the service's own user has it "
            "in ~/.pgpass, or in PGPASSWORD"
        )
    if not _is_allowed(found, places):
        raise _not_allowed(what, found)
    return url


def _is_allowed(found: SplitResult, places: Places) -> bool:
    try:
        host, port = (found.hostname or "").rstrip("."), found.port
    except ValueError:
        return False
    allowed = {each.lower() for each in places.hosts}
    return bool(host) and (host in allowed or f"{host}:{port}" in allowed)


def _not_allowed(what: str, found: SplitResult) -> SettingsError:
    return SettingsError(
        f"{what}: past runs may not be imported from {found.hostname or 'nowhere'!r}; whoever runs the service allows "
        "hosts in its settings file (import_hosts)"
    )


def _not_there(text: str) -> SettingsError:
    return SettingsError(f"path: there is no file or folder {text!r} among the projects of this service")
