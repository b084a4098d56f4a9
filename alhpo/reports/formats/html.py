"""Tables as elements of a page."""

from __future__ import annotations

from html import escape

from alhpo.reports.formats.table import Table, Value


def to_html(table: Table) -> str:
    """A ``table`` element of the class "study", without title and note.

    Ranks are classes ``best second third worst`` of its cells, marks are superscripts, notes
    are of the class "note". The style ``--letters`` is the length of the longest name of a row.
    """
    letters = max(map(len, (table.corner, *table.rows)))
    lines = [
        f'<table class="study" id="{escape(table.key)}" aria-label="{escape(table.title)}"'
        f' style="--letters: {letters}">',
        "<thead>",
    ]
    depth = len(table.levels)
    corner = f'<th scope="col" rowspan="{depth}">{escape(table.corner)}</th>'
    if not table.corner:
        corner = f'<td rowspan="{depth}"></td>'
    for level in table.levels:
        names = "".join(
            f'<th scope="{"col" if width == 1 else "colgroup"}" colspan="{width}">'
            f"{escape(name)}</th>"
            for name, width in table.spans(level)
        )
        lines.append(f"<tr>{corner}{names}</tr>")
        corner = ""
    lines += ["</thead>", "<tbody>"]
    for name, row in zip(table.rows, table.values, strict=True):
        cells = "".join(map(_value, row))
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    lines += ["</tbody>", "</table>"]
    return "\n".join(lines)


def _value(value: Value) -> str:
    kind = f' class="{value.rank}"' if value.rank else ""
    mark = f"<sup>{escape(value.mark)}</sup>" if value.mark else ""
    note = f' <span class="note">({escape(value.note)})</span>' if value.note else ""
    return f"<td{kind}>{escape(value.text)}{mark}{note}</td>"
