"""The figures of a report, from the findings."""

from __future__ import annotations

from collections.abc import Sequence

from alhpo.reports.figures.agreement import agreement_figure
from alhpo.reports.figures.arms import arms_figure
from alhpo.reports.figures.cost import cost_figure
from alhpo.reports.figures.curves import calibration_figure, curves_figure
from alhpo.reports.figures.figure import ReportFigure
from alhpo.reports.figures.searches import gain_figure, hyperparameters_figure
from alhpo.reports.figures.starts import starts_figure
from alhpo.reports.figures.tuned import tuned_figure
from alhpo.reports.figures.validation import validation_figure
from alhpo.reports.findings import Findings
from alhpo.reports.formats import Table
from alhpo.reports.part import parts

__all__ = ["ReportFigure", "report_figures"]


def report_figures(findings: Findings, tables: Sequence[Table] = ()) -> list[ReportFigure]:
    """All figures that the findings allow, in the order of the report.

    Args:
        findings: what was recorded.
        tables: of the findings; those of rank correlations are drawn too.
    """
    figures: list[ReportFigure | None] = []
    for part in parts(findings):
        figures += [
            curves_figure(part, "strategy"),
            curves_figure(part, "setting"),
            tuned_figure(part),
            starts_figure(part),
            calibration_figure(part),
            validation_figure(part),
            gain_figure(part),
            hyperparameters_figure(part),
            arms_figure(part),
            cost_figure(part),
        ]
    figures += [agreement_figure(table) for table in tables if table.key.startswith("order-")]
    return [figure for figure in figures if figure is not None]
