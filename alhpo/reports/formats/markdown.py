"""Tables in GitHub's Markdown."""

from __future__ import annotations

import html
import re

from alhpo.reports.formats.table import Rank, Table, Value

LEGEND: dict[Rank, str] = {
    "best": "bold: best of a column",
    "second": "italic: second",
    "worst": "▼: worst",
}
STYLES: dict[Rank, str] = {"best": "**{}**", "second": "*{}*", "worst": "{} ▼"}


def to_markdown(table: Table) -> str:
    """A heading, a table of GitHub's kind, and the note.

    It has one line of column names, so that the levels are joined. The best value of a column is
    bold, the second italic, the worst has a ▼.
    """
    head = [markdown_text(name) for name in (table.corner, *table.joined_columns)]
    lines = [head, ["---", *["---:"] * len(table.columns)]]
    for name, row in zip(table.rows, table.values, strict=True):
        lines.append([markdown_text(name), *map(_value, row)])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    legend = "; ".join(text for rank, text in LEGEND.items() if rank in table.ranks)
    legend = f" {legend[0].upper()}{legend[1:]}." if legend else ""
    note = f"{markdown_text(table.note)}{legend}".strip()
    return "\n\n".join(filter(None, [f"### {markdown_text(table.title)}", body, note]))


def markdown_text(text: str) -> str:
    """Text in which Markdown sees no markup, on one line."""
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", line).replace("~", "&#126;")


def _value(value: Value) -> str:
    text = markdown_text(value.text)
    if value.rank in STYLES:
        text = STYLES[value.rank].format(text)
    note = f" ({markdown_text(value.note)})" if value.note else ""
    return text + markdown_text(value.mark) + note
