"""Scores over numbers of labels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from alhpo.reports.figures.figure import WIDTH, ReportFigure, canvas, name_lines, of_part, panels
from alhpo.reports.figures.style import MOST_MARKERS, finish, line_styles, short, star, within
from alhpo.reports.part import Frame, Part
from alhpo.reports.statistics import summary


def curves_figure(part: Part, panel: Literal["strategy", "setting"]) -> ReportFigure | None:
    """Accuracies in a panel per strategy with a line per setting, or the other way round."""
    curves, settings = part.curves, part.shown("setting")
    if not curves["accuracy"].notna().any() or (panel == "strategy" and len(settings) < 2):
        return None
    line = "setting" if panel == "strategy" else "strategy"
    names, looks = part.shown(panel), line_styles(part.shown(line))
    figure, grid = panels(len(names))
    for axes, name in zip(grid, names, strict=True):
        rows = curves[curves[panel] == name]
        for other, style in looks.items():
            place = (name, other) if panel == "strategy" else (other, name)
            here = rows[rows[line] == other]
            curve(axes, here, "accuracy", 100.0, style, other, part.seeds[place])
        axes.set_title(short(name), fontsize=9.5, loc="left", weight="bold")
        finish(axes, np.unique(curves["n_labeled"]))
        axes.label_outer()
    within(grid[0], 0, 100)
    name_lines(figure, looks)
    whose, caption = "strategies", "A line per strategy."
    if panel == "strategy":
        whose, caption = "settings", "A panel per strategy, a line per setting."
    elif len(settings) > 1:
        caption = "A panel per setting, a line per strategy."
    finals = " Stars: retrained with what the last search found."
    caption = f"{caption} {bands(part)}{finals * bool((curves['kind'] == 'final').any())}"
    return of_part(part, f"curves-by-{panel}", f"Learning curves of the {whose}", caption, figure)


def calibration_figure(part: Part) -> ReportFigure | None:
    """A row per setting, a column per measure."""
    curves, settings, looks = (
        part.curves,
        part.shown("setting"),
        line_styles(part.shown("strategy")),
    )
    titles = {"ece": "ECE (%)", "brier": "Brier score"}
    measures = [name for name in titles if curves[name].notna().any()]
    if not measures:
        return None
    figure = canvas(WIDTH, 0.5 + 2.1 * len(settings))
    size = len(settings), len(measures)
    grid = figure.subplots(*size, squeeze=False, sharex=True, sharey="col")
    for row, (line, setting) in enumerate(zip(grid, settings, strict=True), start=1):
        here = curves[(curves["setting"] == setting) & (curves["kind"] == "cycle")]
        for axes, name in zip(line, measures, strict=True):
            for strategy, style in looks.items():
                rows = here[here["strategy"] == strategy]
                if name == "ece":  # diverged training counts as the uniform prediction
                    rows = rows[~rows["diverged"].astype(bool)]
                scale = 100.0 if name == "ece" else 1.0
                curve(axes, rows, name, scale, style, strategy, part.seeds[strategy, setting])
            finish(axes, np.unique(curves["n_labeled"]), titles[name])
            heading = ": ".join(filter(None, [setting, titles[name]]))
            axes.set_title(short(heading), fontsize=9.5, loc="left", weight="bold")
            if row < len(settings):
                axes.set_xlabel("")
    for axes in grid[0]:
        within(axes, 0, None)
    name_lines(figure, looks)
    caption = (
        "Expected calibration error and Brier score on the evaluation split; lower is better. "
        f"{bands(part)}"
    )
    return of_part(part, "calibration", "Calibration", caption, figure)


def bands(part: Part) -> str:
    """What a caption says of the seeds."""
    fewest, most = min(part.seeds.values()), max(part.seeds.values())
    if most < 2:
        return "One seed."
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return (
        f"Means over {count} seeds; bands are ± one standard deviation; hollow markers are "
        "means over fewer seeds than there will be."
    )


def curve(
    axes: Axes,
    rows: Frame,
    column: str,
    scale: float,
    style: dict[str, Any],
    name: str,
    seeds: int,
) -> None:
    """Mean and band over seeds of a column, over labels; hollow where fewer than ``seeds``."""
    rows = rows.dropna(subset=[column])
    cycles = rows[rows["kind"] == "cycle"].groupby("n_labeled")[column]
    points = [(labels, summary(scale * values)) for labels, values in cycles]
    if points:
        x = np.array([labels for labels, _ in points])
        mean = np.array([point.mean for _, point in points])
        std = np.array([point.std for _, point in points])
        counts = np.array([point.n for _, point in points])
        shown = np.linspace(0, len(x) - 1, min(len(x), MOST_MARKERS)).round().astype(int)
        axes.plot(x, mean, **style, markevery=shown.tolist(), label=short(name))
        axes.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.13, linewidth=0)
        fewer = [i for i in shown if counts[i] < seeds]
        if fewer:
            hollow = style | {
                "linestyle": "none",
                "markerfacecolor": "white",
                "markeredgecolor": style["color"],
                "markeredgewidth": 1,
            }
            axes.plot(x[fewer], mean[fewer], **hollow)
    finals = rows[rows["kind"] == "final"].groupby("n_labeled")[column]
    for labels, values in finals:
        axes.plot([labels], [scale * values.mean()], **star(style["color"]), zorder=5)
