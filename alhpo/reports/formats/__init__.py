"""Tables, and the formats in which they are written."""

from alhpo.reports.formats.console import to_console
from alhpo.reports.formats.csv import to_csv
from alhpo.reports.formats.html import to_html
from alhpo.reports.formats.latex import LATEX_PACKAGES, to_latex
from alhpo.reports.formats.markdown import markdown_text, to_markdown
from alhpo.reports.formats.table import NOTHING, Rank, Table, Value, measured

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
