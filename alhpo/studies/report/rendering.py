"""A table that does not know where it is shown, and its forms: Markdown, LaTeX, CSV, HTML."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class StudyTable:
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

    def to_markdown(self) -> str:
        """A heading, a table of GitHub's kind, and the note."""
        raise NotImplementedError

    def to_latex(self) -> str:
        """A ``table`` environment; needs booktabs, multirow-free, and xcolor with ``table``."""
        raise NotImplementedError

    def to_csv(self) -> str:
        """Long form with a header: one line per value that is there."""
        raise NotImplementedError

    def to_html(self) -> str:
        """A ``table`` element; ranks are classes ``best second third worst`` of its cells."""
        raise NotImplementedError
