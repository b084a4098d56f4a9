"""Active learning, and the tuning of its labelled pools afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from alhpo.reports.figures.figure import WIDTH, ReportFigure, canvas, legend, of_part
from alhpo.reports.figures.style import MARKERS, bare, line_styles, short
from alhpo.reports.findings import ACTIVE
from alhpo.reports.part import Frame, Part
from alhpo.reports.statistics import summary


def tuned_figure(part: Part) -> ReportFigure | None:
    """Accuracies before and after, a panel per number of labels, a line per run."""
    if not part.tuned["accuracy"].notna().any():
        return None
    budgets = sorted(part.tuned["n_labeled"].unique())
    strategies = part.shown("strategy")
    colours = {name: style["color"] for name, style in line_styles(strategies).items()}
    slots: list[tuple[str, str | None]] = []
    for setting in part.shown("setting"):
        slots += [(setting, None)] * bool(setting)
        slots += [(setting, name) for name in strategies if part.seeds[name, setting]]
    columns = min(len(budgets), 2)
    rows = -(-len(budgets) // columns)
    here = set(part.tuned["tuning"])
    tunings = [name for name in part.findings.tunings if name in here]
    slot = 0.095 * (1 + len(tunings))  # inches, so that no marker hides another
    figure = canvas(WIDTH, rows * (0.9 + slot * len(slots)) + 0.3)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    marks = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(tunings)}
    for axes, budget in zip(grid, budgets, strict=False):
        before = part.curves
        before = before[(before["n_labeled"] == budget) & (before["kind"] == "cycle")]
        after = part.tuned[part.tuned["n_labeled"] == budget]
        for place, (setting, strategy) in enumerate(slots):
            if strategy is not None:
                point = {"setting": setting, "strategy": strategy}
                _dumbbell(axes, place, before, after, point, colours[strategy], marks)
        axes.set_title(f"{budget:,} labels", fontsize=9.5, loc="left", weight="bold")
        axes.set_xlabel("test accuracy (%)")
        bare(axes)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.label_outer()
    for axes in grid[len(budgets) :]:
        axes.remove()
    names = [short(setting if strategy is None else strategy) for setting, strategy in slots]
    grid[0].set_yticks(range(len(slots)), names)
    grid[0].set_ylim(len(slots) - 0.4, -0.6)
    for axes in grid[: len(budgets) : columns]:
        for (_, strategy), text in zip(slots, axes.get_yticklabels(), strict=True):
            text.set_fontweight("bold" if strategy is None else "normal")
    grey: dict[str, Any] = {"color": "0.35", "linestyle": "none"}
    handles = [Line2D([], [], **grey, marker="o", markerfacecolor="white", label=ACTIVE)]
    handles += [
        Line2D([], [], **grey, marker=mark, label=short(name)) for name, mark in marks.items()
    ]
    legend(figure, handles)
    caption = (
        "Hollow: the model at the end of active learning with that many labels. Filled: the same "
        "labels after the tuning of the hyperparameters. Means over seeds; bars are ± one standard "
        "deviation."
    )
    return of_part(part, "tuned", "Active learning and tuning afterwards", caption, figure)


def _dumbbell(
    axes: Axes,
    place: int,
    before: Frame,
    after: Frame,
    point: dict[str, str],
    colour: str,
    marks: dict[str, str],
) -> None:
    def of(rows: Frame) -> Frame:
        for column, value in point.items():
            rows = rows[rows[column] == value]
        return 100 * rows["accuracy"].astype(float)

    start = summary(of(before))
    ends = [(mark, summary(of(after[after["tuning"] == name]))) for name, mark in marks.items()]
    drawn = [one.mean for _, one in [("o", start), *ends] if one.n]
    if drawn:
        axes.plot([min(drawn), max(drawn)], [place, place], color=colour, alpha=0.35, linewidth=2.5)
    points = [("o", start, "white"), *((m, one, colour) for m, one in ends)]
    spread = min(0.4 * (len(points) - 1), 0.8)
    for k, (mark, one, face) in enumerate(points):
        if one.n:
            error = one.std if np.isfinite(one.std) else 0.0
            axes.errorbar(
                one.mean,
                place + spread * (k / (len(points) - 1) - 0.5),
                xerr=error,
                color=colour,
                marker=mark,
                markerfacecolor=face,
                markersize=5.5,
                elinewidth=0.8,
                zorder=3,
            )
