"""Tables that do not know where they are shown, and their forms."""

from alhpo.tables.console import to_console
from alhpo.tables.csv import to_csv
from alhpo.tables.html import to_html
from alhpo.tables.latex import LATEX_PACKAGES, to_latex
from alhpo.tables.markdown import markdown_text, to_markdown
from alhpo.tables.table import NOTHING, Rank, Table, Value, measured

__all__ = [
    "LATEX_PACKAGES",
    "NOTHING",
    "Rank",
    "Table",
    "Value",
    "markdown_text",
    "measured",
    "to_console",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
]
