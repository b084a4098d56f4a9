"""The tables of a study's report, from its results."""

from __future__ import annotations

from alhpo.studies.report.rendering import StudyTable
from alhpo.studies.report.results import StudyResults


def study_tables(results: StudyResults) -> list[StudyTable]:
    """All tables that the results allow, in the order of the report: accuracies, rank
    correlations, gaps to random, costs, calibration, validation, hyperparameters found."""
    raise NotImplementedError
