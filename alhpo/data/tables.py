"""Tables that people and tools write: CSV or Parquet, with named columns."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alhpo.base.errors import DataError

#: Endings of the files.
TABLES = (".csv", ".parquet")
#: Names of the columns, in any case; the first that is there counts.
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "id")
LABEL_COLUMNS = ("label", "class", "target", "category", "labels", "y")


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        path: the file.
        columns: the fields of each column, by its name as written.
        lines: the line in the file of each row.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int]

    def column(self, known: Sequence[str]) -> list[Any] | None:
        """The first column with one of these names in any case; None if there is none."""
        by_lower = {name.lower(): name for name in self.columns}
        name = next((by_lower[name] for name in known if name in by_lower), None)
        return None if name is None else self.columns[name]


def read_table(path: Path) -> Table:
    """Read a table. Fields of CSV are separated by comma, semicolon or tab.

    Raises:
        DataError: it cannot be read, is empty, or has lines or columns that do not fit.
    """
    if path.suffix.lower() == ".parquet":
        columns = _parquet(path)
        return Table(path, columns, list(range(1, 1 + max(map(len, columns.values()), default=0))))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, dialect=_dialect(file))
            filled = [(reader.line_num, line) for line in reader if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV table: {error}.") from error
    if not filled:
        raise DataError(f"{path} is empty; expected a first line with the names of the columns.")
    head = [name.strip() for name in filled[0][1]]
    for number, line in filled[1:]:
        if len(line) != len(head):
            raise DataError(
                f"{path}, line {number} has {len(line)} fields; expected {len(head)}: "
                f"{', '.join(head)}."
            )
    names = [name.lower() for name in head if name]
    if len(names) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns called {twice}; expected different names.")
    columns = {name: [line[place] for _, line in filled[1:]] for place, name in enumerate(head)}
    return Table(path, columns, [number for number, _ in filled[1:]])


def as_text(value: Any) -> str:
    """A field as text: "3" for 3 and 3.0, "" for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def as_labels(column: Sequence[Any]) -> list[str]:
    """Labels as texts, "" for none. "3.0" is 3, if all are whole numbers: so do tools write
    them."""
    texts = [as_text(value) for value in column]
    if all(re.fullmatch(r"-?[0-9]+(\.0+)?", text) for text in texts if text):
        return [text.partition(".")[0] for text in texts]
    return texts


def by_name(text: str) -> tuple[bool, int, str]:
    """Key to sort classes by: whole numbers by value, before other texts by letter."""
    number = text.removeprefix("-")
    whole = number.isascii() and number.isdigit()
    return (not whole, int(text) if whole else 0, text)


def _dialect(file: Any) -> Any:
    """Fields are separated by the first of ``,;`` and tab that stands in the first line."""
    head = file.readline()
    file.seek(0)

    class Dialect(csv.excel):
        delimiter = next((mark for mark in ",;\t" if mark in head), ",")

    return Dialect


def _parquet(table: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{table}: Parquet tables need pyarrow: pip install 'alhpo[parquet]'. Or write the "
            "table as CSV."
        ) from error
    try:
        return parquet.read_table(table).to_pydict()
    except Exception as error:
        raise DataError(f"{table} cannot be read as a Parquet table: {error}.") from error
