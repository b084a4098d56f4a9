"""Tables on a terminal."""

from __future__ import annotations

from rich import table as rich
from rich.text import Text

from alhpo.reports.formats.table import Table


def to_console(table: Table) -> rich.Table:
    """What rich prints: one line of column names, and the best values in bold."""
    shown = rich.Table(title=Text(table.title), caption=Text(table.note) if table.note else None)
    for j, name in enumerate((table.corner, *table.joined_columns)):
        shown.add_column(Text(name), justify="right" if j else "left")
    for name, row in zip(table.rows, table.values, strict=True):
        values = (Text(one.plain, "bold" if one.rank == "best" else "") for one in row)
        shown.add_row(Text(name), *values)
    return shown
