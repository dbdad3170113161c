"""What is remembered of a table's rows to tell its columns' types, ranges and conditions: enough, and not all.

The first rows are kept, and of the later ones those with the least and the greatest numbers, with a new word, or with a
new combination of words and empty places. So memory does not grow with the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.importers.inference import ABSENT, MAX_CHOICES, NUMBERS_OF_A_SCALE, are_slips
from storage.importers.tables.values import content, seconds

FIRST_ROWS = 20_000
MOST_COMBINATIONS = 20_000
ROWS_FOR_DURATIONS = 20


@dataclass(kw_only=True)
class _Column:
    present: int = 0
    numbers: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    low_row: Sequence[Any] | None = None  # where that is, if it is not among the first rows
    high_row: Sequence[Any] | None = None
    different: set[float] = field(default_factory=set)  # numbers, up to NUMBERS_OF_A_SCALE
    words: set[Any] = field(default_factory=set)  # up to one more than choices may be
    number_of_words: int = 0  # of which None is none

    def add(self, value: Any, row: Sequence[Any] | None) -> bool:
        """Take note of a value; whether it is a new word. row: to be kept for its extremes; None: it is kept anyway."""
        if value is ABSENT:
            return False
        self.present += 1
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers += 1
            if len(self.different) < NUMBERS_OF_A_SCALE:
                self.different.add(value)
            if value < self.low:
                self.low, self.low_row = value, row
            if value > self.high:
                self.high, self.high_row = value, row
            return False
        self.number_of_words += value is not None
        if value in self.words or len(self.words) > MAX_CHOICES:
            return False
        self.words.add(value)
        return True

    @property
    def is_choice(self) -> bool:
        return 0 < len(self.words) <= MAX_CHOICES


class Evidence:
    """Some rows of a table, and what all of them are like."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._rows: list[Sequence[Any]] = []
        self._columns = [_Column() for _ in range(width)]
        self._combinations: set[int] = set()

    def add(self, cells: Sequence[Any]) -> None:
        """Look at a row."""
        self.count += 1
        is_first = self.count <= FIRST_ROWS
        values = [content(cell) for cell in cells]
        is_news = is_first
        for column, value in zip(self._columns, values, strict=True):
            is_news |= column.add(value, None if is_first else cells)
        if not is_news and len(self._combinations) < MOST_COMBINATIONS:
            combination = hash(
                tuple(
                    value if column.is_choice or value is ABSENT else None
                    for column, value in zip(self._columns, values, strict=True)
                )
            )
            is_news = combination not in self._combinations
            self._combinations.add(combination)
        if is_news:
            self._rows.append(cells)

    @property
    def rows(self) -> list[Sequence[Any]]:
        """Rows as they are in the file, that tell what all are like."""
        extremes = [row for column in self._columns for row in (column.low_row, column.high_row) if row is not None]
        return self._rows + extremes

    def is_numeric(self, place: int) -> bool:
        """Whether most of what is in a column are numbers."""
        column = self._columns[place]
        return column.numbers > 0 and 2 * column.numbers >= column.present

    def is_duration(self, place: int) -> bool:
        """Whether a column holds numbers, or durations in hours, minutes and seconds."""
        found = [row[place] for row in self._rows[:ROWS_FOR_DURATIONS] if content(row[place]) is not ABSENT]
        return self.is_numeric(place) or (bool(found) and all(seconds(cell) is not None for cell in found))

    def holds_slips(self, place: int) -> bool:
        """Whether a column holds numbers but for a few words, which are slips then, and no choices."""
        column = self._columns[place]
        return are_slips(column.number_of_words, column.present, len(column.different))

    def present(self, place: int) -> int:
        """In how many rows there is something in a column."""
        return self._columns[place].present
