"""The tables of a report, from the findings."""

from __future__ import annotations

from alhpo.reports.findings import Findings
from alhpo.reports.formats import Table
from alhpo.reports.part import parts
from alhpo.reports.tables.arms import arms_table
from alhpo.reports.tables.cost import cost_table
from alhpo.reports.tables.gains import gain_table
from alhpo.reports.tables.learning import learning_table
from alhpo.reports.tables.order import order_table
from alhpo.reports.tables.scores import gap_table, score_table
from alhpo.reports.tables.searches import found_table, regret_table, validation_table
from alhpo.reports.tables.tuning import tuning_table

__all__ = ["report_tables"]


def report_tables(findings: Findings) -> list[Table]:
    """All tables that the findings allow, in the order of the report.

    For each data set and model: accuracies at the numbers of labels that were tuned at and the
    last, and over labels; there, rank correlations of the strategies and gaps to random; scores in
    which all classes count equally, and calibration, at the last; what searching brought; what was
    spent; how well validation told the test; what the searches gained, and the hyperparameters that
    were found; and what the strategies did that others asked.
    """
    tables: list[Table | None] = []
    for part in parts(findings):
        labels = part.labels
        tables += [score_table(part, n, "accuracy") for n in labels]
        tables += [learning_table(part), *(order_table(part, n) for n in labels)]
        tables += [gap_table(part, n) for n in labels]
        others = ("balanced_accuracy", "macro_f1", "ece", "brier", "nll")
        tables += [score_table(part, n, score) for n in labels[-1:] for score in others]
        tables += [tuning_table(part), cost_table(part), validation_table(part), regret_table(part)]
        tables += [gain_table(part)]
        tables += [found_table(part, n) for n in labels]
        tables += [arms_table(part)]
    return [table for table in tables if table is not None]
