"""How much settings agree on the order of the strategies."""

from __future__ import annotations

import numpy as np

from alhpo.reports import statistics
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, joined


def order_table(part: Part, labels: int) -> Table | None:
    """How much the columns of the accuracy table agree on the order of the strategies.

    Kendall's tau-b of the mean accuracies above the diagonal, Spearman's rho below it.
    """
    columns = [
        column
        for column in part.columns(labels)
        if sum(len(part.values(s, column, labels, "accuracy")) > 0 for s in part.strategies) > 1
    ]
    if len(columns) < 2:
        return None
    means = [
        [
            statistics.summary(list(part.values(s, column, labels, "accuracy").values())).mean
            for s in part.strategies
        ]
        for column in columns
    ]
    rows = []
    for i, first in enumerate(means):
        row = []
        for j, second in enumerate(means):
            measure = statistics.kendall if i < j else statistics.spearman
            both = int(np.isfinite([first, second]).all(axis=0).sum())
            row.append(
                Value() if i == j else measured(measure(first, second), n=both, expected=len(first))
            )
        rows.append(tuple(row))
    agreement = []
    for kind in dict.fromkeys(kind for _, kind in columns):
        same = [i for i, column in enumerate(columns) if column[1] == kind]
        taus = [rows[i][j].value for i in same for j in same if i < j]
        if np.isfinite(taus).any():
            agreement.append(f"{kind} {np.nanmean(taus):.2f}".replace("-", "−"))
    mean = f" Mean τ of two settings: {', '.join(agreement)}." if agreement else ""
    return Table(
        key=part.key("order", labels),
        title=f"{part.title}: rank correlation of the strategies with {labels:,} labels",
        corner="",
        columns=tuple(columns),
        rows=tuple(joined(column) for column in columns),
        values=tuple(rows),
        note=f"Of mean accuracies over {len(part.strategies)} strategies: Kendall's τ-b above the "
        f"diagonal, Spearman's ρ below; 1 is the same order, −1 the reverse.{mean}",
    )
