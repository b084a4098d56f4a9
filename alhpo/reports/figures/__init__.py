"""The figures of a study's report, from its results."""

from __future__ import annotations

from collections.abc import Sequence

from alhpo.reports.figures.agreement import agreement_figure
from alhpo.reports.figures.cost import cost_figure
from alhpo.reports.figures.curves import calibration_figure, curves_figure
from alhpo.reports.figures.figure import StudyFigure
from alhpo.reports.figures.tuned import tuned_figure
from alhpo.reports.figures.validation import validation_figure
from alhpo.reports.formats import Table
from alhpo.reports.part import parts
from alhpo.reports.results import StudyResults

__all__ = ["StudyFigure", "study_figures"]


def study_figures(results: StudyResults, tables: Sequence[Table] = ()) -> list[StudyFigure]:
    """All figures that the results allow, in the order of the report.

    Args:
        results: the study.
        tables: its tables; those of rank correlations are drawn too.
    """
    figures: list[StudyFigure | None] = []
    for part in parts(results):
        figures += [
            curves_figure(part, "strategy"),
            curves_figure(part, "setting"),
            tuned_figure(part),
            calibration_figure(part),
            validation_figure(part),
            cost_figure(part),
        ]
    figures += [agreement_figure(table) for table in tables if table.key.startswith("order-")]
    return [figure for figure in figures if figure is not None]
