"""Reports of studies and of folders of runs: tables, statistics, figures, one page."""

from __future__ import annotations

from alhpo.reports.comparison import Comparison, compare_published
from alhpo.reports.findings import CellState, Findings
from alhpo.reports.load import load_findings
from alhpo.reports.published import published_names
from alhpo.reports.report import Report, write_report
from alhpo.reports.tables import report_tables

__all__ = [
    "CellState",
    "Comparison",
    "Findings",
    "Report",
    "compare_published",
    "load_findings",
    "published_names",
    "report_tables",
    "write_report",
]
