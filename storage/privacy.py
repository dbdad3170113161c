"""What must not be stored, and what stands in its place? Rules in a settings file that `HPO_PRIVACY` names.

    parameters:            # by name; the first pattern that fits decides
      patient_*: drop      # it is not stored at all
      data.site: hash      # the same value always gives the same hash, so that it still counts as a choice
      notes: mask          # every value becomes ***
    attributes:            # tags and user attributes, likewise
      "*token*": drop
    paths: hash            # checkpoints, folders, locations, and every path in an error's text: drop, hash or mask
    users: hash            # workers, machines, owners, and this user's name in an error's text: drop, hash or mask
    texts: ["[A-Z]{2}\\d{6}"]   # regular expressions: what they match in any text becomes ***

Whoever writes into the history goes by the rules at its way in (live work, Optuna's storage, the importers, accounts),
so MLflow, which is told from the history, never hears of it either. What is hidden already is left alone. Hashes are
keyed by `HPO_PRIVACY_KEY`; without the key nobody can tell a value by trying all. Names of studies and tasks are kept:
things are found by them.
"""

import getpass
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from storage.errors import PrivacyError

RULES_VARIABLE = "HPO_PRIVACY"
KEY_VARIABLE = "HPO_PRIVACY_KEY"
LEAST_KEY_LENGTH = 16  # characters
LARGEST_FILE = 1_000_000  # bytes
MASK = "***"
HASH = re.compile(r"#[0-9a-f]{12}")
PATH = re.compile(r"(?:(?<![\w.])|(?<=file:))(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\:'\"<>|,;()\[\]]+){2,}[/\\]?")
PROCESS = re.compile(r"\d+/\d*/[0-9a-f]{8}")  # pid/start/random: a service refuses it as the name of a worker
OWN_WORKER = re.compile(rf"[^/]+/{PROCESS.pattern}")  # the workers of `hpo tune`: host/pid/start/random
SHORTEST_USER = 3  # characters: shorter names are part of too many words

Action = Literal["drop", "hash", "mask"]
Kind = Literal["parameters", "attributes"]
Params = Mapping[str, Any]


