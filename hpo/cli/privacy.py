"""What would the rules of privacy make of names? For `hpo db privacy`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from hpo.cli.show import open_console, print_json, vars_of
from hpo.cli.text import escape
from storage.database import Store
from storage.errors import PrivacyError
from storage.names_in_use import attribute_names, parameter_names
from storage.privacy import KEY_VARIABLE, RULES_VARIABLE, Kind, Privacy, current, read_rules
from storage.schema import schema_state

VALUE = "a value"  # of a parameter or an attribute, for an example
NAMED: Mapping[str, Kind] = {"parameter": "parameters", "attribute": "attributes"}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Something that is to be stored, and what the rules make of it."""

    kind: str  # parameter, attribute, path, user or text
    name: str
    stored: str | None  # of a parameter or attribute: what its value "a value" becomes; None: nothing is stored

    @property
    def becomes(self) -> str:
        """The same for people."""
        kept = VALUE if self.kind in NAMED else self.name
        return "dropped" if self.stored is None else "kept as it is" if self.stored == kept else self.stored


def rules_of(file: Path | None) -> Privacy:
    """The rules of a file, or those in force. Raises PrivacyError where there are none."""
    if file is not None:
        return read_rules(file, os.environ.get(KEY_VARIABLE, ""))
    if not os.environ.get(RULES_VARIABLE):
        raise PrivacyError(f"There are no rules: give a file of them, or name one in {RULES_VARIABLE}.")
    return current()


def samples_of(rules: Privacy, given: Mapping[str, Sequence[str]], store: Store) -> list[Sample]:
    """What the rules make of what is given, and of the names in the store, if there is one."""
    names: dict[str, dict[str, None]] = {kind: dict.fromkeys(some) for kind, some in given.items()}
    if schema_state(store.url).is_current:
        names["parameter"] |= dict.fromkeys(parameter_names(store))
        names["attribute"] |= dict.fromkeys(attribute_names(store))
    return [Sample(kind=kind, name=name, stored=_stored(rules, kind, name)) for kind in names for name in names[kind]]


def print_samples(samples: Iterable[Sample], *, as_json: bool) -> None:
    """One line for each."""
    if as_json:
        print_json([vars_of(sample) for sample in samples])
        return
    table = Table("what", "name", "is stored as", box=box.SIMPLE_HEAD, pad_edge=False)
    for sample in samples:
        table.add_row(sample.kind, escape(sample.name), escape(sample.becomes))
    open_console().print(table if table.row_count else "the rules are good; name something to see what becomes of it")


def _stored(rules: Privacy, kind: str, name: str) -> str | None:
    if kind in NAMED:
        found: str | None = rules.value(rules.action(NAMED[kind], name), VALUE)
        return found
    return {"path": rules.path, "user": rules.user, "text": rules.text}[kind](name)
