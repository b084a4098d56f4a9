"""Learning curves of different starts, held fixed and searched."""

from __future__ import annotations

import numpy as np

from alhpo.reports.figures.curves import curve
from alhpo.reports.figures.figure import WIDTH, ReportFigure, canvas, name_lines, of_part
from alhpo.reports.figures.style import finish, line_styles, short, within
from alhpo.reports.part import Part
from alhpo.reports.searching import Arm, starts


def starts_figure(part: Part) -> ReportFigure | None:
    """A row per strategy, a column for the starts held fixed and for each way of searching, a line
    per start. None for fewer than two starts."""
    found = starts(part)
    names = list(dict.fromkeys(start.fixed.start for start in found))
    if len(names) < 2:
        return None
    looks = line_styles(names)
    strategies = list(dict.fromkeys(start.fixed.strategy for start in found))
    arms = [arm for start in found for arm in (start.fixed, *start.tuned)]
    modes = list(dict.fromkeys(arm.mode for arm in arms))
    columns = min(len(modes), 3)
    lines = -(-len(modes) // columns)
    figure = canvas(WIDTH, 0.5 + 2.3 * lines * len(strategies))
    size = lines * len(strategies), columns
    grid = figure.subplots(*size, squeeze=False, sharex=True, sharey=True)
    labels = np.unique(part.curves["n_labeled"])
    for row, strategy in enumerate(strategies):
        for place, mode in enumerate(modes):
            axes = grid[row * lines + place // columns][place % columns]
            for arm in arms:
                if (arm.strategy, arm.mode) == (strategy, mode):
                    cells = [rows[0]["cell"] for rows in arm.seeds.values()]
                    rows = part.curves[part.curves["cell"].isin(cells)]
                    seeds = part.seeds[strategy, rows["setting"].iloc[0]]
                    curve(axes, rows, "accuracy", 100.0, looks[arm.start], arm.start, seeds)
            title = f"{strategy}, {mode}" if len(strategies) > 1 else mode
            axes.set_title(short(title), fontsize=9.5, loc="left", weight="bold")
            finish(axes, labels)
            axes.label_outer()
        for axes in grid[row * lines + lines - 1][(len(modes) - 1) % columns + 1 :]:
            axes.remove()
    within(grid[0][0], 0, 100)
    name_lines(figure, looks)
    caption = (
        "A panel per strategy and way of searching, a line per start: held fixed, and as what the "
        f"searches begin with. {_bands(arms)} Stars: retrained with what the final search found."
    )
    return of_part(part, "starts", "Different starts, fixed and searched", caption, figure)


def _bands(arms: list[Arm]) -> str:
    most = max(len(arm.seeds) for arm in arms)
    return f"Means over {most} seeds at most; bands are ± one standard deviation."
