"""How is a choice that must not be stored searched over? By its hash, and trained with what that stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.studies.spec import StudySpec
from storage.errors import PrivacyError
from storage.privacy import HASH, Privacy


@dataclass(frozen=True, kw_only=True)
class Meanings:
    """What hashed choices stand for, which only the study file says."""

    by_parameter: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by hash

    def of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration as it is to be trained."""
        return {name: self.by_parameter.get(name, {}).get(value, value) for name, value in params.items()}


def hide_choices(spec: StudySpec, privacy: Privacy) -> tuple[StudySpec, Meanings]:
    """The study with hashed choices where the rules of privacy say so, and what those stand for.

    Raises PrivacyError where a parameter is to be dropped or masked, where a range is to be hashed, and where choices
    are hashed already: nobody knows then what to train.
    """
    meanings: dict[str, dict[str, Any]] = {}
    for name, parameter in spec.space.items():
        choices = getattr(parameter, "choices", None)
        if any(isinstance(choice, str) and HASH.fullmatch(choice) for choice in choices or ()):
            raise PrivacyError(
                f"space.{name}: its choices are hashed in this history, so nobody knows what to train; "
                "run the study from its own file, with the same HPO_PRIVACY"
            )
        hide = privacy.hidden_choice(name)
        if hide is not None and privacy.action("parameters", name) == "hash" and choices is not None:
            meanings[name] = {hide(choice): choice for choice in choices if choice is not None}
        else:
            privacy.check_searched(name, choices)
    if not meanings:
        return spec, Meanings()
    hashes = {name: {choice: text for text, choice in known.items()} for name, known in meanings.items()}
    space = {}
    for name, parameter in spec.space.items():
        changes: dict[str, Any] = {}
        if name in hashes:
            likely = getattr(parameter, "likely", None)
            changes["choices"] = [hashes[name].get(choice, choice) for choice in getattr(parameter, "choices", ())]
            changes["likely"] = None if likely is None else [hashes[name].get(choice, choice) for choice in likely]
        if parameter.when:
            changes["when"] = {
                parent: _all(hashes.get(parent, {}), values) for parent, values in parameter.when.items()
            }
        space[name] = parameter.model_copy(update=changes)
    return spec.model_copy(update={"space": space}), Meanings(by_parameter=meanings)


def _all(hashes: Mapping[Any, str], values: Any) -> Any:
    return [hashes.get(value, value) for value in values] if isinstance(values, list) else hashes.get(values, values)
