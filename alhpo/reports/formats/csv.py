"""Tables as one list of values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from alhpo.reports.formats.table import NOTHING, Table


def to_csv(tables: Sequence[Table]) -> str:
    """The values of tables with a header, one line per value that is there.

    The columns: ``table`` (the key), ``row``, ``column_1`` and so on from the outermost level in,
    ``value``, ``std``, ``n``, ``rank``, ``mark``, ``note``, ``text``. Numbers have all their
    digits; missing values are empty.
    """
    levels = [f"column_{i + 1}" for i in range(max((table.depth for table in tables), default=0))]
    about = ["value", "std", "n", "rank", "mark", "note", "text"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["table", "row", *levels, *about])
    for table in tables:
        rest = [""] * (len(levels) - table.depth)
        for row, values in zip(table.rows, table.values, strict=True):
            for names, one in zip(table.columns, values, strict=True):
                if one.text != NOTHING:
                    numbers = ["" if math.isnan(x) else float(x) for x in (one.value, one.std)]
                    words = [one.n or "", one.rank or "", one.mark, one.note, one.text]
                    writer.writerow([table.key, row, *names, *rest, *numbers, *words])
    return buffer.getvalue()
