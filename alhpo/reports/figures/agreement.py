"""Rank correlations as colours."""

from __future__ import annotations

import numpy as np

from alhpo.reports.figures.figure import WIDTH, ReportFigure, canvas, finished
from alhpo.reports.figures.style import SMALL, short
from alhpo.reports.formats import Table

MOST_UPRIGHT = 9  # letters of a name below a column


def agreement_figure(table: Table) -> ReportFigure:
    """The table of rank correlations as a heat map."""
    values = np.array([[one.value for one in row] for row in table.values], float)
    np.fill_diagonal(values, np.nan)
    rows, columns = values.shape
    names = ["\n".join(short(name) for name in levels if name) for levels in table.columns]
    longest = max(len(line) for name in names for line in name.split("\n"))
    upright = longest <= MOST_UPRIGHT
    below = 0 if upright else 0.075 * longest
    figure = canvas(min(WIDTH, 2.4 + 0.72 * columns), 1.3 + 0.42 * rows + below)
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), names, rotation=0 if upright else 90)
    axes.set_yticks(range(rows), [short(name) for name in table.rows])
    axes.tick_params(length=0, labelsize=SMALL)
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        colour = "white" if np.isfinite(value) and abs(value) > 0.5 else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=colour)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(picture, ax=axes, label="rank correlation", shrink=0.9)
    caption = (
        "Kendall's τ above the diagonal, Spearman's ρ below it: 1 is the same order of the "
        "strategies by mean accuracy, −1 the reverse one."
    )
    return finished(table.key.replace("order", "agreement", 1), table.title, caption, figure)
