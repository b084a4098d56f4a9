"""Weights of the strategies that another strategy asks, over numbers of labels."""

from __future__ import annotations

import numpy as np

from alhpo.reports.figures.curves import bands, curve
from alhpo.reports.figures.figure import ReportFigure, name_lines, of_part, panels
from alhpo.reports.figures.style import finish, line_styles, short, within
from alhpo.reports.part import Part, joined
from alhpo.reports.tables.arms import QUANTITIES


def arms_figure(part: Part) -> ReportFigure | None:
    """Two panels per strategy and setting, a line per strategy that was asked."""
    frame = part.frame(part.findings.arms)
    if frame.empty:
        return None
    frame = frame.assign(kind="cycle")
    looks = line_styles(list(dict.fromkeys(frame["arm"])))
    groups = list(frame.groupby(["strategy", "setting"], sort=False))
    figure, grid = panels(2 * len(groups), columns=2)
    places = [(names, rows, q) for names, rows in groups for q in QUANTITIES]
    for axes, (names, rows, quantity) in zip(grid, places, strict=True):
        for arm, style in looks.items():
            here = rows[rows["arm"] == arm]
            curve(axes, here, quantity, 100.0, style, arm, part.seeds[names])
        axes.set_title(short(joined(names)), fontsize=9.5, loc="left", weight="bold")
        finish(axes, np.unique(frame["n_labeled"]), f"{QUANTITIES[quantity]} (%)")
    within(grid[0], 0, 100)
    name_lines(figure, looks)
    caption = (
        "Left: the mean weight of each strategy over the images that any of them chose. Right: the "
        "share of the images labelled next that it had chosen; an image may be the choice of "
        f"several. {bands(part)}"
    )
    return of_part(part, "arms", "The strategies that were asked", caption, figure)
