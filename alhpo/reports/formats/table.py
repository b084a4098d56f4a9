"""Values in rows and columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Rank = Literal["best", "second", "third", "worst"]

NOTHING = "–"


@dataclass(frozen=True)
class Value:
    """What stands in one cell of a table.

    Attributes:
        text: as it is printed; ``NOTHING`` where there is no value.
        value: the number itself, in the table's unit; NaN where there is none.
        std: its standard deviation; NaN where there is none.
        n: how many seeds or searches it is of; 0 where that has no meaning.
        rank: its rank in the column where the column is ranked, as the paper colours it.
        mark: signs of significance, which the table's note explains.
        note: what is special about it, such as fewer seeds than the others ("n=2").
    """

    text: str = NOTHING
    value: float = math.nan
    std: float = math.nan
    n: int = 0
    rank: Rank | None = None
    mark: str = ""
    note: str = ""

    @property
    def plain(self) -> str:
        """Text, marks and note without any markup."""
        return f"{self.text}{self.mark}" + (f" ({self.note})" if self.note else "")


def measured(
    mean: float,
    std: float = math.nan,
    n: int = 0,
    *,
    digits: int = 2,
    sign: str = "",
    expected: int = 0,
) -> Value:
    """The value "mean ± std", or nothing where the mean is not finite.

    Args:
        mean: in the table's unit.
        std: left out where it is not finite.
        n: how many values it is of.
        digits: decimals of both.
        sign: "+" to print that of positive means.
        expected: how many there should be; fewer are noted.
    """
    if not math.isfinite(mean):
        return Value()
    text = f"{mean:{sign}.{digits}f}".replace("-", "−")
    if math.isfinite(std):
        text += f" ± {std:.{digits}f}"
    return Value(text, mean, std, n, note=f"n={n}" if n < expected else "")


@dataclass(frozen=True)
class Table:
    """Values in rows and columns under names of one or more levels.

    Attributes:
        key: what kind of table it is and of what, unique in a report: letters, digits, hyphens.
        title: in words.
        corner: what the rows are, such as "strategy".
        columns: names of each column from the outermost level in, all of the same length.
        rows: names of the rows.
        values: one tuple per row, with one value per column.
        note: what a reader must know, as sentences; "" for nothing.

    Raises:
        ValueError: rows, columns and values do not fit each other.
    """

    key: str
    title: str
    corner: str
    columns: tuple[tuple[str, ...], ...]
    rows: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        fits = len(self.values) == len(self.rows)
        fits &= all(len(row) == len(self.columns) for row in self.values)
        if not fits or len({len(names) for names in self.columns}) > 1:
            raise ValueError(
                f"{self.key}: {len(self.rows)} rows and {len(self.columns)} columns do not fit "
                f"rows of {[len(row) for row in self.values]} values."
            )

    @property
    def depth(self) -> int:
        """Levels of column names."""
        return len(self.columns[0]) if self.columns else 1

    @property
    def levels(self) -> list[int]:
        """Those at which any column has a name."""
        return [i for i in range(self.depth) if any(names[i] for names in self.columns)]

    @property
    def joined_columns(self) -> tuple[str, ...]:
        """The names of the columns with their levels in one line."""
        return tuple(", ".join(filter(None, names)) for names in self.columns)

    @property
    def ranks(self) -> set[Rank]:
        """The ranks that any of its values has."""
        return {value.rank for row in self.values for value in row if value.rank}

    def spans(self, level: int) -> Iterator[tuple[str, int]]:
        """Names at a level of columns, and how many columns each is over."""
        for names, group in itertools.groupby(self.columns, lambda names: names[: level + 1]):
            yield names[-1], len(list(group))

    def part(self, rows: slice, columns: slice = slice(None)) -> Table:
        """Some of its rows and columns."""
        return replace(
            self,
            columns=self.columns[columns],
            rows=self.rows[rows],
            values=tuple(values[columns] for values in self.values[rows]),
        )

    def upright(self) -> Table:
        """Its columns as rows; ranks stay those of its columns."""
        return replace(
            self,
            corner="",
            columns=tuple((name,) for name in self.rows),
            rows=self.joined_columns,
            values=tuple(zip(*self.values, strict=True)),
        )
