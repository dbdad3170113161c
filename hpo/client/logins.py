"""Which service is asked, and with which token? As given, else from the environment, else as `hpo login` kept it.

Tokens are kept in a file of their user's own, that nobody else may read.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from platformdirs import user_config_path

from hpo.client.transport import service_url
from hpo.errors import NotAllowedError, SettingsError
from hpo.settings import SERVER_VARIABLE, TOKEN_VARIABLE

FILE_VARIABLE = "HPO_TOKEN_FILE"
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def token_file() -> Path:
    """Where tokens are kept."""
    given = os.environ.get(FILE_VARIABLE)
    return Path(given).expanduser() if given else user_config_path("hindsight", appauthor=False) / "tokens.json"


def server_of(given: str | None) -> str:
    """The address of the service. Raises SettingsError."""
    found = given or os.environ.get(SERVER_VARIABLE)
    if not found:
        raise SettingsError(f"no server is named: give its URL, or set {SERVER_VARIABLE}")
    return service_url(found)


def token_of(server: str, given: str | None = None) -> str:
    """The token for a service. Raises NotAllowedError where there is none."""
    found = given or os.environ.get(TOKEN_VARIABLE) or _kept().get(server)
    if not found:
        raise NotAllowedError(f"no token for {server}: set {TOKEN_VARIABLE}, or log in: hpo login {server}")
    return found


def keep_token(server: str, token: str) -> Path:
    """Keep the token for a service; returns where."""
    _write({**_kept(), server: token})
    return token_file()


def forget_token(server: str) -> bool:
    """Forget the token for a service; returns whether there was one."""
    kept = dict(_kept())
    if kept.pop(server, None) is None:
        return False
    _write(kept)
    return True


def _kept() -> Mapping[str, str]:
    path = token_file()
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & OTHERS:
                raise SettingsError(f"{path} can be read by others, and holds tokens: chmod 600 {path}")
            kept = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}, where tokens are kept, cannot be read: {error}") from None
    if not isinstance(kept, dict) or not all(isinstance(token, str) for token in kept.values()):
        raise SettingsError(f"{path} is not a file of tokens; remove it and log in again")
    return kept


def _write(kept: Mapping[str, str]) -> None:
    path = token_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".tokens-")  # readable by its owner only
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(kept), file, indent=1)
            Path(draft).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
            raise
    except OSError as error:
        raise SettingsError(f"{path}, where tokens are kept, cannot be written: {error.strerror}") from None