class Rules(BaseModel):
    """A settings file, valid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, Action] = Field(default_factory=dict)
    attributes: dict[str, Action] = Field(default_factory=dict)
    paths: Action | None = None
    users: Action | None = None
    texts: tuple[str, ...] = ()

    @field_validator("texts")
    @classmethod
    def _compile(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"{text!r} is no regular expression: {error}") from error
        return texts

    @property
    def actions(self) -> set[Action | None]:
        """Everything that is done to anything."""
        return {*self.parameters.values(), *self.attributes.values(), self.paths, self.users}


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Rules, and what they make of what is to be stored. None stands for what is not."""

    rules: Rules = field(default_factory=Rules)
    key: bytes = b""

    @cached_property
    def is_open(self) -> bool:
        """Whether everything is stored as it is."""
        return self.rules == Rules()

    def action(self, kind: Kind, name: str) -> Action | None:
        """What is done to a parameter or an attribute, by its name or the last part of it; None: nothing."""
        patterns: Mapping[str, Action] = getattr(self.rules, kind)
        for pattern, action in patterns.items():
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern):
                return action
        return None

    # Values

    def value(self, action: Action | None, value: Any) -> Any:
        """A value after an action; texts in those that are kept are looked through."""
        if action is None:
            return self.document(value)
        if action == "drop" or value is None:
            return None
        return MASK if action == "mask" else self._hashed(value)

    def params(self, params: Params, kind: Kind = "parameters") -> dict[str, Any]:
        """Parameters, or attributes, without those that are dropped."""
        if self.is_open:
            return dict(params)
        actions = {name: self.action(kind, name) for name in params}
        return {name: self.value(actions[name], params[name]) for name in params if actions[name] != "drop"}

    def attributes(self, attributes: Params) -> dict[str, Any]:
        """As `params`, for tags and user attributes."""
        return self.params(attributes, "attributes")

    def document(self, content: Any, name: str = "") -> Any:
        """JSON-able content: parameters and attributes at any depth, and the texts in it. name: what it is called."""
        if self.is_open:
            return content
        if isinstance(content, str):
            return self.text(content)
        if isinstance(content, Mapping):
            parts = {key: f"{name}.{key}" if name else str(key) for key in content}
            actions = {
                key: self.action("parameters", part) or self.action("attributes", part) for key, part in parts.items()
            }
            return {
                key: self.document(value, parts[key]) if actions[key] is None else self.value(actions[key], value)
                for key, value in content.items()
                if actions[key] != "drop"
            }
        if isinstance(content, list | tuple):
            return [self.document(value, name) for value in content]
        return content

    def study_file(self, content: Params) -> dict[str, Any]:
        """A study file. What it searches over must have been hidden before: see `check_searched`."""
        if self.is_open:
            return dict(content)
        kept = {key: content[key] for key in ("study", "task", "space") if key in content}
        return {key: kept[key] if key in kept else self.document(value) for key, value in content.items()}

    def path(self, path: str | None) -> str | None:
        """A path or URI of a file."""
        return path if self.rules.paths is None else self.value(self.rules.paths, path)

    def key_of_run(self, key: str) -> str:
        """What a run is called where it was imported from: it must stay one, so a path is hashed in any case."""
        if self.rules.paths is None or not ("/" in key or "\\" in key):
            return str(self.text(key))
        return self._hashed(key)

    def user(self, name: str) -> str:
        """A person or a machine. Somebody must hold a token and a trial, so what is dropped is masked."""
        if self.rules.users is None or name == MASK:
            return name
        return self._hashed(name) if self.rules.users == "hash" else MASK

    def machine(self, host: str) -> str:
        """A machine in a worker's name, by which its processes know what is theirs: hashed in any case."""
        return host if self.rules.users is None else self._hashed(host)

    def worker(self, name: str) -> str:
        """A worker's name: our own begins with its machine, and says nothing else of anybody.

        That of a service's worker has its owner before it: he stays one who can be told by what `user` makes of him.
        """
        if self.rules.users is None:
            return name
        owner, _, of_owner = name.partition("/")
        if not of_owner or OWN_WORKER.fullmatch(name):
            return self._program(name)
        return f"{self.user(owner)}/{self._program(of_owner)}"

    def _program(self, name: str) -> str:
        if OWN_WORKER.fullmatch(name) is None:
            return self._hashed(name)
        host, _, rest = name.partition("/")
        return f"{self.machine(host)}/{rest}"

    def text(self, text: str | None) -> str | None:
        """A text for people, such as an error: paths, this user and machine, and what `texts` match are replaced."""
        if text is None or self.is_open:
            return text
        for pattern in self._patterns:
            text = pattern.sub(MASK, text)
        if self.rules.users is not None:
            for name in _people():
                text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", self.user(name), text)
        if self.rules.paths is not None:
            text = PATH.sub(lambda found: self.path(found.group()) or MASK, text)
        return text

    # What is searched over

    def hidden_choice(self, name: str) -> Callable[[Any], Any] | None:
        """What becomes of each value of a parameter; None where it is kept."""
        action = self.action("parameters", name)
        return None if action is None else lambda value: self.value(action, value)

    def check_searched(self, name: str, choices: Iterable[Any] | None) -> None:
        """Raises PrivacyError where what is searched over would be stored as the rules forbid. choices: None: a range.

        Choices can be hashed beforehand, and then they are; what is missing, or always the same, teaches nothing.
        """
        action = self.action("parameters", name)
        if action is None:
            return
        if action != "hash":
            raise PrivacyError(
                f"{name} is searched over, and {RULES_VARIABLE} says {action!r}: nothing could be learned of it. "
                "Hash its choices, keep it, or do not search over it."
            )
        if choices is None:
            raise PrivacyError(
                f"{name} is searched over as a range, and {RULES_VARIABLE} says 'hash': only choices can be hashed. "
                "Keep it, search over choices, or do not search over it."
            )
        if not all(choice is None or (isinstance(choice, str) and HASH.fullmatch(choice)) for choice in choices):
            raise PrivacyError(
                f"{name} is to be hashed by {RULES_VARIABLE}, and here its choices are searched over as they are; "
                "`hpo tune` with a study file hashes them, and trains with what they stand for."
            )

    # How it is done

    def _hashed(self, value: Any) -> str:
        if isinstance(value, str) and HASH.fullmatch(value):
            return value
        content = json.dumps(value, sort_keys=True, default=str).encode()
        return f"#{blake2b(content, digest_size=6, key=self.key).hexdigest()}"

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(map(re.compile, self.rules.texts))


OPEN = Privacy()


def current() -> Privacy:
    """The rules of the file that `HPO_PRIVACY` names; all is open where it names none. Raises PrivacyError."""
    path = os.environ.get(RULES_VARIABLE)
    return _read(path, os.environ.get(KEY_VARIABLE, "")) if path else OPEN


def is_hidden(text: str) -> bool:
    """Whether something stands there in the place of what must not be stored."""
    return text == MASK or HASH.fullmatch(text) is not None


def read_rules(path: Path, key: str) -> Privacy:
    """The rules of a file. Raises PrivacyError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise PrivacyError(f"{path} is no file of privacy rules: it is larger than {LARGEST_FILE:,} bytes")
        content = yaml.safe_load(path.read_text())
        rules = Rules.model_validate({} if content is None else content)
    except OSError as error:
        raise PrivacyError(f"the privacy rules {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PrivacyError(f"the privacy rules {path} are no YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise PrivacyError(f"the privacy rules {path} are not understood: {wrong}") from error
    needs_key = "hash" in rules.actions or rules.paths is not None or rules.users is not None
    if needs_key and len(key) < LEAST_KEY_LENGTH:
        raise PrivacyError(
            f"the privacy rules {path} hash: {KEY_VARIABLE} must hold a key of at least {LEAST_KEY_LENGTH} characters, "
            "as `openssl rand -hex 32` makes them, the same wherever values must match"
        )
    return Privacy(rules=rules, key=blake2b(key.encode()).digest() if key else b"")


@cache
def _read(path: str, key: str) -> Privacy:
    return read_rules(Path(path).expanduser(), key)


@cache
def _people() -> tuple[str, ...]:
    """What this user and this machine are called."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    return tuple(name for name in (socket.gethostname(), user) if len(name) >= SHORTEST_USER)
