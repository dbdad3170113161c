"""Which families are near each other, and by which mapping."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from hpo.spaces.space import SearchSpace
from hpo.spaces.space_mapping import SpaceMapping, meanings, relate

if TYPE_CHECKING:
    from storage.overview import FamilyOverview

MIN_SIMILARITY = 0.4  # heuristic
MIN_SHARED = 0.3  # of the meanings of names, for two spaces to be worth a closer look; heuristic
MAX_COMPARED = 100  # families with the same metric and direction: those with most trials


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Two families whose spaces nearly match."""

    past: str  # the older one
    present: str
    mapping: SpaceMapping


def related(families: Sequence[FamilyOverview]) -> list[Relation]:
    """The pairs that share metric and direction and whose spaces nearly match, the nearest first."""
    groups: dict[tuple[str | None, tuple[str, ...]], list[FamilyOverview]] = defaultdict(list)
    for found in families:
        groups[found.family.metric, found.family.directions].append(found)
    relations = [relation for members in groups.values() for relation in _within(members)]
    return sorted(relations, key=lambda relation: -relation.mapping.similarity)


def _within(members: Sequence[FamilyOverview]) -> Iterator[Relation]:
    largest = sorted(members, key=lambda member: -member.trials)[:MAX_COMPARED]
    kept = sorted(largest, key=lambda member: member.family.family_id)
    spaces = [SearchSpace.from_json(member.family.space) for member in kept]
    names = [meanings(space) for space in spaces]
    for past, present in combinations(range(len(kept)), 2):
        if len(names[past] & names[present]) < MIN_SHARED * len(names[past] | names[present]):
            continue
        mapping = relate(spaces[past], spaces[present])
        if mapping.similarity >= MIN_SIMILARITY:
            yield Relation(past=kept[past].family.name, present=kept[present].family.name, mapping=mapping)
