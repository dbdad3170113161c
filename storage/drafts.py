"""What a process remembers of the trials that it is giving their parameters, so that it need not read them again."""

from collections import OrderedDict
from dataclasses import dataclass

from storage.distributions import pack, unpack
from storage.locks import ForkSafeLock

REMEMBERED = 1_000  # trials; of those that are never finished here the oldest are forgotten

Content = tuple[tuple[str, int], ...]
"""Names of parameters, and the numbers of their distributions."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A trial's configuration as it was last seen."""

    study_id: int
    parameter_set_id: int | None = None
    content: Content = ()
    configuration: bytes | None = None

    def with_parameter(self, name: str, distribution_id: int, internal_value: float) -> tuple[Content, bytes]:
        """The content and the configuration that it would have with a parameter more, or with another value of one."""
        numbers = {**dict(self.content), name: distribution_id}
        values = dict(zip(dict(self.content), unpack(self.configuration).tolist(), strict=True))
        values[name] = float(internal_value)
        return tuple(numbers.items()), pack(values.values())


class Drafts:
    """The drafts of a process, by trial."""

    def __init__(self) -> None:
        self._drafts: OrderedDict[int, Draft] = OrderedDict()
        self._lock = ForkSafeLock()

    def of(self, trial_id: int) -> Draft | None:
        """What is remembered of a trial."""
        return self._drafts.get(trial_id)

    def remember(self, trial_id: int, draft: Draft) -> None:
        """Remember how a trial stands: no harm is done where that is wrong by the time it is used."""
        with self._lock:
            self._drafts[trial_id] = draft
            if len(self._drafts) > REMEMBERED:
                self._drafts.popitem(last=False)

    def forget(self, trial_id: int) -> None:
        """Forget a trial that is finished."""
        with self._lock:
            self._drafts.pop(trial_id, None)
