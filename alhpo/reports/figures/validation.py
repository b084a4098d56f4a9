"""What searches saw, and the test of the same configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from alhpo.reports.figures.figure import ReportFigure, legend, of_part, panels
from alhpo.reports.figures.style import COLOURS, MARKERS, bare, plain
from alhpo.reports.part import Part
from alhpo.reports.statistics import spearman, summary
from alhpo.reports.tables.searches import FEWEST_TRIALS


def validation_figure(part: Part) -> ReportFigure | None:
    """Every configuration that a tuning trained to the end, a panel per scheme and metric."""
    trials = part.trials.dropna(subset=["test_accuracy"])
    if not trials["metric"].notna().any():
        return None
    groups = ["validation_scheme", "metric_name"]
    judged = list(trials.groupby(groups, sort=False))
    budgets = sorted(trials["n_labeled"].unique())
    figure, grid = panels(len(judged), share=False, height=3.1)
    for axes, ((scheme, metric), rows) in zip(grid, judged, strict=True):
        for i, budget in enumerate(budgets):
            here = rows[rows["n_labeled"] == budget]
            chosen = here[here["selected"].astype(bool)]
            x, y = 100 * here["metric"], 100 * here["test_accuracy"]
            look: dict[str, Any] = {"s": 16, "color": COLOURS[1 + i % 6], "linewidth": 0}
            axes.scatter(x, y, **look, marker=MARKERS[i % len(MARKERS)], alpha=0.55)
            ring: dict[str, Any] = {"s": 42, "facecolor": "none", "linewidth": 0.8}
            x, y = 100 * chosen["metric"], 100 * chosen["test_accuracy"]
            axes.scatter(x, y, **ring, edgecolor="black", zorder=4)
        if metric == "accuracy":
            both = rows[["metric", "test_accuracy"]]
            low, high = 100 * both.min().max(), 100 * both.max().min()
            axes.plot([low, high], [low, high], color="0.6", linewidth=0.8, zorder=1)
        within = [
            spearman(search["metric"], search["test_accuracy"])
            for _, search in rows.groupby("cell", sort=False)
            if len(search) >= FEWEST_TRIALS
        ]
        rho = summary(within)
        spread = f" ± {rho.std:.2f}" if np.isfinite(rho.std) else ""
        agreement = f"ρ = {rho.mean:.2f}{spread}, " if rho.n else ""
        title = f"{scheme}\n{agreement}{len(rows):,} trials"
        axes.set_title(plain(title), fontsize=9, loc="left", weight="bold")
        axes.set_xlabel(f"validation {metric} (%)")
        axes.set_ylabel("test accuracy (%)")
        bare(axes)
    handles = [
        Line2D([], [], color=COLOURS[1 + i % 6], marker=MARKERS[i % len(MARKERS)],
               linestyle="none", label=f"{budget:,} labels")
        for i, budget in enumerate(budgets)
    ]  # fmt: skip
    ring = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}
    legend(figure, [*handles, Line2D([], [], color="black", label="chosen", **ring)])
    caption = (
        "Every configuration that a tuning trained to the end: what the search saw, and the "
        "accuracy on the evaluation split, which no choice depends on. Ringed: the configurations "
        "chosen. ρ is Spearman's rank correlation within a search, its mean ± standard deviation "
        "over the searches. The grey line, if any, is equality."
    )
    title = "Validation and test of the configurations that were tuned over"
    return of_part(part, "validation-and-test", title, caption, figure)
