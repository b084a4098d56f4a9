"""Text in tables that people open in a spreadsheet.

A spreadsheet takes a field that begins with one of ``=+-@`` for a formula, so that the name of a
file could run something. Such fields are written with an apostrophe before them, which spreadsheets
show as text; reading takes it away.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_RISKY = ("=", "+", "-", "@", "\t", "\r", "'")


def harmless(value: Any) -> Any:
    """A field that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(_RISKY):
        return f"'{value}"
    return value


def as_typed(text: str) -> str:
    """The field as it was before ``harmless``; fields that people typed stay as they are."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_RISKY) else text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV table that spreadsheets open as it is meant: UTF-8 with its mark, no formulas."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([harmless(value) for value in row] for row in rows)
    return "\ufeff" + file.getvalue()
